"""The exploration as a page to look around in, with each photo under the pointer, and as still pictures."""

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image
from plotly.offline import get_plotlyjs

from gemmodel.core import files
from gemmodel.core.params import ExploreParams
from gemmodel.explore.exploration import Exploration, FeatureTable
from gemmodel.figures import html

TEMPLATE = Path(__file__).with_suffix(".html")
GREY = "#9a9a9a"
LETTER, LINE = 0.0058, 0.018  # width and height of a name on a map, as shares of the map's


def write(
    out: Path,
    known: FeatureTable,
    mineral_classes: Mapping[str, str],
    found: Exploration,
    split: Path,
    params: ExploreParams,
) -> None:
    """Writes `index.html`, `umap.png`, `tsne.png`, `variance.csv` and `elbow.csv`.

    Args:
        out: becomes the folder.
        known: whose features were explored.
        mineral_classes: by gem.
        found: what there is to show.
        split: the folder that the photos' files are relative to.
        params: what was asked for.
    """
    groups = _groups(known.gems, mineral_classes, found.clusters)
    shades = dict(zip(groups["gem"]["names"], groups["gem"]["colours"], strict=True))
    figures = {
        "components": variance_curve(found.variance, params.variance, found.scores["components"]),
        "clusters": elbow_curves(found.elbow, found.scores),
    } | {name: flow(known.gems, indices, mineral_classes, shades) for name, indices in found.clusters.items()}
    with files.atomic_write(out) as new:
        new.mkdir()
        for name in ("UMAP", "t-SNE"):
            figure = still_map(found.maps[name], known.gems, mineral_classes, title=name)
            figure.savefig(new / f"{name.lower().replace('-', '')}.png", dpi=110, metadata={"Software": None})
        found.variance.to_csv(new / "variance.csv", index=False)
        found.elbow.to_csv(new / "elbow.csv", index=False)
        html.write(
            new / "index.html",
            TEMPLATE,
            plotly=get_plotlyjs(),
            scores=found.scores,
            params=params,
            photos=htmlsafe_json_dumps(  # once, however many maps there are; Jinja's own filter would sort the keys
                {
                    "files": known.files,
                    "pictures": _thumbnails([split / name for name in known.files], params.thumbnail),
                    "maps": {name: places.astype(float).round(2).T.tolist() for name, places in found.maps.items()},
                    "names": {name: name_places(places, known.gems) for name, places in found.maps.items()},
                    "groups": groups,
                }
            ),
            figures={name: figure.to_json() for name, figure in figures.items()},
        )


def palette(gems: Sequence[str], mineral_classes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns a colour of each mineral class and of each gem.

    Mineral classes of several gems get a hue each, and their gems shades of it; those of one gem are grey, for no eye
    tells fifty hues apart, and the gem has a pale hue.

    Args:
        gems: names, each as often as may be.
        mineral_classes: by gem.

    Returns:
        Colours as `#rrggbb` by mineral class, those of most gems first, and by gem in the same order.
    """
    members: dict[str, list[str]] = {}
    for gem in sorted(set(gems)):
        members.setdefault(mineral_classes[gem], []).append(gem)
    ordered = dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))
    several = [name for name in ordered if len(ordered[name]) > 1]
    single = [name for name in ordered if len(ordered[name]) == 1]
    of_class = {name: _colour(place / len(several), 0.45, 0.75) for place, name in enumerate(several)}
    of_gem: dict[str, str] = {}
    for place, name in enumerate(several):
        lightness = np.linspace(0.25, 0.75, len(ordered[name]))
        of_gem |= {gem: _colour(place / len(several), x, 0.7) for gem, x in zip(ordered[name], lightness, strict=True)}
    for place, name in enumerate(single):
        of_class[name] = GREY
        of_gem[ordered[name][0]] = _colour(place / len(single), 0.6, 0.3)
    return of_class, of_gem


def _colour(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def _groups(
    gems: Sequence[str], mineral_classes: Mapping[str, str], clusters: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list]]:
    """Returns the ways to colour the photos: the names of the groups, their colours, and each photo's group."""
    of_class, of_gem = palette(gems, mineral_classes)
    found = {
        "gem": _group(gems, of_gem),
        "mineral class": _group([mineral_classes[gem] for gem in gems], of_class),
    }
    for space, indices in clusters.items():
        names = cluster_names(gems, indices)
        colours = {name: _colour(0.618034 * place, 0.5, 0.6) for place, name in enumerate(names.values())}
        found[f"cluster after {space}"] = _group([names[index] for index in indices.tolist()], colours)
    return found


def _group(names: Sequence[str], colours: Mapping[str, str]) -> dict[str, list]:
    places = {name: place for place, name in enumerate(colours)}
    return {"names": list(colours), "colours": list(colours.values()), "of": [places[name] for name in names]}


def cluster_names(gems: Sequence[str], clusters: np.ndarray) -> dict[int, str]:
    """Returns a name of each cluster, by index: its number, the gem that most of its photos show, and their share."""
    found = {}
    for index in range(int(clusters.max()) + 1):
        inside = Counter(gem for gem, cluster in zip(gems, clusters, strict=True) if cluster == index)
        gem, number = min(inside.items(), key=lambda item: (-item[1], item[0]))
        found[index] = f"{index + 1}: {gem} {number / inside.total():.0%}"
    return found


def _thumbnails(paths: Sequence[Path], side: int) -> list[str]:
    def thumbnail(path: Path) -> str:
        with Image.open(path) as picture:
            picture.thumbnail((side, side))  # a JPEG is decoded no larger than need be
            return html.data_url(picture.convert("RGB"))

    return list(Parallel(n_jobs=-1, prefer="threads")(delayed(thumbnail)(path) for path in paths))


def variance_curve(variance: pd.DataFrame, wanted: float, components: int) -> go.Figure:
    """Draws the share of the variance that so many components tell, with a line where it passes the wanted one."""
    figure = go.Figure(go.Scatter(x=variance["component"], y=variance["fraction"], mode="lines", name="fraction"))
    figure.add_hline(wanted, line_dash="dot", line_color=GREY)
    figure.add_vline(components, line_dash="dot", line_color=GREY, annotation_text=f"{wanted:g}: {components}")
    return _styled(figure, "components", "share of the variance", height=360)


def elbow_curves(elbow: pd.DataFrame, scores: Mapping) -> go.Figure:
    """Draws how far photos lie from their cluster's centre, by number of clusters, with a mark at each elbow."""
    figure = go.Figure()
    for name in elbow.columns[1:]:
        figure.add_scatter(x=elbow["clusters"], y=elbow[name], mode="lines+markers", name=f"after {name}")
        bend = elbow[elbow["clusters"] == scores[name.lower()]["elbow"]]
        mark = {"size": 16, "symbol": "circle-open", "color": "black"}
        figure.add_scatter(x=bend["clusters"], y=bend[name], mode="markers", marker=mark, name=f"elbow after {name}")
    return _styled(figure, "clusters", "squared distance to the centre, share", height=360)


def flow(
    gems: Sequence[str], clusters: np.ndarray, mineral_classes: Mapping[str, str], colours: Mapping[str, str]
) -> go.Figure:
    """Draws a Sankey diagram from gems to clusters, in the gem's colour, in an order with few crossings."""
    names = cluster_names(gems, clusters)
    order = {gem: place for place, gem in enumerate(colours)}
    counts = Counter(zip(gems, clusters.tolist(), strict=True))
    pairs = sorted(counts, key=lambda pair: (order[pair[0]], pair[1]))
    labels = [f"{gem} ({mineral_classes[gem]})" if mineral_classes[gem] != gem else gem for gem in colours]
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": labels + list(names.values()),
                "color": list(colours.values()) + ["#cccccc"] * len(names),
                "pad": 12,
                "thickness": 12,
                "line": {"width": 0},
            },
            link={
                "source": [order[gem] for gem, _ in pairs],
                "target": [len(order) + cluster for _, cluster in pairs],
                "value": [counts[pair] for pair in pairs],
                "color": [
                    f"rgba({','.join(str(int(colours[gem][i : i + 2], 16)) for i in (1, 3, 5))},.4)" for gem, _ in pairs
                ],
            },
        )
    )
    figure.update_layout(
        height=max(400, 60 + 26 * max(len(order), len(names))), margin={"l": 8, "r": 8, "t": 8, "b": 8}
    )
    figure.update_traces(textfont={"size": 11, "color": "black", "shadow": "none"})
    figure.update_layout(template="plotly_white")
    return figure


def _styled(figure: go.Figure, x: str, y: str, *, height: int) -> go.Figure:
    figure.update_layout(template="plotly_white", height=height, margin={"l": 60, "r": 20, "t": 20, "b": 50})
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y, rangemode="tozero")
    return figure


def name_places(places: np.ndarray, gems: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns where each gem's name can be read: amid its photos, or as little above or below as no other name needs.

    Args:
        places: shape (photos, 2).
        gems: of the photos.

    Returns:
        The name's centre by gem, on a map drawn some 1,100 by 750 pixels large with letters of 10 pixels.
    """
    spread = np.ptp(places, axis=0)
    found: dict[str, tuple[float, float]] = {}
    for gem in sorted(set(gems)):
        x, y = np.median(places[np.array(gems) == gem], axis=0)
        for step in sorted(range(-len(gems), len(gems)), key=abs):
            higher = y + step * LINE * spread[1]
            if not any(
                abs(x - other_x) < LETTER * spread[0] * (len(gem) + len(other)) / 2
                and abs(higher - other_y) < 0.99 * LINE * spread[1]  # places are rounded
                for other, (other_x, other_y) in found.items()
            ):
                break
        found[gem] = (round(float(x), 3), round(float(higher), 3))
    return found


def still_map(places: np.ndarray, gems: Sequence[str], mineral_classes: Mapping[str, str], *, title: str) -> Figure:
    """Draws a map in the colours of the mineral classes, with each gem's name amid its photos.

    Args:
        places: shape (photos, 2).
        gems: of the photos.
        mineral_classes: by gem.
        title: of the picture.
    """
    of_class, _ = palette(gems, mineral_classes)
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots()
    of = np.array([mineral_classes[gem] for gem in gems])
    for name, colour in of_class.items():
        label = name if colour != GREY else None
        axes.scatter(
            places[of == name, 0], places[of == name, 1], s=14, color=colour, alpha=0.75, linewidths=0, label=label
        )
    outline = [withStroke(linewidth=2, foreground="white")]
    for gem, (x, y) in name_places(places, gems).items():
        axes.text(x, y, gem, fontsize=7, ha="center", va="center", path_effects=outline)
    if GREY in of_class.values():
        axes.scatter([], [], s=14, color=GREY, label="of one gem each")
    axes.legend(title="mineral class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    axes.set(title=f"{title} of {len(gems)} photos", xticks=[], yticks=[])
    return figure
