"""What a spider yields."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """One picture of a gem as a site sent it; `body` is its original bytes."""

    gem: str
    page_url: str
    picture_url: str
    body: bytes = field(repr=False)
    thumbnail: bool = False
    mineral_class: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
