"""The items that a spider yields."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """One picture of a gem: `body` is its original bytes, `folder` the gem's name made safe for a file system."""

    gem: str
    folder: str
    page_url: str
    picture_url: str
    body: bytes = field(repr=False)
    cached: bool = False
    thumbnail: bool = False
    mineral_class: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    prose: dict[str, str] = field(default_factory=dict)
