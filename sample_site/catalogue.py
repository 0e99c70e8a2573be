"""A catalogue with rasavgems.com's structure, whose products are filled in by a script, and with its defects.

It lists the gems of the sample site with their ordinary pictures; a gem without pictures has no products. The page of
BROKEN stays empty, because its data is a 404. One link of the list opens a menu; another one redirects to another
host, from which every page tries to load scripts and pictures.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape

from sample_site.gems import Gem
from sample_site.pictures import Picture

BROKEN = "Almandine"
MOVED = "gems/moved.html"
ELSEWHERE = "http://elsewhere.example/"
PAGE = """<!DOCTYPE html>
<html>
<head><meta charset="utf-8"><title>{title}</title>
<script src="http://elsewhere.example/count.js"></script><script src="/scripts/catalogue.js" defer></script></head>
<body>
<ul id="leftNavigation"><li><a href="#">Gems</a><ul>
{links}
</ul></li></ul>
<h1>{title}</h1>
<div id="Product_List" data-products="{products}"></div>
</body>
</html>
"""
# The script pauses, as the real one does, for longer than the 500 ms after which a network counts as idle.
SCRIPT = """
const pause = time => new Promise(done => setTimeout(done, time));
navigator.sendBeacon("http://elsewhere.example/beacon");
window.open("http://elsewhere.example/advertisement");
new WebSocket("ws://elsewhere.example/chat").onerror = () => {};
fetch("/gems/moved.html").catch(() => {});
(async () => {
  const list = document.querySelector("#Product_List");
  if (!list.dataset.products) return;
  await pause(700);
  for (const source of await (await fetch(list.dataset.products)).json()) {
    await pause(100);
    const product = document.createElement("div");
    product.className = "product-one";
    product.append(Object.assign(document.createElement("img"), {alt: ""}));
    product.firstChild.setAttribute("src", source);
    list.append(product);
  }
})();
"""


def pages(gems: Sequence[Gem], pictures: Mapping[str, Sequence[Picture]], robots: str) -> dict[str, tuple[str, str]]:
    """Returns media type and text by path of the catalogue."""
    html, data = "text/html; charset=utf-8", "application/json"
    links = [f'<li><a href="gems/{gem.slug}.html"> {escape(gem.name)}\n</a></li>' for gem in gems]
    links.append(f'<li><a href="{MOVED}">Moved</a></li>')
    texts = {
        "/robots.txt": ("text/plain; charset=utf-8", robots),
        "/scripts/catalogue.js": ("text/javascript; charset=utf-8", SCRIPT),
        "/": (html, PAGE.format(title="Gems", links="\n".join(links), products="")),
    }
    for gem in gems:
        products = f"/products/{gem.slug}.json"
        texts[f"/gems/{gem.slug}.html"] = html, PAGE.format(title=escape(gem.name), links="", products=products)
        if gem.name != BROKEN:
            sources = [f"..{picture.path}" for picture in pictures[gem.name] if not picture.defect]
            texts[products] = data, json.dumps(sources + [f"{ELSEWHERE}{gem.slug}.jpg"] * bool(sources))
    return texts
