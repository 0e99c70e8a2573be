"""How the page's scaling of photos in the browser changes answers, against the files themselves.

python benchmarks/browser_scaling.py [--photos data/split/test] [--model models] [--number 200] [--side 0]

The page's own `photo.js` runs in headless Chromium. `page` is what it sends of each file: files of at most 200 kB are
sent as they are. `canvas` draws every photo on the canvas, at most 800 pixels wide and high, and encodes it as JPEG, as
the page does with larger files. `--side 4000` first enlarges each photo to the size of a phone's and writes it as JPEG.
Photos are evenly spaced among those of the folder. Those that the model was fitted to flatter both sides: name a folder
of others.
"""

import argparse
import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Route, sync_playwright

from gemmodel.core import image_folder
from gemmodel.images import decode
from gemmodel.serve.app import PAGE
from gemmodel.serve.predictor import Predictor
from scraper.browser import executable

URL = "http://localhost/"  # answered here, not by a server; bitmaps of other pages' files need no permission
SCALE = """async ([data, box]) => {
    const { scaledDown } = await import("/photo.js");
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const sent = new Uint8Array(await (await scaledDown(new File([bytes], "photo.jpg"), box)).arrayBuffer());
    let text = "";
    for (let i = 0; i < sent.length; i += 8192) text += String.fromCharCode(...sent.subarray(i, i + 8192));
    return btoa(text);
}"""
BOXES = {"page": None, "canvas": [0, 0, 1, 1]}  # with a box, which here is all of the photo, every file is drawn


def answer_file(route: Route) -> None:
    """Answers the browser's request for a file of the page."""
    name = route.request.url.removeprefix(URL)
    body = (PAGE / name).read_text(encoding="utf-8") if name else "<!DOCTYPE html>"
    route.fulfill(body=body, content_type="text/javascript" if name else "text/html")


def enlarged(photo: bytes, side: int) -> bytes:
    """Returns a photo as a JPEG whose longer side has so many pixels."""
    image, file = decode.read(io.BytesIO(photo)), io.BytesIO()
    scale = side / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(photos: list[bytes], scaled: Callable[[bytes, str], bytes], predictor: Predictor) -> None:
    """Prints how answers for photos as the browser sends them differ from those for the files."""

    def probabilities(files: list[bytes]) -> np.ndarray:
        return predictor.probabilities(predictor.pixels(io.BytesIO(file)) for file in files)

    before = probabilities(photos)
    answer, every = before.argmax(axis=1), np.arange(len(photos))
    for name in BOXES:
        sent = [scaled(photo, name) for photo in photos]
        after = probabilities(sent)
        change = after[every, answer] - before[every, answer]
        changed = sum(new != old for new, old in zip(sent, photos, strict=True))
        sizes = [sum(map(len, files)) / 1000 for files in (sent, photos)]
        print(f"{name:7} {changed} of {len(photos)} photos differ from their file, {sizes[0]:.0f} kB "
              f"of {sizes[1]:.0f}; same top-1 answer {(after.argmax(axis=1) == answer).mean():.3f}; "
              f"probability of it {change.mean():+.4f} on average, {np.abs(change).mean():.4f} in absolute value, "
              f"at most {np.abs(change).max():.3f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("data/split/test"), help="class folders")
    parser.add_argument("--model", type=Path, default=Path("models"), help="folder of the model")
    parser.add_argument("--number", type=int, default=200, help="of photos")
    parser.add_argument("--side", type=int, default=0, help="pixels to which photos are enlarged; 0: they are not")
    arguments = parser.parse_args()
    paths = [path for paths in image_folder.list_images(arguments.photos).values() for path in paths]
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(arguments.number, len(paths))).astype(int)]
    photos = [path.read_bytes() for path in chosen]
    if arguments.side:
        photos = [enlarged(photo, arguments.side) for photo in photos]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.route(URL + "**", answer_file)
        page.goto(URL)

        def scaled(photo: bytes, name: str) -> bytes:
            return base64.b64decode(page.evaluate(SCALE, [base64.b64encode(photo).decode(), BOXES[name]]))

        measure(photos, scaled, Predictor(arguments.model))


if __name__ == "__main__":
    main()
