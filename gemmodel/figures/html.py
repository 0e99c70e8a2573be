"""HTML pages that need no other file and no network."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from gemmodel.core import files

PACKAGE = Path(__file__).parents[1]  # templates name each other relative to it
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PACKAGE),
    autoescape=jinja2.select_autoescape(("html",)),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(page: Path, template: Path, **values: Any) -> None:
    """Renders a Jinja template of this package to a file, atomically.

    Args:
        page: the file.
        template: a page's template extends `figures/page.html`; values are escaped where its name ends in `.html`.
        values: every name that the template uses.
    """
    files.write_text(page, TEMPLATES.get_template(template.relative_to(PACKAGE).as_posix()).render(**values))


def tile_values(tiles: Iterable[tuple[Image.Image, str]]) -> list[dict[str, str]]:
    """Returns photos as the macro `photos` of `figures/parts.html` shows them: `picture`, a data URL, and `caption`."""
    return [{"picture": data_url(picture), "caption": caption} for picture, caption in tiles if caption]


def tile_groups(tiles: Sequence[tuple[Image.Image, str]], size: int) -> list[list[dict[str, str]]]:
    """Returns the photos of a gallery in groups of a size, or in one if it is 0, as the index page shows them."""
    size = size or max(1, len(tiles))
    return [tile_values(tiles[start : start + size]) for start in range(0, len(tiles), size)]


def data_url(picture: Image.Image | Path) -> str:
    """Returns a data URL of a picture, encoded as JPEG, or of a picture file, with its bytes as they are."""
    if isinstance(picture, Path):
        kind, data = {".jpg": "jpeg"}.get(picture.suffix, picture.suffix[1:]), picture.read_bytes()
    else:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        kind, data = "jpeg", file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
