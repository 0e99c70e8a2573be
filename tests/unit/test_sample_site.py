"""The sample site: reproducible pictures, and pages like minerals.net's with defects of known kinds."""

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
from sample_site.defects import DEFECTS, EXTRA
from sample_site.facts import PROPERTIES
from sample_site.gems import BY_NAME, GEMS, Gem
from sample_site.pictures import ordinary, pictures
from sample_site.render.cabochons import SHAPES
from sample_site.render.cuts import CUTS, cut
from sample_site.render.scene import cutout, jpeg, render, shape_of
from sample_site.server import CATALOGUE_URL, HOST, LIST_URL, serve

ROOT = Path(__file__).parents[2]
PICTURED = [gem for gem in GEMS if gem.cuts]
HASH = (
    "import hashlib; from sample_site.gems import BY_NAME; from sample_site.render.scene import jpeg;"
    "print(*(hashlib.sha256(jpeg(BY_NAME[n], k)).hexdigest() for n, k in "
    "[('Emerald', 0), ('Diamond', 5), ('Star Sapphire', 1)]))"
)
# The strongest channel at a stone's centre, for gems where it is unambiguous.
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
    """A persistent connection to the site."""

    def __init__(self, base: str) -> None:
        """Connect to a server's address."""
        self.connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)

    def get(self, target: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return the status, the headers and the body of a response."""
        self.connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def page(self, target: str) -> str:
        """Return a page that must exist."""
        status, _, body = self.get(target)
        assert status == 200, target
        return body.decode()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serve(pictures_per_gem=2) as base:
        yield Client(base)


def full_path(src: str) -> str:
    """Return the full picture's path for a `src`, as the crawler has to."""
    return re.sub(r"-(t|thb)\.jpg$", ".jpg", re.sub(r"thumbnail\.aspx\?image=(.*?)&size=\d+$", r"\1", src))


def sources(page: str) -> list[str]:
    """Return the `src` of each picture in a page's table of pictures."""
    table = page.partition('<table id="ctl00_ContentPlaceHolder1_DataList1">')[2]
    return [unescape(src) for src in re.findall(r'<img src="([^"]+)"', table)]


def page_path(gem: Gem) -> str:
    return f"/gemstone/{gem.slug}_gemstone.aspx"


def test_pictures_have_the_same_bytes_in_every_process() -> None:
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
def test_each_picture_has_the_colour_of_its_gem(gem: Gem) -> None:
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
def test_each_cut_is_a_bounded_polyhedron_around_the_origin(name: str) -> None:
    stone = cut(name, np.random.default_rng(1))
    assert np.allclose(np.linalg.norm(stone.normals, axis=1), 1, atol=1e-5)  # normals are float32
    assert (stone.offsets[stone.mirrored :] > 0).all()
    directions = np.random.default_rng(2).normal(size=(1000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:, 0] = abs(directions[:, 0]) if stone.mirrored else directions[:, 0]
    reach = 1 / (directions @ stone.normals.T / np.maximum(stone.offsets, 1e-6)).max(axis=1)
    assert reach.min() > 0
    assert reach.max() < 1.5


def test_the_gems_are_complete_and_their_pictures_have_different_names() -> None:
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


def test_the_list_links_to_every_gem(client: Client) -> None:
    page = client.page("/GemStoneMain.aspx")
    links = re.findall(r'<a(?: class="bluelink")? href="([^"]+)">\s*([^<]*?)\s*</a>', page)
    links = [(urljoin(LIST_URL, href), unescape(text)) for href, text in links if text]
    assert len(links) == len(GEMS) + 1  # one is listed twice
    assert dict(links) == {f"http://{HOST}{page_path(gem)}": gem.name for gem in GEMS}
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


def test_each_listed_picture_exists_or_has_its_defect(client: Client) -> None:
    responses: dict[str, tuple[int, str]] = {}
    for gem in GEMS:
        url = f"http://{HOST}{page_path(gem)}"
        listed = sources(client.page(url))
        assert len(listed) == len(pictures(gem, 2, GEMS))
        for src in listed:
            status, headers, body = client.get(urljoin(url, src))
            assert (status, headers["Content-Type"]) == (200, "image/jpeg")
            assert max(Image.open(io.BytesIO(body)).size) == 120
            target = urljoin(url, full_path(src))
            status, headers, body = client.get(target)
            stem = target.rpartition("/")[2].removesuffix(".jpg")
            kinds = [d.kind for d in DEFECTS if d.stem == stem]
            responses[stem] = status, hashlib.sha256(body).hexdigest()
            if kinds == ["missing"]:
                assert status == 404
            elif kinds == ["html"]:
                assert headers["Content-Type"].startswith("text/html")
            elif kinds == ["truncated"]:
                with pytest.raises(OSError, match="truncated"):
                    Image.open(io.BytesIO(body)).load()
            else:
                picture = Image.open(io.BytesIO(body))
                picture.load()
                assert status == 200
                assert (picture.format, picture.mode) == (("PNG", "RGBA") if kinds == ["png"] else ("JPEG", "RGB"))
                assert ("/private/" in target) == (kinds == ["private"])
            if kinds == ["rotated"]:
                turned, upright = Image.open(io.BytesIO(body)), render(BY_NAME["Tiger's Eye"], EXTRA)
                assert turned.getexif()[0x0112] == 6
                difference = np.asarray(ImageOps.exif_transpose(turned), float) - np.asarray(upright, float)
                assert (
                    abs(difference).mean() < 5
                )  # of 255; two JPEG compressions lose less, a wrong orientation far more
    for defect in DEFECTS:
        if defect.kind in ("duplicate", "renamed"):
            assert responses[defect.stem] == responses[ordinary(BY_NAME[defect.gem], defect.number).stem]
        elif defect.kind in ("rescaled", "mirrored"):
            assert responses[defect.stem] != responses[ordinary(BY_NAME[defect.gem], defect.number).stem]
    digests = [digest for status, digest in responses.values() if status == 200]
    copies = sum(d.kind in ("duplicate", "renamed") for d in DEFECTS)
    assert len(digests) - len(set(digests)) == copies


def test_one_gem_has_no_pictures_and_two_gems_share_one(client: Client) -> None:
    assert sources(client.page(page_path(BY_NAME["Painite"]))) == []
    listed = [set(sources(client.page(page_path(BY_NAME[name])))) for name in ("Sapphire", "Star Sapphire")]
    assert len(listed[0] & listed[1]) == 1


def test_the_server_is_an_origin_and_a_proxy(client: Client) -> None:
    path = f"/gemstone/GemStoneImages/{quote('tanzanite-tanzania.jpg')}"
    origin, proxy = client.get(path), client.get(f"http://{HOST}{path}")
    assert origin[0] == proxy[0] == 200
    assert origin[2] == proxy[2] == jpeg(BY_NAME["Tanzanite"], 0)
    assert client.get(f"http://elsewhere.example{path}")[0] == 404


def test_a_matching_etag_gives_304(client: Client) -> None:
    for target in ("/GemStoneMain.aspx", "/robots.txt", page_path(PICTURED[0]), ordinary(PICTURED[0], 1).path):
        status, headers, body = client.get(target)
        assert status == 200
        assert headers["Cache-Control"] == "no-cache"
        assert int(headers["Content-Length"]) == len(body)
        assert client.get(target, If_None_Match=headers["ETag"])[::2] == (304, b"")
        assert client.get(target, If_None_Match='"other"')[0] == 200
        status, head, empty = client.get(target, "HEAD")
        assert (status, head["Content-Length"], empty) == (200, headers["Content-Length"], b"")


def test_unknown_paths_are_404(client: Client) -> None:
    for target in ("/", "/gemstone/kryptonite_gemstone.aspx", "/gemstone/GemStoneImages/ruby-t.jpg", "/private/"):
        assert client.get(target)[0] == 404
    assert client.get("/gemstone/thumbnail.aspx?image=GemStoneImages/none-t.jpg&size=x")[0] == 404


def test_the_catalogue_gets_its_products_by_script(client: Client) -> None:
    page = client.page(CATALOGUE_URL)
    links = dict(re.findall(r'<a href="([^"]+)"> (.+)\n</a>', page))
    assert {unescape(name) for name in links.values()} == {gem.name for gem in GEMS}
    for link, name in links.items():
        gem, url = BY_NAME[unescape(name)], urljoin(CATALOGUE_URL, link)
        container = re.search(r'<div id="Product_List" data-products="([^"]+)"></div>', client.page(url))
        assert container is not None
        if gem.name == catalogue.BROKEN:
            assert client.get(urljoin(url, container[1]))[0] == 404
            continue
        products = json.loads(client.page(urljoin(url, container[1])))
        assert bool(products) == bool(gem.cuts)
        assert all(source.startswith("../gemstone/") for source in products[:-1])
        assert [urlsplit(source).hostname for source in products[-1:]] == ["elsewhere.example"] * bool(gem.cuts)
        if gem.name == "Ruby":
            assert client.get(urljoin(url, products[0]))[2] == jpeg(gem, 0)
    status, headers, _ = client.get(urljoin(CATALOGUE_URL, catalogue.MOVED))
    assert (status, headers["Location"]) == (302, catalogue.ELSEWHERE)


def test_each_host_serves_its_own_pages(client: Client) -> None:
    assert client.get(f"http://{HOST}/gems/ruby.html")[0] == client.get("/")[0] == 404
    assert client.get(f"{CATALOGUE_URL}GemStoneMain.aspx")[0] == 404
    assert client.page(f"{CATALOGUE_URL}robots.txt") == client.page("/robots.txt")


def test_robots_txt_forbids_private(client: Client) -> None:
    assert client.page("/robots.txt") == "User-agent: *\nDisallow: /private/\n"


def test_a_site_of_few_gems_has_their_defects_only_and_leaves_no_process() -> None:
    gems = [BY_NAME[name] for name in ("Spinel", "Painite")]
    assert {p.defect for gem in gems for p in pictures(gem, 3, gems)} == {""}
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="crawler"), serve(pictures_per_gem=1, gems=("Spinel", "Ruby")) as base:
        client = Client(base)
        assert len(sources(client.page("/gemstone/spinel_gemstone.aspx"))) == 2
        assert client.get("/gemstone/emerald_gemstone.aspx")[0] == 404
        assert client.get(ordinary(BY_NAME["Ruby"], 0).path)[0] == 200
        assert set(multiprocessing.active_children()) - before  # others, of an earlier test, may end meanwhile
        raise RuntimeError("crawler")
    assert set(multiprocessing.active_children()) <= before
    with pytest.raises(ConnectionError):
        Client(base).get("/")


def test_an_unknown_gem_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="Kryptonite"), serve(gems=("Kryptonite",)):
        pass
