"""Pages of HTML that need no other file and no network."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from gemmodel.core import files


def write(page: Path, template: Path, **values: Any) -> None:
    """Fills a Jinja template, whose every value must be given, and writes the page whole or not at all."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    files.write_text(page, environment.from_string(template.read_text(encoding="utf-8")).render(**values))


def data_url(picture: Image.Image | Path) -> str:
    """Returns a picture, or a picture's file as it is, as an address that holds it."""
    if isinstance(picture, Path):
        kind, data = {".jpg": "jpeg"}.get(picture.suffix, picture.suffix[1:]), picture.read_bytes()
    else:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        kind, data = "jpeg", file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
