"""A catalogue with rasavgems.com's structure, whose products a script fills in, and with what may go wrong there.

Gems are those of the site, with its ordinary pictures; one without pictures has no products. BROKEN's page is never
filled: its data is not there. One link of the list opens a menu, another leads, by a redirect, to another host, of
which each page tries to load more.
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
# The real site's script takes its time, too: more of it than a network has to be silent to count as idle.
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
    """Returns the media type and the text behind each path of the catalogue."""
    html, data = "text/html; charset=utf-8", "application/json"
    links = [f'<li><a href="gems/{gem.slug}.html"> {escape(gem.name)}\n</a></li>' for gem in gems]
    links.append(f'<li><a href="{MOVED}">Moved</a></li>')
    found = {
        "/robots.txt": ("text/plain; charset=utf-8", robots),
        "/scripts/catalogue.js": ("text/javascript; charset=utf-8", SCRIPT),
        "/": (html, PAGE.format(title="Gems", links="\n".join(links), products="")),
    }
    for gem in gems:
        products = f"/products/{gem.slug}.json"
        found[f"/gems/{gem.slug}.html"] = html, PAGE.format(title=escape(gem.name), links="", products=products)
        if gem.name != BROKEN:
            sources = [f"..{picture.path}" for picture in pictures[gem.name] if not picture.kind]
            found[products] = data, json.dumps(sources + [f"{ELSEWHERE}{gem.slug}.jpg"] * bool(sources))
    return found
