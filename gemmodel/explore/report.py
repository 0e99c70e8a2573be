"""The exploration as an interactive page, with each photo under the pointer, and as static plots."""

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from plotly.offline import get_plotlyjs

from gemmodel.core import files
from gemmodel.core.params import ExploreParams
from gemmodel.explore.exploration import Exploration, FeatureTable
from gemmodel.figures import fonts, html, plots, tiles

TEMPLATE = Path(__file__).with_suffix(".html")
GREY = "#9a9a9a"
OTHERS = "\0"  # stands for the gems without a band of their own; no gem has this name
MAX_LABELS = 120  # gems with a label on a map, and in a diagram of gems and clusters
MAX_LEGEND = 30  # mineral classes in a static map's legend
LETTER_WIDTH, LINE_HEIGHT = 0.0058, 0.018  # of a label, as fractions of the map's width and height


def write(
    out: Path,
    table: FeatureTable,
    mineral_classes: Mapping[str, str],
    exploration: Exploration,
    split: Path,
    params: ExploreParams,
) -> None:
    """Writes `index.html`, `umap.png`, `tsne.png`, `variance.csv` and `elbow.csv`.

    Args:
        out: the folder.
        table: the features that were explored.
        mineral_classes: by gem.
        exploration: of these features.
        split: the folder that the photos' files are relative to.
        params: of the exploration.
    """
    gems, scores = table.gems, exploration.scores
    _, gem_colours = palette(gems, mineral_classes)
    figures = {
        "components": variance_curve(exploration.variance, params.variance, scores["components"]),
        "clusters": elbow_curves(exploration.elbow, scores),
    } | {name: flow(gems, indices, mineral_classes, gem_colours) for name, indices in exploration.clusters.items()}
    with files.atomic_write(out) as new:
        new.mkdir()
        for name in ("UMAP", "t-SNE"):
            figure = static_map(exploration.maps[name], gems, mineral_classes, title=name)
            plots.save(figure, new / f"{name.lower().replace('-', '')}.png", dpi=110)
        exploration.variance.to_csv(new / "variance.csv", index=False)
        exploration.elbow.to_csv(new / "elbow.csv", index=False)
        html.write(
            new / "index.html",
            TEMPLATE,
            plotly=get_plotlyjs(),
            scores=scores,
            total=table.total,
            params=params,
            max_labels=MAX_LABELS,
            photos=htmlsafe_json_dumps(  # once for all maps; Jinja's own filter would sort the keys
                {
                    "files": table.files,
                    "pictures": _thumbnails([split / file for file in table.files], params.thumbnail),
                    "maps": {name: xy.astype(float).round(2).T.tolist() for name, xy in exploration.maps.items()},
                    "labels": {name: label_positions(xy, gems) for name, xy in exploration.maps.items()},
                    "groupings": _groupings(gems, mineral_classes, exploration.clusters),
                }
            ),
            figures={name: figure.to_json() for name, figure in figures.items()},
        )


def palette(gems: Sequence[str], mineral_classes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns a colour for each mineral class and for each gem.

    A mineral class of several gems has a hue of its own, and its gems have shades of it. A mineral class of one gem is
    grey, since fifty hues are indistinguishable, and its gem has a pale hue.

    Args:
        gems: names, which may repeat.
        mineral_classes: by gem.

    Returns:
        Colours as `#rrggbb`: by mineral class, the one with the most gems first, and by gem in the same order.
    """
    members: dict[str, list[str]] = {}
    for gem in sorted(set(gems)):
        members.setdefault(mineral_classes[gem], []).append(gem)
    ordered = dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))
    several = [name for name in ordered if len(ordered[name]) > 1]
    single = [name for name in ordered if len(ordered[name]) == 1]
    class_colours = {name: _colour(i / len(several), 0.45, 0.75) for i, name in enumerate(several)}
    gem_colours: dict[str, str] = {}
    for i, name in enumerate(several):
        shades = np.linspace(0.25, 0.75, len(ordered[name]))
        gem_colours |= {gem: _colour(i / len(several), x, 0.7) for gem, x in zip(ordered[name], shades, strict=True)}
    for i, name in enumerate(single):
        class_colours[name] = GREY
        gem_colours[ordered[name][0]] = _colour(i / len(single), 0.6, 0.3)
    return class_colours, gem_colours


def _colour(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * x):02x}" for x in colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def _groupings(
    gems: Sequence[str], mineral_classes: Mapping[str, str], clusters: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list]]:
    """Returns the groupings of the photos: the names and colours of the groups, and each photo's group index."""
    class_colours, gem_colours = palette(gems, mineral_classes)
    result = {
        "gem": _grouping(gems, gem_colours),
        "mineral class": _grouping([mineral_classes[gem] for gem in gems], class_colours),
    }
    for space, indices in clusters.items():
        names = cluster_names(gems, indices)
        colours = {name: _colour(0.618034 * i, 0.5, 0.6) for i, name in enumerate(names.values())}
        result[f"cluster after {space}"] = _grouping([names[index] for index in indices.tolist()], colours)
    return result


def _grouping(photo_groups: Sequence[str], colours: Mapping[str, str]) -> dict[str, list]:
    indices = {name: i for i, name in enumerate(colours)}
    return {
        "names": list(colours),
        "colours": list(colours.values()),
        "indices": [indices[name] for name in photo_groups],
    }


def cluster_names(gems: Sequence[str], clusters: np.ndarray) -> dict[int, str]:
    """Returns a name for each cluster, by index: its number, its most frequent gem, and the percentage of this gem."""
    names = {}
    for index in np.unique(clusters).tolist():
        counts = Counter(gem for gem, cluster in zip(gems, clusters, strict=True) if cluster == index)
        gem, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        names[index] = f"{index + 1}: {gem} {count / counts.total():.0%}"
    return names


def _thumbnails(paths: Sequence[Path], side: int) -> list[str]:
    def data_url(path: Path) -> str:
        return html.data_url(tiles.thumbnail(path, side))

    return list(Parallel(n_jobs=-1, prefer="threads")(delayed(data_url)(path) for path in paths))


def variance_curve(variance: pd.DataFrame, target: float, components: int) -> go.Figure:
    """Draws the explained fraction of the variance by number of components, with lines where it reaches a target."""
    figure = go.Figure(go.Scatter(x=variance["component"], y=variance["fraction"], mode="lines", name="fraction"))
    figure.add_hline(target, line_dash="dot", line_color=GREY)
    figure.add_vline(components, line_dash="dot", line_color=GREY, annotation_text=f"{target:g}: {components}")
    return _styled(figure, "components", "explained fraction of the variance", height=360)


def elbow_curves(elbow: pd.DataFrame, scores: Mapping) -> go.Figure:
    """Draws the photos' squared distance to their cluster's centre by number of clusters, with a mark at each elbow."""
    figure = go.Figure()
    for name in elbow.columns[1:]:
        figure.add_scatter(x=elbow["clusters"], y=elbow[name], mode="lines+markers", name=f"after {name}")
        point = elbow[elbow["clusters"] == scores[name.lower()]["elbow"]]
        marker = {"size": 16, "symbol": "circle-open", "color": "black"}
        figure.add_scatter(
            x=point["clusters"], y=point[name], mode="markers", marker=marker, name=f"elbow after {name}"
        )
    return _styled(figure, "clusters", "squared distance to the centre, relative", height=360)


def flow(
    gems: Sequence[str], clusters: np.ndarray, mineral_classes: Mapping[str, str], colours: Mapping[str, str]
) -> go.Figure:
    """Draws a Sankey diagram from gems to clusters; each link has the colour of its gem.

    Of many gems, and of many clusters, those with the most photos have a band each, and the others one together.
    """
    names = cluster_names(gems, clusters)
    other_gems, other_clusters = (len(groups) - MAX_LABELS for groups in (colours, names))
    shown = most_frequent(gems)
    gems = [gem if gem in shown else OTHERS for gem in gems]
    colours = {gem: colour for gem, colour in colours.items() if gem in shown}
    labels = [f"{gem} ({mineral_classes[gem]})" if mineral_classes[gem] != gem else gem for gem in colours]
    if other_gems > 0:
        colours |= {OTHERS: GREY}
        labels.append(f"{other_gems} other gems")
    kept = sorted(index for index, _ in Counter(clusters.tolist()).most_common(MAX_LABELS))
    positions = {index: i for i, index in enumerate(kept)}
    clusters = np.array([positions.get(index, len(kept)) for index in clusters.tolist()])
    names = {i: names[index] for i, index in enumerate(kept)}
    if other_clusters > 0:
        names[len(kept)] = f"{other_clusters} other clusters"
    order = {gem: i for i, gem in enumerate(colours)}
    counts = Counter(zip(gems, clusters.tolist(), strict=True))
    pairs = sorted(counts, key=lambda pair: (order[pair[0]], pair[1]))
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": [escape(label, quote=False) for label in [*labels, *names.values()]],  # Plotly reads HTML
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


def most_frequent(gems: Sequence[str]) -> set[str]:
    """Returns the `MAX_LABELS` gems with the most photos, the first ones in alphabetical order among equals."""
    counts = Counter(sorted(gems))  # of equals the first comes first
    return {gem for gem, _ in counts.most_common(MAX_LABELS)}


def label_positions(positions: np.ndarray, gems: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the positions of the gems' labels on a map: the median of each gem's photos, moved to avoid overlaps.

    A label moves up or down, by the smallest number of lines that avoids an overlap with an earlier label. Of many gems
    only the most frequent ones have a label.

    Args:
        positions: of the photos, shape (photos, 2).
        gems: of the photos.

    Returns:
        The label's centre by gem, for a map of some 1,100 by 750 pixels with letters of 10 pixels.
    """
    width, height = np.ptp(positions, axis=0)
    labels: dict[str, tuple[float, float]] = {}
    photo_gems, shown = np.array(gems), sorted(most_frequent(gems))
    for gem in shown:
        x, median = np.median(positions[photo_gems == gem], axis=0)
        for step in sorted(range(-len(shown), len(shown)), key=abs):
            y = median + step * LINE_HEIGHT * height
            if not any(
                abs(x - other_x) < LETTER_WIDTH * width * (len(gem) + len(other)) / 2
                and abs(y - other_y) < 0.99 * LINE_HEIGHT * height  # positions are rounded
                for other, (other_x, other_y) in labels.items()
            ):
                break
        labels[gem] = (round(float(x), 3), round(float(y), 3))
    return labels


def static_map(positions: np.ndarray, gems: Sequence[str], mineral_classes: Mapping[str, str], *, title: str) -> Figure:
    """Draws a map in the colours of the mineral classes, with a label for each gem.

    Args:
        positions: of the photos, shape (photos, 2).
        gems: of the photos.
        mineral_classes: by gem.
        title: of the picture.
    """
    class_colours, _ = palette(gems, mineral_classes)
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots()
    photo_classes = np.array([mineral_classes[gem] for gem in gems])
    several = [name for name, colour in class_colours.items() if colour != GREY]
    legend = several[:MAX_LEGEND]
    for i, (name, colour) in enumerate(class_colours.items()):
        x, y = positions[photo_classes == name].T
        label = (
            f"class {i}" if i < len(legend) else None
        )  # the name is set below: one that begins with _ would be ignored
        axes.scatter(x, y, s=14, color=colour, alpha=0.75, linewidths=0, label=label)
    outline = [withStroke(linewidth=2, foreground="white")]
    labels = label_positions(positions, gems)
    names, style = fonts.legible(labels)
    for name, (x, y) in zip(names, labels.values(), strict=True):
        axes.text(x, y, name, fontsize=7, ha="center", va="center", path_effects=outline, **style)
    if len(several) > len(legend):
        axes.scatter([], [], s=0, label=f"and {len(several) - len(legend)} more")
    if GREY in class_colours.values():
        axes.scatter([], [], s=14, color=GREY, label="of one gem each")
    names, style = fonts.legible(legend)
    box = axes.legend(
        title="mineral class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2,
        prop={"family": style["family"]},
    )  # fmt: skip
    for text, name in zip(box.get_texts(), names, strict=False):
        text.set(text=name, parse_math=style["parse_math"])
    number = len(set(gems))
    note = "" if len(labels) == number else f", with labels of the {len(labels)} most frequent of {number} gems"
    axes.set(title=f"{title} of {len(gems)} photos{note}", xticks=[], yticks=[])
    return figure
