"""The HTML of the site, with minerals.net's ids, classes and relative links."""

from collections.abc import Iterable, Sequence
from html import escape

from sample_site.gems import Gem
from sample_site.pictures import Picture

ID = "ctl00_ContentPlaceHolder1_"
COLUMNS = 3
PAGE = """<!DOCTYPE html>
<html>
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<div id="header"><a href="/GemStoneMain.aspx"><img src="/images/logo.gif" alt="Minerals"></a></div>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def gem_path(gem: Gem) -> str:
    """Returns the path of a gem's page."""
    return f"/gemstone/{gem.slug}_gemstone.aspx"


def list_page(gems: Sequence[Gem], first_pictures: dict[str, Picture]) -> str:
    """Returns the list of all gems with their first pictures; every fifth link has the site's older markup."""
    cells = []
    for i, gem in enumerate(sorted(gems, key=lambda gem: gem.name)):
        link, name = gem_path(gem).lstrip("/"), escape(gem.name)
        picture = first_pictures.get(gem.name)
        thumbnail = f'<img src="gemstone/{escape(picture.src)}" alt="">' if picture else ""
        if i % 5 == 3:
            cells.append(f'<td><a href="{link}">\n{name} </a></td>')
        else:
            cells.append(
                f'<td><table><tr><td>&nbsp;</td><td><a class="mineralimg" href="{link}">{thumbnail}</a><br>'
                f'<a class="bluelink" href="{link}">{name}</a></td></tr></table></td>'
            )
    cells += cells[:1]  # the list names one gem twice
    return PAGE.format(title="Gemstones", body=_table(cells))


def gem_page(gem: Gem, pictures: Sequence[Picture]) -> str:
    """Returns a gem's page: its properties, its prose and the thumbnails of its pictures."""
    rows = "\n".join(
        f'<tr id="{ID}tr{key}"><td>{key}</td><td>{escape(value)}</td></tr>' for key, value in gem.properties.items()
    )
    prose = "\n".join(
        f'<h2>{title}</h2>\n<span id="{ID}lbl{label}">{escape(text)}</span>'
        for title, label, text in (
            ("All about", "AllAbout", gem.facts.about),
            ("Uses", "Uses", gem.facts.uses),
            ("Sources", "Source", gem.facts.source),
        )
    )
    images = [f'<td><img src="{escape(p.src)}" alt="{escape(gem.name)}"></td>' for p in pictures]
    body = f"<table>\n{rows}\n</table>\n{prose}\n{_table(images) if images else '<p>No pictures yet.</p>'}"
    return PAGE.format(title=escape(gem.name), body=body)


def _table(cells: Sequence[str]) -> str:
    lines: Iterable[str] = (f"<tr>{''.join(cells[i : i + COLUMNS])}</tr>" for i in range(0, len(cells), COLUMNS))
    return f'<table id="{ID}DataList1">\n' + "\n".join(lines) + "\n</table>"
