"""What a spider yields."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """One picture of a gem as a site sent it; `body` is its original bytes, `folder` the gem's name as a folder's."""

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
