"""What the spiders read from a page's markup: links, and where a picture really is."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from lxml.html import HtmlElement  # type: ignore[import-untyped]
from parsel import SelectorList
from scrapy.http import Response, TextResponse
from scrapy.utils.response import get_base_url
from w3lib.url import safe_url_string

from gemmodel.core.image_folder import SUFFIXES

HUGE_TAG = re.compile(rb"<[^<>]{10000,}")  # lxml compares each of a tag's attributes with each other
# Attributes of scripts that load a picture when it is scrolled into view; `src` is a placeholder then.
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-lazyload", "data-echo")
LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set")
READ = {"img": {"src", "srcset", *LAZY, *LAZY_SRCSET}, "source": {"srcset", *LAZY, *LAZY_SRCSET}}
PROSE = {"alt", "title", "class", "id", "name", "aria-label", "download"}  # a file's name in these is no link
# A candidate of a srcset: a URL without spaces, then a width or density up to a comma (HTML, 4.8.4.4).
CANDIDATE = re.compile(r"[\s,]*+(\S*[^\s,])(?:,+|\s+([^,]*),?)?")
PICTURE = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?=$|[?#;,)'\"\s])", re.IGNORECASE)
# Session identifiers that servers of PHP, Java, ASP.NET and ColdFusion write into URLs.
SESSION = re.compile(
    r";jsessionid=[^/?#]*|(?<=/)\(S\(\w{16,}\)\)/"
    r"|(?<=[?&])(?:phpsessid|jsessionid|s(?:ess(?:ion)?_?)?id|cftoken)=[\w-]{16,}(?:&|$)",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(r"\.(?:gif|svg)(?=$|[?#])|placeholder|blank|spacer|spinner|loading|pixel", re.IGNORECASE)
MAX_SOURCES = 10  # of one <picture>
MAX_KINDS = 30  # of markup that is not read and counted by name


@dataclass(frozen=True)
class PictureLinks:
    """Links to the forms of one picture, as its page has them.

    Attributes:
        forms: the best form first; where it does not exist, the next one stands in.
        around: the link around the picture, where it looks like one to a picture.
    """

    forms: list[str]
    around: str | None = None


def as_html(response: Response) -> TextResponse:
    """Returns a page for CSS selectors, whatever its declared media type, without huge tags or an invalid `<base>`."""
    page, body = response, HUGE_TAG.sub(b"<", response.body)
    if not isinstance(page, TextResponse) or body != page.body:
        encoding = response.encoding if isinstance(response, TextResponse) else None
        page = TextResponse(response.url, body=body, request=response.request, encoding=encoding)
    try:
        get_base_url(page)  # as its selectors do
    except ValueError:
        page = page.replace(body=re.sub(rb"<base\b", b"<", body, flags=re.IGNORECASE))
    return page


def base_url(page: TextResponse) -> str:
    """Returns the URL that a page's links are relative to; Scrapy looks for `<base>` in the first 4096 bytes only."""
    base = page.xpath("string((//base/@href)[1])").get("")
    try:
        url = urljoin(page.url, base.strip())
        return url if urlsplit(url).scheme in ("http", "https") else page.url
    except ValueError:
        return page.url


def absolute(page: TextResponse, base: str, link: str) -> str:
    """Returns a link as an absolute URL, its query in the page's encoding as browsers send it.

    Raises:
        ValueError: it is not a URL.
    """
    return str(safe_url_string(urljoin(base, link.strip()), encoding=page.encoding))


def without_session(url: str) -> str:
    """Returns a picture's URL without a session's identifier, so that the picture has the same URL in each crawl."""
    without = SESSION.sub("", url)
    return url if without == url else without.rstrip("?&")


def picture_links(container: SelectorList, unmatched: Counter[str]) -> Iterator[PictureLinks]:
    """Yields the links to each picture of an element, in the page's order.

    It reads lazy-loaded pictures, `srcset`, `<picture>`, `<noscript>` and the link around a picture.

    Args:
        container: the element, or elements none of which lies in another one.
        unmatched: counts of unexpected markup, to which it adds links to pictures elsewhere.
    """
    for root in container:
        unread = Counter(_unread(root.root))
        for img in root.root.iter("img"):
            forms, source = _forms(img), img.get("src", "").strip()
            if _is_fallback(img):
                continue
            doubtful = not source or _is_inline(source) or "lazy" in img.get("class", "")
            if not forms and _noscript(img) is None:
                other = next((name for name in img.attrib if _may_hold_picture(img, name)), None)
                if doubtful and other:
                    unread[f"<img {other}>"] -= 1
                    unmatched[f"picture of an unknown attribute, <img {other[:40]}>"] += 1
                    forms = [img.get(other).strip()]
                elif source:
                    forms = [source]
                else:
                    unmatched["<img> without a picture"] += 1
            around = next((link.get("href", "").strip() for link in img.iterancestors("a")), "")
            if forms:
                yield PictureLinks(forms, around if PICTURE.search(around) else None)
        for kind, count in (+unread).most_common(MAX_KINDS):
            unmatched[f"picture that is not read, {kind[:60]}"] += count


def srcset(value: str) -> list[tuple[float, str]]:
    """Returns width or density and URL of each candidate of a `srcset` attribute."""
    return [(_size(descriptor), url) for url, descriptor in CANDIDATE.findall(value.strip(", \t\r\n\f"))]


def _size(descriptor: str) -> float:
    match = re.match(r"\s*(\d+(?:\.\d+)?)[wx]", descriptor or "1x")
    return float(match[1]) if match else 0.0


def _forms(img: HtmlElement) -> list[str]:
    """Returns the links to a picture, the best first; none where the page has only a `src`, to be checked.

    An element that a script fills has a placeholder in `src`, or in `srcset` where it has a lazy one. In a `<picture>`
    with such an element the `src` of another one may be a placeholder, too, so it comes last.
    """
    elements = [img.attrib, *(source.attrib for source in _picture(img)[1])]
    lazy = [name for attribs in elements for name in (*LAZY, *LAZY_SRCSET) if attribs.get(name)]
    ranked: list[tuple[tuple[float, float], str]] = []
    for attribs in elements:
        if any(attribs.get(name) for name in LAZY_SRCSET):
            ranked += _ranked(attribs, LAZY_SRCSET, LAZY)
        elif any(attribs.get(name) for name in LAZY):
            ranked += _ranked(attribs, ("srcset",), LAZY)
        elif lazy:
            plain = () if "lazy" in attribs.get("class", "") else ("src",)
            others = _ranked(attribs, ("srcset",), plain, size=0.0)
            ranked += [(rank, url) for rank, url in others if not PLACEHOLDER.search(url)]
        else:
            ranked += _ranked(attribs, ("srcset",), ("src",))
    if not (lazy or any(srcset(attribs.get("srcset", "")) for attribs in elements)):
        return []
    ranked.sort(key=lambda entry: entry[0], reverse=True)  # stable
    return list(dict.fromkeys(url for _, url in ranked if url and not _is_inline(url)))


def _ranked(
    attribs: Mapping[str, str], sets: Sequence[str], plain: Sequence[str], *, size: float = 1.0
) -> list[tuple[tuple[float, float], str]]:
    """Returns the links in some attributes of an element, with ranks by the picture's size as far as the page tells."""
    media = attribs.get("media", "")
    width = re.search(r"min-width:\s*(\d+)", media)
    rank = float(width[1]) if width else -float("max-width" in media)
    links = [((size, rank), attribs[name].strip()) for name in plain if attribs.get(name)]
    return links + [((size, rank), url) for name in sets for size, url in srcset(attribs.get(name, ""))]


def _is_inline(url: str) -> bool:
    return url.lower().startswith(("data:", "blob:", "about:"))


def _noscript(img: HtmlElement) -> HtmlElement | None:
    """Returns the `<noscript>` with a picture for browsers without scripts: after the picture, or else before it."""
    holder = _picture(img)[0]
    after, before = _next(holder), _previous(holder)
    if _has_picture(after, "noscript"):
        return after
    return before if _has_picture(before, "noscript") and not _has_picture(_previous(before)) else None


def _is_fallback(img: HtmlElement) -> bool:
    """Returns whether a picture is in the `<noscript>` of another one that has links of its own."""
    noscript = next(img.iterancestors("noscript"), None)
    if noscript is None:
        return False
    before, after = _previous(noscript), _next(noscript)
    other = before if _has_picture(before) else after if _has_picture(after) else None
    return other is not None and bool(_forms(next(other.iter("img"))))


def _picture(img: HtmlElement) -> tuple[HtmlElement, list[HtmlElement]]:
    """Returns the `<picture>` around an `<img>` and its sources, or the `<img>` itself and none.

    The parser of HTML 4 takes an `<img>` after a `<source>` for its child.
    """
    element = img
    sources: list[HtmlElement] = []
    while element is not None and element.tag in ("img", "source") and len(sources) <= MAX_SOURCES:
        if element.tag == "source":
            sources.append(element)
        previous = _previous(element)
        element = previous if previous is not None and previous.tag == "source" else element.getparent()
    if element is None or element.tag != "picture":
        return img, []
    return element, sources[::-1]


def _next(element: HtmlElement) -> HtmlElement | None:
    return next(element.itersiblings("*"), None)  # no comment


def _previous(element: HtmlElement) -> HtmlElement | None:
    return next(element.itersiblings("*", preceding=True), None)


def _has_picture(element: HtmlElement | None, *tags: str) -> bool:
    return (
        element is not None
        and element.tag in (tags or ("img", "picture"))
        and next(element.iter("img"), None) is not None
    )


def _may_hold_picture(img: HtmlElement, name: str) -> bool:
    value = img.get(name)
    return name not in READ["img"] | PROSE and bool(PICTURE.search(value) or ("src" in name and value.strip()))


def _unread(container: HtmlElement) -> Iterator[str]:
    """Yields tag and attribute of each link to a picture that `picture_links` does not read."""
    for element in container.iter("*"):
        known = PROSE | READ.get(element.tag, set())
        for name, value in element.attrib.items():
            if name in known or not PICTURE.search(value):
                continue
            if name != "href" or next(element.iter("img"), None) is None:  # the link around a picture is read
                yield f"<{element.tag} {name}>"
