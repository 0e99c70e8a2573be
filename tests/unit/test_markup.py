"""Where a picture of a page really is: lazy-loaded, in several sizes, for browsers without scripts."""

from collections import Counter

import pytest
from parsel import Selector
from scrapy.http import HtmlResponse

from scraper import markup
from scraper.middlewares import seconds
from scraper.spiders.minerals import MineralsSpider

INLINE = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


def read(html: str) -> tuple[list[list[str]], Counter[str]]:
    """Return the forms of each picture of some HTML, the link around it first, and what was unexpected."""
    unmatched: Counter[str] = Counter()
    links = markup.picture_links(Selector(f"<div id=x>{html}</div>").css("#x"), unmatched)
    return [[link.around, *link.forms] if link.around else link.forms for link in links], unmatched


@pytest.mark.parametrize(
    ("html", "forms"),
    [
        ('<img src="a.jpg">', ["a.jpg"]),
        ('<img src=" a b.jpg\n">', ["a b.jpg"]),
        ('<img src="a.jpg" loading="lazy">', ["a.jpg"]),
        (f'<img class="lazyload" src="{INLINE}" data-src="a.jpg">', ["a.jpg"]),
        ('<img src="placeholder.png" data-original="a.jpg">', ["a.jpg"]),
        ('<img src="placeholder.png" data-lazy-src="a">', ["a"]),
        ('<img src="x.png" data-src="a-t.jpg" srcset="a-8.jpg 8w, a-16.jpg 16w">', ["a-16.jpg", "a-8.jpg", "a-t.jpg"]),
        ('<img src="x.png" data-src="a.jpg" srcset="x.png">', ["a.jpg", "x.png"]),
        ('<img src="1x1.gif" data-src="a-1.jpg" data-srcset="a-8.jpg 800w, a-16.jpg 1600w">',
         ["a-16.jpg", "a-8.jpg", "a-1.jpg"]),
        ('<img src="a.jpg" srcset="a-8.jpg 800w,a-16.jpg 1600w">', ["a-16.jpg", "a-8.jpg", "a.jpg"]),
        ('<img src="a.jpg" srcset="a.jpg 1x, a@2x.jpg 2x">', ["a@2x.jpg", "a.jpg"]),
        (f'<img src="{INLINE}" srcset="a.jpg">', ["a.jpg"]),
        (f'<img src="x.gif" srcset="{INLINE} 1w" data-lazy-srcset="a,b.jpg 300w">', ["a,b.jpg"]),
        ('<picture><source srcset="a.avif 9w, b.avif 99w"><source srcset="a.jpg 99w"><img src="s.jpg"></picture>',
         ["b.avif", "a.jpg", "a.avif", "s.jpg"]),
        ('<picture><source type="image/webp" srcset="a.webp"><img src="a.jpg"></picture>', ["a.jpg", "a.webp"]),
        ('<picture><source media="(min-width: 900px)" srcset="l.jpg"></source>'
         '<source media="(max-width: 300px)" srcset="s.jpg"><img src="m.jpg"></picture>',
         ["l.jpg", "m.jpg", "s.jpg"]),
        ('<picture><source data-srcset="a.jpg 2x"><img src="x.gif"></picture>', ["a.jpg"]),
        ('<picture><source data-srcset="s.jpg 300w"><source srcset="l.jpg 900w"><img src="m.jpg"></picture>',
         ["l.jpg", "s.jpg", "m.jpg"]),
        ('<picture><source data-srcset="s.jpg"><img src="tiny.jpg" srcset="m.jpg 600w, l.jpg 900w"></picture>',
         ["l.jpg", "m.jpg", "s.jpg", "tiny.jpg"]),
        ('<picture><source srcset="l.jpg 900w"><img src="x.png" data-src="a.jpg"></picture>', ["l.jpg", "a.jpg"]),
        ('<picture><source srcset="blank.gif"><img data-src="a.jpg" src="blank.gif"></picture>', ["a.jpg"]),
        ('<picture><source data-srcset="s.jpg 300w"><img class="lazyload" src="tiny.jpg"></picture>', ["s.jpg"]),
        ('<img src="spinner.gif"><noscript><img src="a.jpg"></noscript>', ["a.jpg"]),
        ('<noscript><img src="a.jpg"></noscript><img src="spinner.gif">', ["a.jpg"]),
        ('<img src="x.gif" data-src="a.jpg"><noscript><img src="small.jpg"></noscript>', ["a.jpg"]),
        ('<picture><source data-srcset="a.jpg"><img src="x.gif"></picture><noscript><img src="s.jpg"></noscript>',
         ["a.jpg"]),
        ('<img src="x.gif"> <!-- -->\n<noscript><img src="a.jpg"></noscript>', ["a.jpg"]),
        ('<noscript><img src="a.jpg"></noscript>', ["a.jpg"]),
        ('<a href="big.jpg?v=1"><img src="a.jpg"></a>', ["big.jpg?v=1", "a.jpg"]),
        ('<a href="gem.html"><span><img src="a.jpg"></span></a>', ["a.jpg"]),
        (f'<img src="{INLINE}">', [INLINE]),  # a failure that the crawl records
    ],
)  # fmt: skip
def test_the_best_form_of_a_picture_comes_first(html: str, forms: list[str]) -> None:
    assert read(html) == ([forms], Counter())


def test_each_picture_has_its_own_fallback() -> None:
    pictures = [f'<img src="x.gif"><noscript><img src="{i}.jpg"></noscript>' for i in range(3)]
    assert read("".join(pictures))[0] == [["0.jpg"], ["1.jpg"], ["2.jpg"]]
    assert read('<img src="x.gif"><noscript><img src="0.jpg"></noscript><img src="1.jpg">')[0] == [["0.jpg"], ["1.jpg"]]


@pytest.mark.parametrize(
    ("html", "forms", "unmatched"),
    [
        ('<img class="lazy" src="x.gif" data-foo="a.jpg">', [["a.jpg"]],
         "picture of an unknown attribute, <img data-foo>"),
        ('<img data-full-src="/image/7">', [["/image/7"]], "picture of an unknown attribute, <img data-full-src>"),
        ('<img src="a.jpg" data-zoom-image="z.jpg">', [["a.jpg"]], "picture that is not read, <img data-zoom-image>"),
        ('<div style="background: url(\'a.jpg\')"></div>', [], "picture that is not read, <div style>"),
        ('<div data-bg="a.webp"></div>', [], "picture that is not read, <div data-bg>"),
        ('<a href="a.JPG?x">photo</a>', [], "picture that is not read, <a href>"),
        ('<amp-img src="a.jpg"></amp-img>', [], "picture that is not read, <amp-img src>"),
        ('<img alt="a.jpg">', [], "<img> without a picture"),
    ],
)  # fmt: skip
def test_pictures_elsewhere_are_counted(html: str, forms: list[list[str]], unmatched: str) -> None:
    assert read(html) == (forms, Counter({unmatched: 1}))


@pytest.mark.parametrize(
    ("thumbnail", "full"),
    [
        ("q1-t.jpg", "q1.jpg"),
        ("q1-t.jpg?v=3", "q1.jpg?v=3"),
        ("q1-t.jpg#x", "q1.jpg"),
        ("q1_thumb.jpg?w=100", "q1.jpg"),
        ("q1_thumb.jpg?w=100&v=3#x", "q1.jpg?v=3"),
        ("Q1-THB.JPG", "Q1.JPG"),
        ("q1-300x200.jpg", "q1.jpg"),
        ("x-t-t.jpg", "x-t.jpg"),
        ("x-tanzania-t.jpg", "x-tanzania.jpg"),
        ("opal-10x8.jpg", "opal-10x8.jpg"),  # millimetres
        ("get.aspx?size=9&image=1", "get.aspx?size=9&image=1"),
        ("a-t.jpg/b.jpg?x=c-t.jpg", "a-t.jpg/b.jpg?x=c-t.jpg"),
    ],
)
def test_query_and_fragment_are_no_part_of_the_suffix(thumbnail: str, full: str) -> None:
    spider = MineralsSpider()
    assert spider.full_picture(f"http://a/{thumbnail}") == f"http://a/{full}"
    assert spider.crawl_stats.unmatched.total() == (thumbnail == full)


def test_the_base_may_come_late_and_links_are_sent_as_browsers_do() -> None:
    filler = "<!-- -->" * 1000
    page = HtmlResponse("http://a/b/", body=f"{filler}<base href='/img/'>".encode("cp1252"), encoding="cp1252")
    assert markup.base_url(page) == "http://a/img/"
    assert markup.absolute(page, "http://a/img/", " é b.jpg?x=é\n") == "http://a/img/%C3%A9%20b.jpg?x=%E9"
    for base in ("http://[bad", "javascript:void(0)", ""):
        page = HtmlResponse("http://a/b/", body=f"<base href='{base}'>".encode())
        assert markup.base_url(markup.as_html(page)) == "http://a/b/"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a/b.jpg?v=1&PHPSESSID=0123456789abcdef", "http://a/b.jpg?v=1"),
        ("http://a/b.jpg?sid=0123456789abcdef&v=1", "http://a/b.jpg?v=1"),
        ("http://a/b.jpg;jsessionid=12AB?v=1", "http://a/b.jpg?v=1"),
        ("http://a/(S(0123456789abcdefghij))/b.jpg", "http://a/b.jpg"),
        ("http://a/b.jpg?sid=7&id=0123456789abcdef", "http://a/b.jpg?sid=7&id=0123456789abcdef"),
        ("http://a/b.jpg?", "http://a/b.jpg?"),
    ],
)
def test_a_session_is_no_part_of_a_picture_url(url: str, expected: str) -> None:
    assert markup.without_session(url) == expected


@pytest.mark.parametrize(
    ("header", "expected"), [("2", 2.0), ("1.5", 1.5), ("-3", 0.0), ("nan", 0.0), ("inf", 0.0), ("soon", 0.0)]
)
def test_retry_after_may_be_a_fraction(header: str, expected: float) -> None:
    assert seconds(header) == expected
