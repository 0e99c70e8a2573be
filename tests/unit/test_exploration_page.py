"""Colours and names of groups in the exploration."""

import numpy as np

from gemmodel.insight import exploration_page

CLASSES = {"Ruby": "Corundum", "Sapphire": "Corundum", "Emerald": "Beryl", "Morganite": "Beryl", "Opal": "Opal"}


def test_gems_of_a_mineral_class_have_shades_of_its_hue_and_lone_gems_classes_are_grey() -> None:
    of_class, of_gem = exploration_page.palette([*CLASSES, "Ruby"], CLASSES)
    assert list(of_class) == ["Beryl", "Corundum", "Opal"]
    assert of_class["Opal"] == exploration_page.GREY
    assert len({*of_class.values(), *of_gem.values()}) == 8
    assert list(of_gem) == ["Emerald", "Morganite", "Ruby", "Sapphire", "Opal"]


def test_a_cluster_is_named_by_the_gem_that_most_of_its_photos_show() -> None:
    names = exploration_page.cluster_names(["Ruby", "Ruby", "Opal", "Opal"], np.array([0, 0, 0, 1]))
    assert names == {0: "1: Ruby 67%", 1: "2: Opal 100%"}


def test_names_of_gems_that_lie_on_one_another_can_all_be_read() -> None:
    gems = [f"Gem number {number}" for number in range(9)]
    places = np.vstack([np.full((9, 2), 0.5), [[0, 0], [1, 1]]])
    found = exploration_page.name_places(places, [*gems, "Corner", "Corner"])
    heights = sorted(found[gem][1] for gem in gems)
    assert np.diff(heights).min() >= 0.99 * exploration_page.LINE
    assert all(abs(height - 0.5) < 6 * exploration_page.LINE for height in heights)
