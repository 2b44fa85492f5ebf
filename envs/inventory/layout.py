"""Where to draw the locations of a supply network: layers from the outside supply to the stores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .network import SupplyNetwork

# All lengths are in pixels.
TOP, BOTTOM = 76.0, 44.0  # title and headings above, legend below
LANE, WIDE_LANE = 84.0, 190.0  # room for the outside supply and for demand; beside a single layer
MARGIN = 20.0
CARD = (210.0, 84.0)  # largest card
NARROW_CARD = (
    96.0  # largest height of a card narrower than NARROW, where text stands above the bars
)
NARROW, NARROWEST, LOWEST, LOWEST_NARROW = 104.0, 46.0, 12.0, 62.0
GAPS = (16.0, 56.0)  # least and greatest distance kept between two layers of cards
LABELLED = 32  # largest number of locations that are drawn with their names
CELL = 34.0  # largest side of an unlabelled location


@dataclass(frozen=True)
class Layout:
    """Boxes of the N locations in a picture whose y axis points down.

    Attributes:
        layers: locations of each layer, from top to bottom; suppliers first, stores last.
        x, y: float64 [N], centres of the boxes.
        width: of every box.
        height: float64 [N].
        enter, leave: float64 [N], x at which arcs reach and leave a location: its own sides,
            or those of its layer where a layer has several columns.
        heading: float64 [layers], centre of each layer.
        left, right: where arrows from outside start, and those of demand end.
        labelled: whether the boxes are large enough for names and numbers.
    """

    layers: tuple[NDArray[np.int64], ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    width: float
    height: NDArray[np.float64]
    enter: NDArray[np.float64]
    leave: NDArray[np.float64]
    heading: NDArray[np.float64]
    left: float
    right: float
    labelled: bool

    @staticmethod
    def is_narrow(width: float) -> bool:
        """Whether a card of this width has its text above its bars."""
        return width < NARROW


def arrange(network: SupplyNetwork, width: float, height: float) -> Layout:
    """Place the locations in a picture of `width` x `height` pixels.

    A location lies right of all its suppliers, the stores in the last layer. Few locations get
    cards with room for text, one below the other; many get small boxes, several columns to a layer.
    """
    layers = ordered_layers(network)
    inside, room = width - 2 * LANE, height - TOP - BOTTOM
    gap = float(np.clip(inside / (4 * len(layers)), *GAPS))
    card = min(CARD[0], (inside - gap * (len(layers) - 1)) / len(layers))
    tallest, lowest = (NARROW_CARD, LOWEST_NARROW) if Layout.is_narrow(card) else (CARD[1], LOWEST)
    rows = max(map(len, layers))
    if network.locations <= LABELLED and card >= NARROWEST and 0.78 * room / rows >= lowest:
        return _cards(layers, network.locations, (card, tallest), (width, height))
    return _boxes(layers, network.locations, (width, height))


def ordered_layers(network: SupplyNetwork) -> tuple[NDArray[np.int64], ...]:
    """Locations of each layer; stores in the network's order, the others beside their customers."""
    suppliers = network.locations - network.stores
    depth = np.zeros(network.locations, dtype=np.int64)
    inner = network.source >= 0
    for source, target in zip(network.source[inner], network.target[inner], strict=True):
        # Arcs are sorted by source in topological order: the depth of a source is final here.
        depth[target] = max(depth[target], depth[source] + 1)
    depth[suppliers:] = depth.max()
    place = np.zeros(network.locations)
    place[suppliers:] = (np.arange(network.stores) + 0.5) / network.stores
    layers = [np.arange(suppliers, network.locations)]
    for level in reversed(range(int(depth.max()))):
        members = np.flatnonzero(depth[:suppliers] == level)
        pull = np.array([place[network.target[network.source == node]].mean() for node in members])
        # An odd number of classes: locations that all pull to the middle keep the network's order.
        pull = np.floor(pull * (len(members) // 2 * 2 + 1))
        members = members[np.argsort(pull, kind="stable")]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        layers.insert(0, members)
    return tuple(layers)


def _cards(
    layers: tuple[NDArray[np.int64], ...],
    locations: int,
    card: tuple[float, float],
    size: tuple[float, float],
) -> Layout:
    width, height = size
    lane = min(WIDE_LANE, (width - card[0]) / 2) if len(layers) == 1 else LANE
    first, last = LANE + card[0] / 2, width - LANE - card[0] / 2
    heading = np.linspace(first, last, len(layers)) if len(layers) > 1 else np.array([width / 2])
    x, y, heights = np.zeros(locations), np.zeros(locations), np.zeros(locations)
    room = height - TOP - BOTTOM
    for centre, members in zip(heading, layers, strict=True):
        row = room / len(members)
        x[members] = centre
        y[members] = TOP + row * (np.arange(len(members)) + 0.5)
        heights[members] = min(card[1], 0.78 * row)
    enter, leave = x - card[0] / 2, x + card[0] / 2
    return Layout(
        layers,
        x,
        y,
        card[0],
        heights,
        enter,
        leave,
        heading,
        left=float(enter.min()) - lane + MARGIN,
        right=float(leave.max()) + lane - 50.0,
        labelled=True,
    )


def _boxes(
    layers: tuple[NDArray[np.int64], ...], locations: int, size: tuple[float, float]
) -> Layout:
    width, height = size
    inside, room = width - LANE - MARGIN, height - TOP - BOTTOM
    between = inside / (2.2 * len(layers)) * (len(layers) - 1)
    rows = math.ceil(room / CELL)
    while sum(math.ceil(len(m) / rows) for m in layers) * room / rows > inside - between:
        rows += 1
    cell = room / rows
    columns = [math.ceil(len(members) / rows) for members in layers]
    free = inside - cell * sum(columns)
    start = LANE if len(layers) > 1 else LANE + free / 2
    x, y, enter, leave = (np.zeros(locations) for _ in range(4))
    heading = []
    box = 0.7 * cell
    for members, wide in zip(layers, columns, strict=True):
        tall = math.ceil(len(members) / wide)
        column, row = np.divmod(np.arange(len(members)), tall)
        pitch = min(room / tall, 2 * cell)  # a short layer is spread, but not to the edges
        x[members] = start + cell * (column + 0.5)
        y[members] = TOP + room / 2 + pitch * (row - (tall - 1) / 2)
        enter[members] = start + (cell - box) / 2
        leave[members] = start + cell * wide - (cell - box) / 2
        heading.append(start + cell * wide / 2)
        start += cell * wide + (free / (len(layers) - 1) if len(layers) > 1 else 0.0)
    return Layout(
        layers,
        x,
        y,
        box,
        np.full(locations, 0.76 * cell),
        enter,
        leave,
        np.array(heading),
        left=MARGIN,
        right=width - MARGIN,
        labelled=False,
    )
