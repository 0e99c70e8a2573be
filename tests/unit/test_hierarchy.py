"""Two-level labels: which mineral class a gem belongs to."""

from pathlib import Path

import pytest

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.models import metadata
from gemmodel.split import hierarchy

ROOT = Path(__file__).parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / "hierarchy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_each_gem_its_mineral_class(tmp_path: Path) -> None:
    text = "# ours\nRuby: Corundum  # red\nÆgirine: No\n'Tiger''s Eye': Quartz\n"
    assert hierarchy.read_hierarchy(written(tmp_path, text)) == {
        "Ruby": "Corundum",
        "Ægirine": "No",
        "Tiger's Eye": "Quartz",
    }
    assert hierarchy.read_hierarchy(written(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ruby: Corundum\nSapphire: [Corundum, Beryl]\n", r"hierarchy.yaml:2: a gem needs one mineral class"),
        ("Ruby: Corundum\nOpal:\n", r"hierarchy.yaml:2: a gem needs one mineral class"),
        ("Ruby: Corundum\nRuby: Beryl\n", r"hierarchy.yaml:2: Ruby is listed twice"),
        ("- Ruby\n- Opal\n", r"no gems with their mineral classes"),
        ("Ruby: [Corundum\n", r"not valid YAML"),
    ],
)
def test_a_malformed_file_is_an_error_of_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        hierarchy.read_hierarchy(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml: no such file; split.hierarchy names one"):
        hierarchy.read_hierarchy(tmp_path / "none.yaml")


def test_the_manifest_takes_precedence_over_the_file_and_a_gem_in_neither_is_its_own_class() -> None:
    manifest = [
        {"gem": "Ruby", "mineral_class": None},
        {"gem": "Ruby", "mineral_class": "Corundum"},
        {"gem": "Jade", "mineral_class": "Jadeite"},
        {"gem": "Jade", "mineral_class": "Nephrite"},
        {"gem": "Jade", "mineral_class": "Nephrite"},
        {"gem": "Emerald"},
    ]
    defaults = {"Ruby": "Spinel", "Emerald": "Beryl"}
    assert hierarchy.mineral_classes(["Ruby", "Jade", "Emerald", "Opal"], manifest, defaults) == {
        "Ruby": "Corundum",
        "Jade": "Nephrite",
        "Emerald": "Beryl",
        "Opal": "Opal",
    }


def test_mineral_class_indices_are_those_of_the_sorted_names() -> None:
    names, indices = metadata.mineral_class_indices(
        ["Ruby", "Emerald", "Sapphire"], dict(Ruby="C", Sapphire="C", Emerald="B")
    )
    assert (names, indices.tolist()) == (["B", "C"], [1, 0, 1])


def test_the_shipped_file_lists_every_real_gem(real_gems: Path) -> None:
    shipped = hierarchy.read_hierarchy(ROOT / "photos" / "hierarchy.yaml")
    assert set(image_folder.list_images(real_gems)) == set(shipped)
    # Names that mislead: a beryl, a garnet, not a beryl, a zoisite.
    names = ("Goshenite", "Hessonite", "Chrysoberyl", "Tanzanite")
    assert [shipped[gem] for gem in names] == ["Beryl", "Garnet", "Chrysoberyl", "Zoisite"]


def test_names_are_compared_without_capitals_unicode_form_and_spaces(tmp_path: Path) -> None:
    defaults = hierarchy.read_hierarchy(written(tmp_path, "ame\u0301thyste: quartz\nCitrine: Quartz\nJASPER: Quartz\n"))
    assert hierarchy.mineral_classes(["Am\u00e9thyste", "Citrine", "Jasper", "Quartz"], [], defaults) == dict.fromkeys(
        ["Am\u00e9thyste", "Citrine", "Jasper", "Quartz"], "Quartz"
    )
    with pytest.raises(DataError, match=r"yaml:2: RUBY is listed twice"):
        hierarchy.read_hierarchy(written(tmp_path, "Ruby: Corundum\nRUBY: Beryl\n"))
