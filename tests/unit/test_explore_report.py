"""Colours and labels of groups in the exploration, and its sample of photos."""

from pathlib import Path

import numpy as np

from gemmodel.embed import feature_set
from gemmodel.explore import exploration, report

CLASSES = {"Ruby": "Corundum", "Sapphire": "Corundum", "Emerald": "Beryl", "Morganite": "Beryl", "Opal": "Opal"}


def test_every_gem_has_a_colour_and_mineral_classes_of_one_gem_are_grey() -> None:
    class_colours, gem_colours = report.palette([*CLASSES, "Ruby"], CLASSES)
    assert list(class_colours) == ["Beryl", "Corundum", "Opal"]
    assert class_colours["Opal"] == report.GREY
    assert len({*class_colours.values(), *gem_colours.values()}) == 8
    assert list(gem_colours) == ["Emerald", "Morganite", "Ruby", "Sapphire", "Opal"]


def test_a_cluster_is_named_after_its_most_frequent_gem() -> None:
    names = report.cluster_names(["Ruby", "Ruby", "Opal", "Opal"], np.array([0, 0, 0, 1]))
    assert names == {0: "1: Ruby 67%", 1: "2: Opal 100%"}


def test_labels_of_gems_at_the_same_position_do_not_overlap() -> None:
    gems = [f"Gem number {i}" for i in range(9)]
    positions = np.vstack([np.full((9, 2), 0.5), [[0, 0], [1, 1]]])
    labels = report.label_positions(positions, [*gems, "Corner", "Corner"])
    assert set(labels) == {*gems, "Corner"}
    heights = sorted(labels[gem][1] for gem in gems)
    assert np.diff(heights).min() >= 0.99 * report.LINE_HEIGHT  # positions are rounded
    assert all(abs(height - 0.5) < 6 * report.LINE_HEIGHT for height in heights)


def test_a_sample_is_random_and_keeps_each_photo_with_its_file_and_gem(tmp_path: Path) -> None:
    values, gems = np.arange(50, dtype=np.float32), ["gem 0", "gem 1", "gem 2"]
    for part, rows in (("train", slice(40)), ("val", slice(40, 50))):
        names = np.array([f"{n:.0f}.jpg" for n in values[rows]])
        photos = feature_set.FeatureSet(values[rows, None], values[rows].astype(int) % 3, names, gems, {"maps": 1})
        feature_set.write(tmp_path / part, photos, shard_size=9)

    def read(**options: int) -> exploration.FeatureTable:
        table = exploration.read(tmp_path, ("train", "val"), **options)
        assert table.files == [f"{'train' if n < 40 else 'val'}/{n:.0f}.jpg" for n in table.features[:, 0]]
        assert table.gems == [f"gem {n % 3:.0f}" for n in table.features[:, 0]]
        return table

    assert read(seed=1).total == 0
    assert read(seed=1).features[:, 0].tolist() == values.tolist()
    sample = read(seed=1, max_photos=20)
    assert (len(set(sample.files)), sample.total) == (20, 50)
    assert sample.files == read(seed=1, max_photos=20).files != read(seed=2, max_photos=20).files
