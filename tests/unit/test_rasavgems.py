"""What the spider reads from the catalogue's pages after scripts have filled them."""

from scrapy.http import HtmlResponse

from scraper.spiders.rasavgems import RasavgemsSpider

LIST = """<ul id="leftNavigation">
<li><a href="#">Gems</a><ul>
<li><a href="gems/ruby.html"> Star
  Ruby </a></li>
<li><a href="/gems/ruby-2.html">Star Ruby</a></li>
<li><a href="gems/opal.html">Opal</a></li>
<li><a href="gems/image.html"><img src="new.gif"></a></li>
</ul></li></ul>
<a href="about.html">About</a>"""
PAGE = """<img src="logo.gif">
<div id="Product_List">
<div class="product-one"><a href="1.html"><img src="../photos/1.jpg"></a></div>
<div class="product-one"><img src="http://[bad"><img data-src="later.jpg"></div>
<div class="product-one"><img src="/photos/2.png?size=1"><img src="../photos/1.jpg"></div>
</div>"""
SITE = "https://www.rasavgems.com/"


def page(url: str, body: str) -> HtmlResponse:
    return HtmlResponse(url, body=body, encoding="utf-8")


def test_each_gem_on_the_list_is_requested_once() -> None:
    spider = RasavgemsSpider()
    requests = list(spider.parse(page(SITE, LIST)))
    assert [(request.url, request.cb_kwargs["gem"]) for request in requests] == [
        (f"{SITE}gems/ruby.html", "Star Ruby"),
        (f"{SITE}gems/opal.html", "Opal"),
    ]
    assert spider.crawl_stats.unmatched == {
        "gem listed again with another page, which is not read": 1,
        "link of the list without a name, which is not read": 1,
    }


def test_each_picture_of_a_product_is_requested_once_without_a_browser() -> None:
    spider = RasavgemsSpider()
    spider.folders = {"Opal": "Opal"}
    requests = list(spider.parse_gem(page(f"{SITE}gems/opal.html", PAGE), "Opal"))
    assert [request.url for request in requests] == [
        f"{SITE}{path}" for path in ("photos/1.jpg", "gems/later.jpg", "photos/2.png?size=1")
    ]
    assert not any(request.meta.get("playwright") for request in requests)
    assert [failure["reason"] for failure in spider.crawl_stats.failures] == ["not a web address"]
    assert spider.crawl_stats.without_pictures == []


def test_unexpected_markup_is_counted() -> None:
    spider = RasavgemsSpider()
    assert list(spider.parse(page(SITE, "<p>closed</p>"))) == []
    assert list(spider.parse_gem(page(f"{SITE}gems/opal.html", "<p>sold out</p>"), "Opal")) == []
    assert spider.crawl_stats.without_pictures == ["Opal"]
    assert set(spider.crawl_stats.unmatched) == {"list without ul#leftNavigation", "gem page without #Product_List"}
