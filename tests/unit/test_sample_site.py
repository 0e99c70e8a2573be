"""The sample site: its pictures are the same everywhere, and its pages are minerals.net's with known defects."""

import hashlib
import http.client
import io
import json
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import numpy as np
import pytest
from PIL import Image, ImageOps

from sample_site import catalogue
from sample_site.facts import PROPERTIES
from sample_site.gems import GEMS, Gem
from sample_site.pictures import BY_NAME, DEFECTS, SPECIAL, ordinary, pictures
from sample_site.render.cabochons import SHAPES
from sample_site.render.cuts import CUTS, cut
from sample_site.render.scene import cutout, jpeg, render, shape_of
from sample_site.server import CATALOGUE_URL, HOST, LIST_URL, serve

ROOT = Path(__file__).parents[2]
PICTURED = [gem for gem in GEMS if gem.cuts]
HASH = (
    "import hashlib; from scraper.sample_site.pictures import BY_NAME; from scraper.sample_site.render import jpeg;"
    "print(*(hashlib.sha256(jpeg(BY_NAME[n], k)).hexdigest() for n, k in "
    "[('Emerald', 0), ('Diamond', 5), ('Star Sapphire', 1)]))"
)
# The strongest channel of a stone's middle, where it is sure.
STRONGEST = {
    "Ruby": "r",
    "Almandine": "r",
    "Spinel": "r",
    "Sapphire": "b",
    "Tanzanite": "b",
    "Lapis Lazuli": "b",
    "Emerald": "g",
    "Peridot": "g",
    "Malachite": "g",
    "Citrine": "r",
    "Tiger's Eye": "r",
}


class Client:
    """One kept-alive connection to the site."""

    def __init__(self, base: str) -> None:
        """Connect to a server's address."""
        self.connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)

    def ask(self, target: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return the status, the headers and the body of an answer."""
        self.connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def page(self, target: str) -> str:
        """Return a page that has to be there."""
        status, _, body = self.ask(target)
        assert status == 200, target
        return body.decode()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serve(pictures_per_gem=2) as base:
        yield Client(base)


def full(src: str) -> str:
    """Return the full picture's path for a `src`, as the crawler has to."""
    return re.sub(r"-(t|thb)\.jpg$", ".jpg", re.sub(r"thumbnail\.aspx\?image=(.*?)&size=\d+$", r"\1", src))


def sources(page: str) -> list[str]:
    """Return the `src` of each picture in a page's table of pictures."""
    table = page.partition('<table id="ctl00_ContentPlaceHolder1_DataList1">')[2]
    return [unescape(src) for src in re.findall(r'<img src="([^"]+)"', table)]


def path_of(gem: Gem) -> str:
    return f"/gemstone/{gem.slug}_gemstone.aspx"


def test_pictures_are_the_same_bytes_in_every_process() -> None:
    here = [hashlib.sha256(jpeg(BY_NAME[n], k)).hexdigest() for n, k in [("Emerald", 0), ("Diamond", 5)]]
    there = [
        subprocess.run(
            [sys.executable, "-c", HASH], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert there[0] == there[1]
    assert there[0][:2] == here
    assert len(set(there[0])) == 3


@pytest.mark.parametrize("gem", PICTURED, ids=lambda gem: gem.slug)
def test_each_gem_is_a_picture_of_its_color(gem: Gem) -> None:
    picture = render(gem, 0)
    assert picture.mode == "RGB"
    assert min(picture.size) >= 180
    assert max(picture.size) <= 420
    assert np.asarray(picture).std() > 8
    stone = np.asarray(cutout(gem, 0), float)[65:195, 65:195]
    assert stone[..., :3].std() > 8
    red, green, blue = (stone[..., i][stone[..., 3] > 250].mean() for i in range(3))
    if gem.name in STRONGEST:
        assert "rgb"[int(np.argmax([red, green, blue]))] == STRONGEST[gem.name]
    if gem.name == "Amethyst":
        assert min(red, blue) > 1.5 * green
    if gem.name == "Diamond":
        assert max(red, green, blue) < 1.15 * min(red, green, blue)
    if gem.name in ("Aquamarine", "Turquoise"):
        assert min(green, blue) > 1.1 * red


@pytest.mark.parametrize("name", CUTS)
def test_each_cut_is_a_bounded_stone_around_the_origin(name: str) -> None:
    stone = cut(name, np.random.default_rng(1))
    assert np.allclose(np.linalg.norm(stone.normals, axis=1), 1, atol=1e-5)
    assert (stone.offsets[stone.mirrored :] > 0).all()
    directions = np.random.default_rng(2).normal(size=(1000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:, 0] = abs(directions[:, 0]) if stone.mirrored else directions[:, 0]
    reach = 1 / (directions @ stone.normals.T / np.maximum(stone.offsets, 1e-6)).max(axis=1)
    assert reach.min() > 0
    assert reach.max() < 1.5


def test_the_catalogue_is_whole() -> None:
    assert len(PICTURED) == 18
    assert len({gem.mineral_class for gem in PICTURED}) >= 8
    assert {shape for gem in PICTURED for shape in gem.cuts} <= {*CUTS, *SHAPES}
    for gem in GEMS:
        assert tuple(gem.properties) == PROPERTIES
        assert gem.properties["MineralClass"] == gem.mineral_class
        assert all(gem.properties.values())
    stems = [ordinary(gem, k).stem.lower() for gem in PICTURED for k in range(40)]
    assert len(set(stems)) == len(stems)
    assert {shape_of(BY_NAME["Ruby"], k) for k in range(6)} == set(BY_NAME["Ruby"].cuts)


def test_the_list_leads_to_every_gem(client: Client) -> None:
    page = client.page("/GemStoneMain.aspx")
    links = re.findall(r'<a(?: class="bluelink")? href="([^"]+)">\s*([^<]*?)\s*</a>', page)
    links = [(urljoin(LIST_URL, href), unescape(text)) for href, text in links if text]
    assert len(links) == len(GEMS) + 1  # one stands there twice
    assert dict(links) == {f"http://{HOST}{path_of(gem)}": gem.name for gem in GEMS}
    assert 0 < page.count("bluelink") < len(GEMS)
    assert page.count("bluelink") == page.count("mineralimg")


def test_a_gem_page_has_its_properties_and_prose(client: Client) -> None:
    page = client.page("/gemstone/tigers_eye_gemstone.aspx")
    for key, value in BY_NAME["Tiger's Eye"].properties.items():
        row = re.search(rf'<tr id="ctl00_ContentPlaceHolder1_tr{key}"><td>[^<]*</td><td>([^<]*)</td></tr>', page)
        assert row is not None
        assert unescape(row[1]) == value
    for label in ("AllAbout", "Uses", "Source"):
        assert re.search(rf'id="ctl00_ContentPlaceHolder1_lbl{label}">[^<]{{10,}}<', page)


def test_each_listed_picture_answers_or_is_a_known_defect(client: Client) -> None:
    answers: dict[str, tuple[int, str]] = {}
    for gem in GEMS:
        url = f"http://{HOST}{path_of(gem)}"
        listed = sources(client.page(url))
        assert len(listed) == len(pictures(gem, 2, GEMS))
        for src in listed:
            status, headers, body = client.ask(urljoin(url, src))
            assert (status, headers["Content-Type"]) == (200, "image/jpeg")
            assert max(Image.open(io.BytesIO(body)).size) == 120
            target = urljoin(url, full(src))
            status, headers, body = client.ask(target)
            stem = target.rpartition("/")[2].removesuffix(".jpg")
            known = [d.kind for d in DEFECTS if d.stem == stem]
            answers[stem] = status, hashlib.sha256(body).hexdigest()
            if known == ["missing"]:
                assert status == 404
            elif known == ["html"]:
                assert headers["Content-Type"].startswith("text/html")
            elif known == ["truncated"]:
                with pytest.raises(OSError, match="truncated"):
                    Image.open(io.BytesIO(body)).load()
            else:
                picture = Image.open(io.BytesIO(body))
                picture.load()
                assert status == 200
                assert (picture.format, picture.mode) == (("PNG", "RGBA") if known == ["png"] else ("JPEG", "RGB"))
                assert ("/private/" in target) == (known == ["private"])
            if known == ["rotated"]:
                turned, upright = Image.open(io.BytesIO(body)), render(BY_NAME["Tiger's Eye"], SPECIAL)
                assert turned.getexif()[0x0112] == 6
                difference = np.asarray(ImageOps.exif_transpose(turned), float) - np.asarray(upright, float)
                assert abs(difference).mean() < 5
    for defect in DEFECTS:
        if defect.kind in ("twin", "copy"):
            assert answers[defect.stem] == answers[ordinary(BY_NAME[defect.gem], defect.number).stem]
        elif defect.kind in ("rescaled", "mirrored"):
            assert answers[defect.stem] != answers[ordinary(BY_NAME[defect.gem], defect.number).stem]
    whole = [digest for status, digest in answers.values() if status == 200]
    copies = sum(d.kind in ("twin", "copy") for d in DEFECTS)
    assert len(whole) - len(set(whole)) == copies


def test_a_gem_without_pictures_and_one_picture_of_two_gems(client: Client) -> None:
    assert sources(client.page(path_of(BY_NAME["Painite"]))) == []
    lists = [set(sources(client.page(path_of(BY_NAME[name])))) for name in ("Sapphire", "Star Sapphire")]
    assert len(lists[0] & lists[1]) == 1


def test_both_forms_of_target_give_the_same_answer(client: Client) -> None:
    path = f"/gemstone/GemStoneImages/{quote('tanzanite-tanzania.jpg')}"
    near, far = client.ask(path), client.ask(f"http://{HOST}{path}")
    assert near[0] == far[0] == 200
    assert near[2] == far[2] == jpeg(BY_NAME["Tanzanite"], 0)
    assert client.ask(f"http://elsewhere.example{path}")[0] == 404


def test_an_etag_saves_the_body(client: Client) -> None:
    for target in ("/GemStoneMain.aspx", "/robots.txt", path_of(PICTURED[0]), ordinary(PICTURED[0], 1).path):
        status, headers, body = client.ask(target)
        assert status == 200
        assert headers["Cache-Control"] == "no-cache"
        assert int(headers["Content-Length"]) == len(body)
        assert client.ask(target, If_None_Match=headers["ETag"])[::2] == (304, b"")
        assert client.ask(target, If_None_Match='"other"')[0] == 200
        status, again, nothing = client.ask(target, "HEAD")
        assert (status, again["Content-Length"], nothing) == (200, headers["Content-Length"], b"")


def test_what_is_not_there_is_a_404(client: Client) -> None:
    for target in ("/", "/gemstone/kryptonite_gemstone.aspx", "/gemstone/GemStoneImages/ruby-t.jpg", "/private/"):
        assert client.ask(target)[0] == 404
    assert client.ask("/gemstone/thumbnail.aspx?image=GemStoneImages/none-t.jpg&size=x")[0] == 404


def test_the_catalogue_is_empty_until_its_script_has_asked_for_the_products(client: Client) -> None:
    page = client.page(CATALOGUE_URL)
    links = dict(re.findall(r'<a href="([^"]+)"> (.+)\n</a>', page))
    assert {unescape(name) for name in links.values()} == {gem.name for gem in GEMS}
    for link, name in links.items():
        gem, url = BY_NAME[unescape(name)], urljoin(CATALOGUE_URL, link)
        found = re.search(r'<div id="Product_List" data-products="([^"]+)"></div>', client.page(url))
        assert found is not None
        if gem.name == catalogue.BROKEN:
            assert client.ask(urljoin(url, found[1]))[0] == 404
            continue
        products = json.loads(client.page(urljoin(url, found[1])))
        assert bool(products) == bool(gem.cuts)
        assert all(source.startswith("../gemstone/") for source in products[:-1])
        assert [urlsplit(source).hostname for source in products[-1:]] == ["elsewhere.example"] * bool(gem.cuts)
        if gem.name == "Ruby":
            assert client.ask(urljoin(url, products[0]))[2] == jpeg(gem, 0)
    status, headers, _ = client.ask(urljoin(CATALOGUE_URL, catalogue.MOVED))
    assert (status, headers["Location"]) == (302, catalogue.ELSEWHERE)


def test_each_host_has_its_own_pages(client: Client) -> None:
    assert client.ask(f"http://{HOST}/gems/ruby.html")[0] == client.ask("/")[0] == 404
    assert client.ask(f"{CATALOGUE_URL}GemStoneMain.aspx")[0] == 404
    assert client.page(f"{CATALOGUE_URL}robots.txt") == client.page("/robots.txt")


def test_robots_are_kept_from_private(client: Client) -> None:
    assert client.page("/robots.txt") == "User-agent: *\nDisallow: /private/\n"


def test_a_part_of_the_site_has_its_own_defects_and_ends_without_a_trace() -> None:
    gems = [BY_NAME[name] for name in ("Spinel", "Painite")]
    assert {p.kind for gem in gems for p in pictures(gem, 3, gems)} == {""}
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="crawler"), serve(pictures_per_gem=1, gems=("Spinel", "Ruby")) as base:
        part = Client(base)
        assert len(sources(part.page("/gemstone/spinel_gemstone.aspx"))) == 2
        assert part.ask("/gemstone/emerald_gemstone.aspx")[0] == 404
        assert part.ask(ordinary(BY_NAME["Ruby"], 0).path)[0] == 200
        assert set(multiprocessing.active_children()) > before
        raise RuntimeError("crawler")
    assert set(multiprocessing.active_children()) <= before
    with pytest.raises(ConnectionError):
        Client(base).ask("/")


def test_an_unknown_gem_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Kryptonite"), serve(gems=("Kryptonite",)):
        pass
