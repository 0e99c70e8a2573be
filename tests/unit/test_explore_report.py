"""Colours and names of groups in the exploration."""

import numpy as np
import pytest

from gemmodel.explore import exploration, report

CLASSES = {"Ruby": "Corundum", "Sapphire": "Corundum", "Emerald": "Beryl", "Morganite": "Beryl", "Opal": "Opal"}


def test_gems_of_a_mineral_class_have_shades_of_its_hue_and_lone_gems_classes_are_grey() -> None:
    of_class, of_gem = report.palette([*CLASSES, "Ruby"], CLASSES)
    assert list(of_class) == ["Beryl", "Corundum", "Opal"]
    assert of_class["Opal"] == report.GREY
    assert len({*of_class.values(), *of_gem.values()}) == 8
    assert list(of_gem) == ["Emerald", "Morganite", "Ruby", "Sapphire", "Opal"]


def test_a_cluster_is_named_by_the_gem_that_most_of_its_photos_show() -> None:
    names = report.cluster_names(["Ruby", "Ruby", "Opal", "Opal"], np.array([0, 0, 0, 1]))
    assert names == {0: "1: Ruby 67%", 1: "2: Opal 100%"}


def test_names_of_gems_that_lie_on_one_another_can_all_be_read() -> None:
    gems = [f"Gem number {number}" for number in range(9)]
    places = np.vstack([np.full((9, 2), 0.5), [[0, 0], [1, 1]]])
    found = report.name_places(places, [*gems, "Corner", "Corner"])
    heights = sorted(found[gem][1] for gem in gems)
    assert np.diff(heights).min() >= 0.99 * report.LINE
    assert all(abs(height - 0.5) < 6 * report.LINE for height in heights)


def test_of_many_photos_some_are_drawn_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(50, dtype=np.float32)
    known = exploration.FeatureTable(
        numbers[:, None], [f"{n:.0f}.jpg" for n in numbers], [f"gem {n % 3:.0f}" for n in numbers]
    )
    assert exploration.subsample(known, seed=1) is known
    monkeypatch.setattr(exploration, "MOST", 20)
    some = exploration.subsample(known, seed=1)
    assert some.files == [f"{n:.0f}.jpg" for n in some.features[:, 0]] and len(set(some.files)) == 20
    assert some.gems == [f"gem {n % 3:.0f}" for n in some.features[:, 0]]
    assert some.files == exploration.subsample(known, seed=1).files != exploration.subsample(known, seed=2).files
