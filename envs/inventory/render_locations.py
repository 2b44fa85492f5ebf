"""How locations are drawn: as cards with names and numbers, or as small boxes with bars."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from .canvas import POINTS, Canvas, round_up, short, text_width
from .layout import Layout
from .network import SupplyNetwork

WIDEST_BAR = 18.0  # pixels


def draw_cards(
    canvas: Canvas, network: SupplyNetwork, layout: Layout, inventory: NDArray[np.float64]
) -> None:
    """A card for each location: name, stock on hand, and a bar for every inventory slot [N, L]."""
    from matplotlib.patches import FancyBboxPatch

    theme, slots = canvas.theme, int(network.slots.max())
    bars: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for members in layout.layers:
        full = round_up(np.abs(inventory[members]).max())
        for node in members.tolist():
            wide, high = layout.width, float(layout.height[node])
            left, top = layout.x[node] - wide / 2, layout.y[node] - high / 2
            on_hand = float(inventory[node, 0])
            card = FancyBboxPatch(
                (left, top),
                wide,
                high,
                boxstyle=f"round,pad=0,rounding_size={min(6.0, high / 4)}",
                facecolor=theme.card,
                edgecolor=theme.backlog if on_hand < 0 else theme.border,
                linewidth=(1.6 if on_hand < 0 else 1.0) * POINTS,
                linestyle="-" if network.holds_stock[node] else (0, (3, 2)),
                zorder=3,
            )
            canvas.axes.add_patch(card)
            x, base, room, tall = _card_text(
                canvas, network.names[node], on_hand, (left, top, wide, high)
            )
            pitch = min(room / slots, WIDEST_BAR)
            x += room - pitch * slots
            for slot, units in enumerate(inventory[node, : network.slots[node]]):
                now = theme.backlog if units < 0 else theme.stock
                length, start = tall * abs(units) / full, x + pitch * slot
                bars[theme.border].append((start, base - 0.7, 0.78 * pitch, 0.7))
                bars[theme.arriving if slot else now].append(
                    (start, base - length, 0.78 * pitch, length)
                )
    for colour, boxes in bars.items():
        canvas.rectangles(boxes, colour)


def _card_text(
    canvas: Canvas, name: str, on_hand: float, card: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Write name and stock; return left, baseline, width and height of what is left for bars."""
    left, top, wide, high = card
    number, middle = short(on_hand), top + high / 2
    colour = canvas.theme.backlog if on_hand < 0 else canvas.theme.stock
    value = {"color": colour, "weight": "bold"}
    if Layout.is_narrow(wide):
        size = 10.0 if wide > 60 else 9.0
        canvas.write(left + 5, top + 12, name, size, wide - 8)
        canvas.write(left + 5, top + 27, number, 12, wide - 8, **value)
        return left + 5, top + high - 7, wide - 10, high - 44
    bars = 0.45 * wide
    if high >= 60:
        size = min(14.0, 0.1 * high + 6)
        canvas.write(left + 10, top + 17, name, size, wide - 18)
        canvas.write(left + 10, top + high / 2 + 13, number, size + 2, wide - bars - 24, **value)
        return left + wide - bars - 10, top + high - 9, bars, high - 40
    if high >= 34:
        size, room = 0.1 * high + 8, wide - bars - 24
        canvas.write(left + 10, top + 0.29 * high, name, size, room)
        canvas.write(left + 10, top + 0.71 * high, number, size + 1, room, **value)
    else:
        size, bars = float(np.clip(0.52 * high + 1, 8.5, 11.0)), 0.3 * wide
        room = text_width("−00.0", size, bold=True)
        edge = left + wide - bars - 12
        canvas.write(left + 6, middle, name, size, wide - bars - room - 22)
        canvas.write(edge, middle, number, size, room + 4, ha="right", **value)
    pad = 0.14 * high
    return left + wide - bars - 6, top + high - pad, bars, high - 2 * pad


def draw_boxes(
    canvas: Canvas,
    network: SupplyNetwork,
    layout: Layout,
    inventory: NDArray[np.float64],
    demand: NDArray[np.float64],
) -> None:
    """Bars for each location: on hand [N, L], all that is arriving, and a store's demand [K]."""
    theme = canvas.theme
    on_hand, coming = inventory[:, 0], inventory[:, 1:].sum(axis=1)
    stores, everywhere = layout.layers[-1], np.arange(network.locations)
    full, bar = np.ones(network.locations), np.full(network.locations, layout.width / 2)
    bar[stores] = layout.width / 3
    for members in layout.layers:
        # A few outliers fill their boxes, so that the bars of the others can be seen.
        levels = np.concatenate([np.abs(on_hand[members]), coming[members]])
        full[members] = round_up(
            float(np.quantile(levels[levels > 0], 0.95)) if levels.any() else 0
        )
        _row_lines(canvas, layout, members)

    left, bottom = layout.x - layout.width / 2, layout.y + layout.height / 2
    wide = np.full(network.locations, layout.width)
    frames = np.column_stack([left, bottom - layout.height, wide, layout.height])
    canvas.rectangles(frames[on_hand >= 0], theme.card, theme.border, zorder=3)
    canvas.rectangles(frames[on_hand < 0], theme.card, theme.backlog, zorder=3)
    kinds_of_bar = (
        (everywhere, on_hand, theme.stock),
        (everywhere, coming, theme.arriving),
        (stores, demand.clip(0), theme.demand),
    )
    for column, (nodes, units, colour) in enumerate(kinds_of_bar):
        length = layout.height[nodes] * np.minimum(np.abs(units) / full[nodes], 1.0)
        x = left[nodes] + column * bar[nodes]
        boxes = np.column_stack([x, bottom[nodes] - length, bar[nodes], length])
        canvas.rectangles(boxes[units >= 0], colour)
        canvas.rectangles(boxes[units < 0], theme.backlog)


def _row_lines(canvas: Canvas, layout: Layout, members: NDArray[np.int64]) -> None:
    """A line through each row of a layer of several columns: the arcs of the row end on it."""
    rows = []
    for y in np.unique(layout.y[members]):
        row = members[layout.y[members] == y]
        start = float(layout.enter[row[0]])
        rows.append((start, y - 0.5, float(layout.leave[row[0]]) - start, 1.0))
    canvas.rectangles(rows, canvas.theme.border, zorder=2.5)
