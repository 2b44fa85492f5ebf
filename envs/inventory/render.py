"""Pictures of a supply network: what every location holds, what it ordered, what was demanded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import DPI, LIGHT, Canvas, Theme, first_that_fits, kinds_of, short, text_width
from .layout import LANE, MARGIN, Layout, arrange
from .network import SupplyNetwork
from .render_locations import draw_boxes, draw_cards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (960, 600)


def draw_network(
    network: SupplyNetwork,
    inventory: ArrayLike,
    orders: ArrayLike,
    demand: ArrayLike,
    *,
    title: str = "",
    theme: Theme = LIGHT,
    size: tuple[int, int] = SIZE,
) -> NDArray[np.uint8]:
    """The picture of `network_figure` as an array, uint8 [height, width, 3]."""
    figure = network_figure(network, inventory, orders, demand, title=title, theme=theme, size=size)
    canvas: Any = figure.canvas
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def network_svg(
    network: SupplyNetwork,
    inventory: ArrayLike,
    orders: ArrayLike,
    demand: ArrayLike,
    *,
    title: str = "",
    theme: Theme = LIGHT,
    size: tuple[int, int] = SIZE,
    transparent: bool = True,
) -> str:
    """The picture of `network_figure` as an `<svg>` element; the same input gives the same text."""
    import matplotlib

    figure = network_figure(
        network,
        inventory,
        orders,
        demand,
        title=title,
        theme=theme,
        size=size,
        transparent=transparent,
    )
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "network", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=transparent)
    text = file.getvalue()
    return text[text.index("<svg") :]


def network_figure(
    network: SupplyNetwork,
    inventory: ArrayLike,
    orders: ArrayLike,
    demand: ArrayLike,
    *,
    title: str = "",
    theme: Theme = LIGHT,
    size: tuple[int, int] = SIZE,
    transparent: bool = False,
) -> Figure:
    """Draw the network from the outside supply (left) to demand (right).

    Up to about 30 locations each have a card with name, stock on hand and a bar per inventory slot:
    on hand, then what arrives in 1, 2, ... periods. Larger networks show bars per location: on
    hand, all that is arriving and, at stores, demand. Bars are full at a round number that a layer
    shares. The width of an arrow grows with the square root of its units. A location that holds no
    stock has a dashed border, one that owes demand a red one.

    Args:
        network: N locations, K of them stores, A arcs.
        inventory: [N, slots], slot 0 on hand (negative: backlog), in units.
        orders: [A], last order on each arc, in units.
        demand: [K], last demand of each store, in units.
        title: written above the picture.
        theme: its colours.
        size: width and height in pixels (at 100 dots per inch).
        transparent: leave the background out.

    Returns:
        A figure of its own; pyplot does not know it.

    Raises:
        ValueError: an array's shape does not belong to the network, or the size is below 640 x 320.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stock, ordered, demanded = (
        np.asarray(a, dtype=np.float64) for a in (inventory, orders, demand)
    )
    longest = int(network.slots.max())
    for name, array, shape in (
        ("inventory", stock, (network.locations, longest)),
        ("orders", ordered, (network.arcs,)),
        ("demand", demanded, (network.stores,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, allowed for this network: {shape}")
    width, height = size
    if width < 640 or height < 320:
        raise ValueError(f"size={size}, allowed: at least (640, 320) pixels")

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor("none" if transparent else theme.background)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    most = max(ordered.max(initial=0.0), demanded.max(initial=0.0))
    canvas, layout = Canvas(axes, theme, width, height), arrange(network, width, height)
    _headings(canvas, network, layout, title, stock[:, 0])
    _arcs(canvas, network, layout, ordered, most)
    if layout.labelled:
        _demand(canvas, layout, demanded, most)
        draw_cards(canvas, network, layout, stock)
    else:
        draw_boxes(canvas, network, layout, stock, demanded)
    _legend(canvas, layout)
    return figure


def _headings(
    canvas: Canvas,
    network: SupplyNetwork,
    layout: Layout,
    title: str,
    on_hand: NDArray[np.float64],
) -> None:
    """Title, and above each layer what it consists of and, without cards, holds in total."""
    style = {"color": canvas.theme.muted, "ha": "center"}
    canvas.write(MARGIN, 24, title, 16, canvas.width - 2 * MARGIN, weight="bold")
    first, last = layout.left + 22, layout.right + 9
    canvas.write(first, 54, "outside", 11, LANE, **style)
    if layout.labelled:
        canvas.write(last, 54, "demand", 11, LANE, **style)
    else:
        last = canvas.width + MARGIN
    # A heading reaches half-way to its neighbours, and to the words "outside" and "demand".
    between = (layout.heading[1:] + layout.heading[:-1]) / 2
    edges = np.concatenate([[first + 22], between, [last - 22]])
    rooms = 2 * np.minimum(layout.heading - edges[:-1], edges[1:] - layout.heading) - 4
    for x, members, room in zip(layout.heading, layout.layers, rooms, strict=True):
        kinds = [network.kinds[node] for node in members]
        words = [kinds_of(kinds), f"{len(kinds)} locations", str(len(kinds))]
        canvas.write(x, 54, first_that_fits(words, 11, room), 11, room, **style)
        if not layout.labelled:
            held = short(on_hand[members].clip(0).sum())
            words = [f"{held} on hand", held]
            if (on_hand[members] < 0).any():
                owed = short(-on_hand[members].clip(None, 0).sum())
                words = [f"{held} on hand, {owed} short", f"{owed} short", f"−{owed}"]
            canvas.write(x, 68, first_that_fits(words, 10, room), 10, room, **style)


def _arcs(
    canvas: Canvas,
    network: SupplyNetwork,
    layout: Layout,
    orders: NDArray[np.float64],
    most: float,
) -> None:
    """An arrow for each arc, with a number in layers where there is room for it."""
    inner = network.source >= 0
    from_y = np.where(inner, layout.y[network.source], layout.y[network.target])
    from_x = np.where(inner, layout.leave[network.source], layout.left)
    starts = np.column_stack([from_x, from_y])
    ends = np.column_stack([layout.enter[network.target], layout.y[network.target]])
    if layout.labelled:
        _spread(starts[:, 1], network.source, ends[:, 1], layout.height)
        _spread(ends[:, 1], network.target, from_y, layout.height)
    fine = 1.0 if layout.labelled else 0.5
    faint = 0.85 if layout.labelled else float(np.clip(60 / network.arcs, 0.2, 0.6))
    canvas.arrows(starts, ends, orders, most, canvas.theme.order, fine, faint)
    if not layout.labelled:
        return
    suppliers = np.bincount(network.target, minlength=network.locations)
    for members in layout.layers:
        arcs = np.flatnonzero(np.isin(network.target, members))
        size, room = number_size(layout, members), (ends - starts)[arcs, 0].min()
        straight = np.ptp(np.stack([starts[arcs, 1], ends[arcs, 1]]), axis=0).max() < 1
        needed = text_width("00.0", size) + (8 if straight else 30)
        if suppliers[members].max() > 1 or layout.height[members].min() < 18 or room < needed:
            continue  # it would not be clear which arrow a number belongs to
        for arc in arcs[orders[arcs] > 0]:
            x, ha = (ends[arc, 0] - 16, "right")
            if straight:
                x, ha = (starts[arc, 0] + ends[arc, 0]) / 2, "center"
            y = ends[arc, 1] - 0.62 * size - 3.5
            canvas.write(x, y, short(orders[arc]), size, 60, ha=ha, color=canvas.theme.muted)


def _demand(canvas: Canvas, layout: Layout, demand: NDArray[np.float64], most: float) -> None:
    """An arrow and a number to the right of every store."""
    stores = layout.layers[-1]
    starts = np.column_stack([layout.leave[stores], layout.y[stores]])
    ends = np.column_stack([np.full(len(stores), layout.right), layout.y[stores]])
    canvas.arrows(starts, ends, demand, most, canvas.theme.demand)
    for (x, y), units in zip(ends, demand, strict=True):
        canvas.write(x + 7, y, short(units), number_size(layout, stores), LANE - 44)


def _legend(canvas: Canvas, layout: Layout) -> None:
    """What the colours mean, in one line at the bottom."""
    theme, x, y = canvas.theme, MARGIN, canvas.height - 18.0
    coming = "arriving, next period first" if layout.labelled else "arriving"
    entries = [(theme.stock, "on hand"), (theme.arriving, coming), (theme.backlog, "backlog")]
    entries += [(theme.order, "last orders"), (theme.demand, "last demand")]
    for colour, text in entries:
        canvas.rectangles([(x, y - 5, 10, 10)], colour)
        canvas.write(x + 15, y, text, 11, 400, color=theme.muted)
        x += 15 + text_width(text, 11) + 22


def number_size(layout: Layout, members: NDArray[np.int64]) -> float:
    """Size of the numbers beside the cards of a layer, in pixels."""
    return float(np.clip(0.5 * layout.height[members].min() + 1.5, 8.5, 11.5))


def _spread(
    y: NDArray[np.float64],
    box: NDArray[np.int64],
    other: NDArray[np.float64],
    height: NDArray[np.float64],
) -> None:
    """Move the arc ends `y` that share a box apart, in the order of their other ends (in place)."""
    for node in np.unique(box[box >= 0]):
        arcs = np.flatnonzero(box == node)
        if len(arcs) > 1:
            ranks = np.argsort(np.argsort(other[arcs], kind="stable"), kind="stable")
            reach = min(0.7 * height[node], 14.0 * (len(arcs) - 1))
            y[arcs] += reach * (ranks / (len(arcs) - 1) - 0.5)
