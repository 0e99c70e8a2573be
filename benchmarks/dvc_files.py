"""What DVC itself costs for a folder of many small files, by its settings: a Markdown table.

python benchmarks/dvc_files.py --number 30000 [--setting copy hardlink ...] [--photos ../shared/gemstones]

Each setting has a project of its own, whose data/ holds copies of the photos, some bytes of which differ. Measured are
`dvc add` (hash, cache, link), `dvc status` with nothing to do, `dvc push` to a folder, a second `dvc push`, `dvc
checkout` into an empty working folder, and the disk that `dvc add` takes more, if no other program writes to it then:
--work names a folder on a disk of its own. "archives" has the photos in ten tar files. "import" has a project that
imports the folder of the first one; its first column is `dvc import`, and its last but one `dvc update` with nothing
new. reflink needs a file system that has it: XFS, btrfs, APFS.

Seconds of the clock / seconds of cores. It takes 0.1 GB per thousand photos in a temporary folder.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from scaling import DVC, measure

from gemmodel.core import image_folder

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "copy": {"cache.type": "copy"},
    "hardlink": {"cache.type": "hardlink"},
    "symlink": {"cache.type": "symlink"},
    "reflink": {"cache.type": "reflink"},
    "copy, 1 checksum job": {"cache.type": "copy", "core.checksum_jobs": "1"},
    "copy, 16 checksum jobs": {"cache.type": "copy", "core.checksum_jobs": "16"},
    "archives": {"cache.type": "copy"},
    "import": {"cache.type": "copy"},
}
ARCHIVES = 10


def make(photos: Path, out: Path, number: int, *, archives: bool) -> None:
    """Writes unlike files in class folders, or in archives of such folders."""
    paths = [path for paths in image_folder.list_images(photos).values() for path in paths]
    for i, path in zip(range(number), itertools.cycle(paths), strict=False):
        target = out / path.parent.name / f"{i}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() + i.to_bytes(4))  # after a photo's end a decoder ignores bytes
    if archives:
        folders = sorted(out.iterdir())
        for i in range(ARCHIVES):
            with tarfile.open(out / f"{i}.tar", "w") as archive:
                for folder in folders[i::ARCHIVES]:
                    archive.add(folder, folder.name)
        for folder in folders:
            shutil.rmtree(folder)


def used(folder: Path) -> float:
    """Returns the GB that are taken on the disk of a folder: shared blocks of reflinked files count once."""
    os.sync()
    return shutil.disk_usage(folder).used / 1e9


def start(project: Path, settings: dict[str, str], store: Path) -> None:
    """Makes an empty project with some settings and a folder as its remote."""
    project.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run([*DVC, "init", "-q"], cwd=project, check=True)
    quiet = {"core.analytics": "false", "core.check_update": "false"}  # whose processes would outlive the measurement
    for name, value in (quiet | settings).items():
        subprocess.run([*DVC, "config", name, value], cwd=project, check=True)
    subprocess.run([*DVC, "remote", "add", "-q", "-d", "store", str(store)], cwd=project, check=True)


def commit(project: Path) -> None:
    """Commits all files of a project that git does not ignore."""
    author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    subprocess.run(["git", *author, "commit", "-qm", "data"], cwd=project, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "gemstones")
    parser.add_argument("--number", type=int, default=30_000, help="of photos")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--work", type=Path, help="where the temporary folder is made")
    given = parser.parse_args()
    print(f"{given.number:,} files, {os.cpu_count()} cores\n")
    print(
        "| setting | add | status | push | push again | checkout or update | disk, GB more |\n| --- |" + 6 * " ---: |"
    )
    for name in given.setting:
        with tempfile.TemporaryDirectory(dir=given.work) as temporary:
            project, store = Path(temporary).resolve() / "project", Path(temporary).resolve() / "store"
            start(project, SETTINGS[name], store)
            make(given.photos, project / "data", given.number, archives=name == "archives")
            commands = {"add": ["add", "-q", "data"]}
            if name == "import":
                for command in (["add", "-q", "data"], ["push", "-q"]):
                    subprocess.run([*DVC, *command], cwd=project, check=True)
                commit(project)
                source, project = project, project.with_name("importing")
                start(project, SETTINGS[name], store)
                commands = {"add": ["import", "-q", str(source), "data"]}
            commands |= {"status": ["status"], "push": ["push", "-q"], "push again": ["push", "-q"]}
            commands["last"] = ["update", "-q", "data.dvc"] if name == "import" else ["checkout", "-q"]
            columns, before, added = [], used(project), 0.0
            for step, command in commands.items():
                if command[0] == "checkout":
                    shutil.rmtree(project / "data")
                row = measure(f"{name}: {step}", [*DVC, *command], project)
                added = added or used(project) - before
                columns.append(f"{row['seconds']:.0f} / {row['core_seconds']:.0f}")
            print(f"| {name} | {' | '.join(columns)} | {added:.2f} |", flush=True)


if __name__ == "__main__":
    main()
