"""Class names in pictures: no formula, no box, no two names that look the same."""

import shutil
import subprocess
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from gemmodel.describe import plots as data_plots
from gemmodel.explore import report as exploration_report
from gemmodel.figures import fonts, plots

FORMULAS = ["Opal $1$", "from $10_$20", r"$\frac$", "100%"]
SCRIPTS = {"Chinese": "红宝石", "Thai": "ทับทิม", "Devanagari": "माणिक"}  # not in Matplotlib's own font


def drawn_without_warning(figure: Figure) -> list[str]:
    """Draw a figure, and return its texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of a missing glyph
        figure.draw_without_rendering()
    return [text.get_text() for axes in figure.axes for text in axes.texts + axes.get_yticklabels()]


@pytest.fixture(params=["installed fonts", "no fonts"])
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of many scripts, on this system and on one that has only Matplotlib's own font."""
    if request.param == "no fonts":
        monkeypatch.setattr(fonts, "_installed", list)
    fonts._fallback.cache_clear()
    return [*FORMULAS, *SCRIPTS.values(), "ياقوت", "אודם", "Améthyste", "\U0001f48e", "_x", "<b>"]


def test_every_plot_with_names_shows_them_as_they_are_and_draws_no_box(names: list[str]) -> None:
    shown, _ = fonts.legible(names)
    assert shown[: len(FORMULAS)] == FORMULAS and shown[-2:] == ["_x", "<b>"]
    rows = range(len(names))
    texts = drawn_without_warning(plots.confusion_heatmap(np.eye(len(names), dtype=int), names))
    assert set(shown) <= set(texts)
    texts = drawn_without_warning(data_plots.counts_by_gem({"train": dict.fromkeys(names, 1)}))
    assert set(texts) == set(shown)
    positions = np.array([(i, i % 3) for i in rows for _ in range(2)], float)
    gems = [name for name in names for _ in range(2)]
    figure = exploration_report.static_map(positions, gems, dict.fromkeys(names, "#aa0000"), title="t")
    assert set(shown) <= set(drawn_without_warning(figure))


def test_letters_without_a_font_become_latin_ones_which_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "_installed", list)
    monkeypatch.setattr(fonts, "_printed", [])
    fonts._fallback.cache_clear()
    shown, style = fonts.legible(["红宝石", "鸿宝石", "Ruby", "\ue000"])
    assert shown == ["HongBaoShi (1)", "HongBaoShi (2)", "Ruby", "U+E000"]
    assert style == {"family": [fonts.FIRST], "parse_math": False}
    fonts.legible(["ทับทิม"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "CJK UNIFIED IDEOGRAPH" in line and fonts.PACKAGES in line
    fonts._fallback.cache_clear()


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_installed_fonts_are_found(script: str, name: str) -> None:
    if not shutil.which("fc-list"):
        pytest.skip("fc-list, which says what fonts there are, is not installed")
    listed = subprocess.run(
        ["fc-list", f":charset={ord(name[0]):x}", "file"], capture_output=True, text=True, check=True
    )
    if not listed.stdout.strip():
        pytest.skip(f"no font with {script} letters is installed; docs/data.md names some")
    entries, missing = fonts._fallback(frozenset(name))
    assert entries and not missing
    assert fonts.legible([name])[0] == [name]


def test_long_names_are_cut_and_stay_different() -> None:
    shown, _ = fonts.legible(["a" * 255, "a" * 254 + "b", "Ruby"])
    assert shown[0] != shown[1]
    assert max(map(len, shown)) < 50


def test_a_caption_of_several_scripts_is_drawn_with_a_font_for_each() -> None:
    text = "is 红宝石 ياقوت"
    parts = fonts.runs(text, 11)
    assert len(parts) > 1 or "HongBaoShi" in parts[0][0]
    picture = Image.new("RGB", (300, 30), "white")
    fonts.draw(ImageDraw.Draw(picture), 150, 5, text, 11)
    left, _, right, _ = picture.convert("L").point(lambda value: 255 * (value < 128)).getbbox()
    assert abs((right - left) - fonts.width(text, 11)) < 4
    assert abs((left + right) / 2 - 150) < 3
