from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from palaestra.envs.inventory.inventory_net import InventoryNet
from palaestra.lab import plots, svg

STEPS = np.arange(0.0, 1000.0, 50.0)
NOISE = np.random.default_rng(0).normal(size=(5, len(STEPS)))
CURVES = {"one": (STEPS, 10 + NOISE), "two": (STEPS, 12 + NOISE)}
BARS = [plots.Bar("one", 1.0, 0.5, 1.5, "learned"), plots.Bar("two", 2.0, 1.75, 2.5, "heuristic")]


def read(text):
    """The picture as XML, which HTML's parser is more patient with."""
    return ET.fromstring(text.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def words(text):
    return ["".join(element.itertext()) for element in read(text).iter("text")]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def four_plots(width):
    ones = np.ones(8)
    return [
        plots.learning_curves(CURVES, name="a", levels={"level": 11.0}, width=width),
        plots.comparison(BARS, name="b", x_label="cost", width=width),
        plots.orders_and_demand({"store": (ones, 2 * ones)}, name="c", width=width),
        plots.stocks_over_time({"store": 3 * ones, "warehouse": -ones}, name="d", width=width),
    ]


@pytest.mark.parametrize("width", [plots.WIDE, plots.NARROW])
def test_every_plot_is_an_svg_of_the_width_it_is_laid_out_for(width):
    for text in four_plots(width):
        root = read(text)
        assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label")
        assert float(root.get("viewBox").split()[2]) == width


def test_the_same_plot_gives_the_same_text():
    assert four_plots(plots.WIDE) == four_plots(plots.WIDE)


def test_colours_are_variables_with_a_fallback_and_nothing_is_loaded():
    for text in four_plots(plots.WIDE):
        assert "var(--series-0, #0072b2)" in text or "var(--network-demand" in text
        assert "#0a0b" not in text and "http" not in text and "<style" not in text
        allowed = {light for light, _ in svg.COLOURS.values()}
        assert set(re.findall(r"#[0-9a-f]{6}\b", text)) <= allowed


def test_ids_of_two_plots_on_one_page_differ():
    pictures = [
        set(re.findall(r'id="([^"]+)"', plots.learning_curves(CURVES, name=name)))
        for name in ("first", "second")
    ]
    assert pictures[0] and not pictures[0] & pictures[1]
    with pytest.raises(ValueError, match="name='1 plot'"):
        plots.learning_curves(CURVES, name="1 plot")


def test_series_and_text_have_enough_contrast_on_both_grounds():
    grounds = {0: "#ffffff", 1: "#171d24"}  # --card of page.css
    for name, pair in svg.COLOURS.items():
        for side, ground in grounds.items():
            if name.startswith("series-"):
                assert contrast(pair[side], ground) >= 3, (name, side)
            if name in ("ink", "muted"):
                assert contrast(pair[side], ground) >= 4.5, (name, side)


def test_names_are_text_and_not_formulas_or_tags():
    hostile = ['<img src=x onerror="1">', "$x^2$", "_hidden", 'id="a" 0.123456']
    curves = {name: CURVES["one"] for name in hostile}
    text = plots.learning_curves(curves, name="a", y_label="</svg>")
    shown = [word.strip("\u200b") for word in words(text)]
    assert set(hostile) <= set(shown) and "</svg>" in shown
    assert "<img" not in text


def test_a_band_is_the_interval_over_seeds():
    # Seeds that agree leave a band without height.
    def heights(values):
        text = plots.learning_curves({"one": (STEPS, values)}, name="a")
        (band,) = re.findall(r'FillBetweenPolyCollection_1">.*?<path[^>]* d="([^"]+)"', text, re.S)
        y = np.array(re.findall(r"[-\d.]+ ([-\d.]+)", band), dtype=float)
        return np.ptp(y[:-1].reshape(-1))

    flat = np.full((5, len(STEPS)), 3.0)
    assert heights(flat) == 0
    assert heights(flat + np.arange(5)[:, None]) > 20


def test_axes_turn_logarithmic_for_numbers_of_different_magnitudes():
    wide = {"one": (STEPS, np.geomspace(1, 90, len(STEPS))[None])}
    assert {"1", "2", "5", "10", "20", "50"} <= set(words(plots.learning_curves(wide, name="a")))
    long = {"one": (STEPS, NOISE + 9), "two": (1e3 * STEPS, NOISE + 9)}
    assert {"100", "1k", "10k", "100k"} <= set(words(plots.learning_curves(long, name="a")))


def test_comparison_tells_its_numbers_to_those_who_cannot_see_it():
    label = read(plots.comparison(BARS, name="a", x_label="cost")).get("aria-label")
    assert label == "cost, with 95% intervals: one 1 [0.5, 1.5]; two 2 [1.75, 2.5]"


def test_network_picture_is_drawn_in_the_colours_of_the_page():
    core = InventoryNet("one_warehouse_lost", stores=3)
    state = core.initial(core.tapes(1, 0))
    net, stock = core.network, state["inventory"][0]
    text = plots.network_picture(net, stock, np.ones(net.arcs), np.ones(3), name="net", title="a<b")
    assert "var(--network-stock" in text and "#0a0b" not in text
    assert {"warehouse 1", "store 3", "a<b"} <= set(words(text))


def test_aligned_interpolates_seeds_on_the_x_that_all_of_them_cover():
    nan = float("nan")
    x, y = plots.aligned([([0, 2, 4], [0, 2, 4]), ([1, 2, 3, 5], [10, nan, 30, 50])])
    assert x.tolist() == [1, 2, 3, 4]
    assert y.tolist() == [[1, 2, 3, 4], [10, 20, 30, 40]]
    assert plots.aligned([([0, 1], [0, 1]), ([2, 3], [0, 1])]) is None
    assert plots.aligned([([0], [nan])]) is None and plots.aligned([]) is None
