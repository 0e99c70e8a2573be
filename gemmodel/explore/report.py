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
from scipy.spatial.distance import cdist

from gemmodel.core import files
from gemmodel.core.params import ExploreParams
from gemmodel.explore.exploration import Exploration, FeatureTable
from gemmodel.figures import fonts, html, mean_colour, plots, tiles

TEMPLATE = Path(__file__).with_suffix(".html")
GREY = "#9a9a9a"
OTHERS = "\0"  # stands for the gems without a band of their own; no gem has this name
MAX_LABELS = 120  # gems with a label on a map, and in a diagram of gems and clusters
MIN_LINK = 0.15  # of a gem's photos in a cluster, so that the diagram of gems and clusters has a link of its own
LETTER_WIDTH, LINE_HEIGHT = 0.0065, 0.019  # of a label, as fractions of the map's width and height


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
    pictures, photo_colours = _thumbnails([split / file for file in table.files], params.thumbnail)
    class_colours, gem_colours = palette(gems, mineral_classes, mean_colour.by_gem(gems, photo_colours))
    figures = {
        "components": variance_curve(exploration.variance, params.variance, scores["components"]),
        "clusters": elbow_curves(exploration.elbow, scores),
    } | {name: flow(gems, indices, mineral_classes, gem_colours) for name, indices in exploration.clusters.items()}
    with files.atomic_write(out) as new:
        new.mkdir()
        for name in ("UMAP", "t-SNE"):
            figure = static_map(exploration.maps[name], gems, gem_colours, title=name)
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
                    "pictures": pictures,
                    "maps": {name: xy.astype(float).round(2).T.tolist() for name, xy in exploration.maps.items()},
                    "labels": {name: label_positions(xy, gems) for name, xy in exploration.maps.items()},
                    "groupings": _groupings(
                        gems,
                        mineral_classes,
                        exploration.clusters,
                        class_colours=class_colours,
                        gem_colours=gem_colours,
                    ),
                }
            ),
            figures={name: figure.to_json() for name, figure in figures.items()},
        )


def palette(
    gems: Sequence[str], mineral_classes: Mapping[str, str], mean_colours: Mapping[str, Sequence[float]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns a colour for each mineral class and for each gem.

    A gem has the mean colour of its photos. A mineral class of several gems has a hue of its own. One of a single gem
    is grey, since fifty hues are indistinguishable.

    Args:
        gems: names, which may repeat.
        mineral_classes: by gem.
        mean_colours: red, green and blue in [0, 1] by gem.

    Returns:
        Colours as `#rrggbb`: by mineral class, the one with the most gems first, and by gem in the same order.
    """
    members: dict[str, list[str]] = {}
    for gem in sorted(set(gems)):
        members.setdefault(mineral_classes[gem], []).append(gem)
    ordered = dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))
    several = [name for name in ordered if len(ordered[name]) > 1]
    class_colours = {name: _colour(i / len(several), 0.45, 0.75) for i, name in enumerate(several)}
    class_colours |= {name: GREY for name in ordered if name not in class_colours}
    gem_colours = {gem: mean_colour.to_hex(mean_colours[gem]) for names in ordered.values() for gem in names}
    return class_colours, gem_colours


def _colour(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * x):02x}" for x in colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def _groupings(
    gems: Sequence[str], mineral_classes: Mapping[str, str], clusters: Mapping[str, np.ndarray], *,
    class_colours: Mapping[str, str], gem_colours: Mapping[str, str],
) -> dict[str, dict[str, list]]:  # fmt: skip
    """Returns the groupings of the photos: the names and colours of the groups, and each photo's group index."""
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


def _thumbnails(paths: Sequence[Path], side: int) -> tuple[list[str], list[np.ndarray]]:
    """Returns each photo's thumbnail as a data URL, and its mean colour."""

    def read(path: Path) -> tuple[str, np.ndarray]:
        photo = tiles.thumbnail(path, side)
        return html.data_url(photo), mean_colour.of_photo(photo)

    photos = list(Parallel(n_jobs=-1, prefer="threads")(delayed(read)(path) for path in paths))
    return [url for url, _ in photos], [colour for _, colour in photos]


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
        marker = {"size": 16, "symbol": "circle-open", "color": GREY}
        figure.add_scatter(
            x=point["clusters"], y=point[name], mode="markers", marker=marker, name=f"elbow after {name}"
        )
    return _styled(figure, "clusters", "squared distance to the centre, relative", height=360)


def flow(
    gems: Sequence[str], clusters: np.ndarray, mineral_classes: Mapping[str, str], colours: Mapping[str, str]
) -> go.Figure:
    """Draws a Sankey diagram from gems to clusters; each link has the colour of its gem.

    Of many gems, and of many clusters, those with the most photos have a band each, and the others one together. Links
    with a small fraction of their gem's photos would hide the others; they end together in a grey band.
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
    counts, photos = Counter(zip(gems, clusters.tolist(), strict=True)), Counter(gems)
    thin = [pair for pair, count in counts.items() if count < MIN_LINK * photos[pair[0]]]
    if thin:
        scattered = len(names)
        names[scattered] = f"fewer than {MIN_LINK:.0%} of a gem's photos each".replace("%", " %")
        for pair in thin:
            counts[pair[0], scattered] += counts.pop(pair)
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
                    f"rgba({','.join(str(int(colours[gem][i : i + 2], 16)) for i in (1, 3, 5))},.5)" for gem, _ in pairs
                ],
            },
        )
    )
    figure.update_layout(
        height=max(400, 60 + 26 * max(len(order), len(names))), margin={"l": 8, "r": 8, "t": 8, "b": 8}
    )
    figure.update_traces(textfont={"size": 11, "shadow": "none"})
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
    """Returns the positions of the gems' labels on a map: where the gem's photos are densest, without overlaps.

    A label lies on the photo whose distance to the nearest half of the gem's photos is least, or on the next one of
    this half that leaves it free of earlier labels. Where none does, it moves up or down by the smallest number of
    lines. Of many gems only the most frequent ones have a label.

    Args:
        positions: of the photos, shape (photos, 2).
        gems: of the photos.

    Returns:
        The label's centre by gem, for a map of some 1,100 by 750 pixels with letters of 10 pixels.
    """
    width, height = np.ptp(positions, axis=0)
    labels: dict[str, tuple[float, float]] = {}
    photo_gems, shown = np.array(gems), sorted(most_frequent(gems))

    def is_free(gem: str, x: float, y: float) -> bool:
        return not any(
            abs(x - other_x) < LETTER_WIDTH * width * (len(gem) + len(other)) / 2
            and abs(y - other_y) < 0.99 * LINE_HEIGHT * height  # positions are rounded
            for other, (other_x, other_y) in labels.items()
        )

    for gem in shown:
        dense = _densest(positions[photo_gems == gem])
        x, y = dense[0]
        lines = [(x, y + step * LINE_HEIGHT * height) for step in sorted(range(-len(shown), len(shown)), key=abs)]
        label = next((point for point in [*dense, *lines] if is_free(gem, *point)), dense[0])
        labels[gem] = (round(float(label[0]), 3), round(float(label[1]), 3))
    return labels


def _densest(points: np.ndarray) -> list[tuple[float, float]]:
    """Returns half of the points, those with the least mean distance to their nearest half first."""
    half = (len(points) + 1) // 2
    distances = np.sort(cdist(points, points), axis=1)[:, :half].mean(axis=1)
    return [(float(x), float(y)) for x, y in points[np.argsort(distances, kind="stable")[:half]]]


def static_map(positions: np.ndarray, gems: Sequence[str], colours: Mapping[str, str], *, title: str) -> Figure:
    """Draws a map in the colours of the gems, with a label for each gem.

    Args:
        positions: of the photos, shape (photos, 2).
        gems: of the photos.
        colours: by gem.
        title: of the picture.
    """
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        positions[:, 0], positions[:, 1], s=22, c=[colours[gem] for gem in gems], edgecolors="0.45", linewidths=0.3
    )
    outline = [withStroke(linewidth=2.5, foreground="white")]
    labels = label_positions(positions, gems)
    names, style = fonts.legible(labels)
    for name, (x, y) in zip(names, labels.values(), strict=True):
        axes.text(x, y, name, fontsize=9, ha="center", va="center", path_effects=outline, **style)
    number = len(set(gems))
    note = "" if len(labels) == number else f", with labels of the {len(labels)} most frequent of {number} gems"
    axes.set(title=f"{title} of {len(gems)} photos{note}", xticks=[], yticks=[])
    return figure
