"""Two clones that share photos through DVC remotes, each over its real protocol on loopback."""

import itertools
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stores
import yaml
from repository import Run, change, copy_project, digests, runner, stages_run
from stores import Store

pytestmark = pytest.mark.usefixtures("forked_commands")
FIRST = ["crawl", "clean", "split"]
PHOTOS = 12  # of each gem


@pytest.fixture(scope="module")
def add_photos(draw: Callable[..., Any]) -> Callable[[Path, int], None]:
    """Write photos of one gem, no two of them similar, to a folder."""
    seeds = itertools.count()

    def photos(folder: Path, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for seed in itertools.islice(seeds, count):
            draw(seed).save(folder / f"{seed}.jpg")

    return photos


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, add_photos: Callable[[Path, int], None]) -> Path:
    """A repository whose first stages have run on a folder of photos that DVC tracks."""
    folder = tmp_path_factory.mktemp("team") / "first"
    copy_project(folder)
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    stages = {name: pipeline["stages"][name] for name in FIRST}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")
    (folder / "dvc.lock").unlink()
    change(folder, crawl={"source": "folder", "folder": "stones"})
    for gem in ("Ruby", "Opal"):
        add_photos(folder / "stones" / gem, PHOTOS)
    run = runner(folder)
    run("git", "init", "-q", "-b", "main")
    run("dvc", "add", "-q", "stones")
    assert stages_run(run("dvc", "repro")) == FIRST
    run("git", "add", "-A")
    run("git", "commit", "-qm", "photos")
    return folder


@dataclass(frozen=True)
class Member:
    """A team member: a clone of the team's git repository, and a home folder without keys and settings."""

    folder: Path

    @property
    def run(self) -> Run:
        home = self.folder.with_name(f"{self.folder.name}-home")
        home.mkdir(exist_ok=True)
        return runner(self.folder, HOME=str(home))

    def set(self, options: dict[str, str], *where: str) -> None:
        for name, value in options.items():
            self.run("dvc", "remote", "modify", *where, "shared", name, value)

    def push_photos(self, add_photos: Callable[[Path, int], None]) -> None:
        """Push five photos on a branch of the member's name."""
        add_photos(self.folder / "stones" / "Ruby", 5)
        self.run("git", "switch", "-qc", self.folder.name)
        self.run("dvc", "add", "-q", "stones")
        self.run("git", "commit", "-qam", "five rubies")
        self.run("dvc", "push", "-q")
        self.run("git", "push", "-q", "origin", "HEAD")


@pytest.fixture
def alice(first: Path, tmp_path: Path) -> Member:
    """The member with the first photos, and a bare repository for the team."""
    runner(tmp_path)("git", "clone", "-q", "--bare", first, "origin.git")
    shutil.copytree(first, tmp_path / "alice")
    member = Member(tmp_path / "alice")
    member.run("git", "remote", "add", "origin", tmp_path / "origin.git")
    return member


def clone(alice: Member, name: str) -> Member:
    """Clone the team's git repository for another member."""
    folder = alice.folder.with_name(name)
    runner(folder.parent)("git", "clone", "-q", "origin.git", folder)
    return Member(folder)


@pytest.mark.parametrize("kind", [stores.ssh, stores.s3, stores.webdav])
def test_two_clones_share_photos(
    kind: Callable[[Path], AbstractContextManager[Store]],
    alice: Member,
    add_photos: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    (tmp_path / "server").mkdir()
    with kind(tmp_path / "server") as store:
        alice.run("dvc", "remote", "add", "--default", "shared", store.url)
        alice.set(store.shared)
        alice.set(store.own, "--local")
        alice.run("dvc", "push")
        alice.run("git", "commit", "-qam", "a remote")
        alice.run("git", "push", "-q", "origin", "main")

        bob = clone(alice, "bob")
        bob.set(store.own | store.wrong, "--local")
        assert "ERROR" in bob.run("dvc", "pull", ok=False)
        assert not digests(bob.folder, "data", "stones")
        bob.set({name: store.own[name] for name in store.wrong}, "--local")
        bob.run("dvc", "pull")
        assert digests(bob.folder, "data", "stones") == digests(alice.folder, "data", "stones")

        bob.push_photos(add_photos)
        alice.run("git", "fetch", "-q")
        alice.run("git", "switch", "-q", "bob")
        alice.run("dvc", "pull", "-q", "stones")
        assert digests(alice.folder, "stones") == digests(bob.folder, "stones")

    published = alice.run("git", "log", "--all", "--patch", "--", ".dvc")
    assert store.url in published
    assert store.secret not in published


def test_photos_that_two_members_add_at_once_are_merged(
    alice: Member, add_photos: Callable[[Path, int], None], tmp_path: Path
) -> None:
    alice.run("dvc", "remote", "add", "--default", "shared", tmp_path / "store")
    alice.run("git", "commit", "-qam", "a remote")
    alice.run("dvc", "push", "-q")
    alice.run("git", "push", "-q", "origin", "main")
    bob = clone(alice, "bob")
    bob.run("dvc", "pull", "-q")
    bob.push_photos(add_photos)
    add_photos(alice.folder / "stones" / "Opal", 5)
    alice.run("dvc", "add", "-q", "stones")
    alice.run("dvc", "repro")
    alice.run("git", "commit", "-qam", "five opals")
    both = digests(alice.folder, "stones") | digests(bob.folder, "stones")

    driver = "dvc git-hook merge-driver --ancestor %O --our %A --their %B"
    alice.run("git", "config", "merge.dvc.driver", driver)
    alice.run("git", "fetch", "-q", "origin")
    alice.run("dvc", "fetch", "--all-commits", "stones")
    alice.run("git", "merge", "-q", "origin/bob", "-m", "both")
    alice.run("dvc", "checkout", "-q", "stones")
    assert digests(alice.folder, "stones") == both
    assert stages_run(alice.run("dvc", "repro")) == FIRST
    alice.run("git", "commit", "-qam", "all photos")
    alice.run("dvc", "push", "-q")
    alice.run("git", "push", "-q", "origin", "main")
    bob.run("git", "pull", "-q", "--no-rebase", "origin", "main")
    bob.run("dvc", "pull", "-q")
    assert digests(bob.folder, "data", "stones") == digests(alice.folder, "data", "stones")


def test_another_project_imports_versions_of_the_photos(
    alice: Member, add_photos: Callable[[Path, int], None], tmp_path: Path
) -> None:
    alice.run("dvc", "remote", "add", "--default", "shared", tmp_path / "store")
    alice.run("git", "commit", "-qam", "a remote")
    versions = {}
    for tag in ("data-1", "data-2"):
        if tag == "data-2":
            add_photos(alice.folder / "stones" / "Topaz", 50)
            alice.run("dvc", "add", "-q", "stones")
            assert stages_run(alice.run("dvc", "repro")) == FIRST
            alice.run("git", "commit", "-qam", "50 topazes")
        alice.run("dvc", "push", "-q")
        alice.run("git", "tag", tag)
        alice.run("git", "push", "-q", "origin", "main", tag)
        versions[tag] = digests(alice.folder, "data", "stones")

    other = tmp_path / "other"  # another project, which imports only the clean photos
    other.mkdir()
    run = runner(other)
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    clean = {tag: sorted(h for name, h in files.items() if "data/clean" in name) for tag, files in versions.items()}

    def has(folder: str, tag: str) -> bool:
        return sorted(digests(other, folder).values()) == clean[tag]

    run("dvc", "import", tmp_path / "origin.git", "data/clean", "--rev", "data-1", "--out", "photos")
    assert has("photos", "data-1")
    run("dvc", "update", "--rev", "data-2", "photos.dvc")
    assert has("photos", "data-2")
    run("dvc", "get", tmp_path / "origin.git", "data/clean", "--rev", "data-1", "--out", "old")
    assert has("old", "data-1")

    assert len(json.loads(alice.run("dvc", "diff", "--json", "data-1", "data-2", "--targets", "stones"))["added"]) == 50
    for tag in ("data-1", "data-2"):
        alice.run("git", "checkout", "-q", tag)
        alice.run("dvc", "checkout", "-q")
        assert digests(alice.folder, "data", "stones") == versions[tag]
        assert stages_run(alice.run("dvc", "repro")) == []


def test_file_that_somebody_changed_in_the_remote_is_refused(tmp_path: Path) -> None:
    folder, remote = tmp_path / "project", tmp_path / "remote"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "stone").write_text("as pushed", encoding="utf-8")
    run = runner(folder)
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    run("dvc", "remote", "add", "-q", "-d", "shared", remote)
    run("dvc", "remote", "modify", "shared", "verify", "true")  # without it DVC takes what the remote has
    run("dvc", "add", "-q", "photos")
    run("dvc", "push", "-q")
    shutil.rmtree(folder / "photos")
    shutil.rmtree(folder / ".dvc" / "cache")
    [stored] = [path for path in remote.rglob("*") if path.is_file() and path.read_bytes() == b"as pushed"]
    stored.chmod(0o644)
    stored.write_text("changed", encoding="utf-8")
    run("dvc", "pull", "-q", ok=False)
    assert not (folder / "photos" / "stone").exists()
