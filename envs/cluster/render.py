"""Pictures of a cluster: every machine as stacked bars, with what is free and what is shattered."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..inventory.canvas import DPI, LIGHT, Canvas, Theme, text_width
from .rules import FRAGMENT, SPLIT, fragment_rate, fragments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (960, 600)
MARGIN, TOP, BOTTOM = 20, 66, 40
SHAPE = 2.4  # height of a machine over its width, roughly
NAME = 11  # pixels of a name below its machine

Floats = NDArray[np.float64]


class Blocks(NamedTuple):
    """Parts of VMs as they are stacked: one entry per VM and node.

    Attributes:
        vm, machine, node: int [B].
        cores, below: its cores and those under it, [B].
    """

    vm: NDArray[np.int64]
    machine: NDArray[np.int64]
    node: NDArray[np.int64]
    cores: NDArray[np.int64]
    below: NDArray[np.int64]


def stacked(owner: NDArray[Any], node: NDArray[Any], cores: NDArray[Any]) -> Blocks:
    """Stack the VMs of each node, the largest at the bottom.

    Args:
        owner, node: where each VM lies, [V]; -1 where there is none.
        cores: of a VM on one node, [V].
    """
    vm = np.concatenate(
        [np.flatnonzero((owner >= 0) & (node != other)) for other in (1, 0)]
    ).astype(np.int64)
    side = np.repeat([0, 1], [((owner >= 0) & (node != other)).sum() for other in (1, 0)])
    order = np.lexsort((vm, -cores[vm], side, owner[vm]))
    vm, side = vm[order], side[order]
    machine, size = owner[vm], cores[vm]
    above = np.cumsum(size) - size
    first = np.flatnonzero(np.diff(machine * 2 + side, prepend=-1))
    group = np.cumsum(np.isin(np.arange(len(vm)), first)) - 1
    below = above - above[first][group] if len(vm) else above
    return Blocks(vm, machine, side, size, below)


def draw_cluster(
    cluster: Dictionary[str, Any],
    title: str = "",
    machine_names: Sequence[str] | None = None,
    *,
    theme: Theme = LIGHT,
    size: tuple[int, int] = SIZE,
) -> NDArray[np.uint8]:
    """The picture of `cluster_figure` as an array, uint8 [height, width, 3]."""
    figure = cluster_figure(cluster, title, machine_names, theme=theme, size=size)
    canvas: Any = figure.canvas
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def cluster_figure(
    cluster: Dictionary[str, Any],
    title: str = "",
    machine_names: Sequence[str] | None = None,
    *,
    theme: Theme = LIGHT,
    size: tuple[int, int] = SIZE,
) -> Figure:
    """Draw machines as bars of cores, one bar per NUMA node.

    From the bottom: VMs (largest first; those over both nodes in a lighter colour), free cores in
    blocks of 16, and the fragment that is left over. The last move is an arrow to its VM.

    Args:
        cluster: of ONE cluster `owner`, `node`, `cores` (of one node) [V], `free_cores`,
            `capacity_cores` [P, 2] and, if a move is to be shown, `moved` [3] (VM, source, target).
        title: written above, before the fragment rate.
        machine_names: written below the machines where there is room; numbers by default.
        theme: its colours.
        size: width and height in pixels (at 100 dots per inch), at least 480 x 320.

    Returns:
        A figure of its own; pyplot does not know it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    if width < 480 or height < 320:
        raise ValueError(f"size={size}, allowed: at least (480, 320) pixels")
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=theme.background)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    canvas = Canvas(axes, theme, width, height)
    machines = _Machines(canvas, np.asarray(cluster["capacity_cores"]))
    free = np.asarray(cluster["free_cores"])
    machines.draw_free(free)
    blocks = stacked(*(np.asarray(cluster[name]) for name in ("owner", "node", "cores")))
    moved, source, _ = (int(i) for i in np.asarray(cluster.get("moved", (-1, -1, -1))))
    machines.draw_vms(blocks, np.asarray(cluster["node"])[blocks.vm] == SPLIT, moved)
    machines.draw_names(machine_names)
    if moved >= 0:
        machines.draw_move(blocks, moved, source)
    _title(canvas, title, free)
    _legend(canvas, bool(machines.nodes.all()), moved >= 0)
    return figure


class _Machines:
    """Where the machines are in the picture, and how they are drawn."""

    def __init__(self, canvas: Canvas, capacity: NDArray[np.int64]) -> None:
        self.canvas, self.capacity = canvas, capacity
        count = len(capacity)
        wide = canvas.width - 2 * MARGIN
        high = canvas.height - TOP - BOTTOM
        columns = np.arange(1, count + 1)
        rows = -(-count // columns)
        best = np.minimum(wide / columns, high / rows / SHAPE).argmax()
        self.columns, self.rows = int(columns[best]), int(rows[best])
        self.cell = wide / self.columns, high / self.rows
        index = np.arange(count)
        self.x = MARGIN + index % self.columns * self.cell[0]
        self.y = TOP + index // self.columns * self.cell[1]
        self.named = self.cell[0] >= 18 and self.cell[1] >= 60
        gap = min(0.16 * self.cell[0], 12.0)
        self.nodes = np.asarray((capacity > 0).any(axis=0))
        self.bar = (self.cell[0] - gap) / max(int(self.nodes.sum()), 1)
        room = self.cell[1] - min(0.12 * self.cell[1], 10.0) - (NAME + 5 if self.named else 0)
        self.floor = self.y + room
        self.unit = room / max(int(capacity.max()), 1)
        self.gap = min(0.08 * self.bar, 2.0)

    def boxes(self, machine: Any, node: Any, below: Any, cores: Any) -> Floats:
        """Boxes (x, y, width, height) of parts of bars, [B, 4]."""
        shift = np.where(self.nodes[0], node, 0) * self.bar
        top = self.floor[machine] - (below + cores) * self.unit
        x = self.x[machine] + shift
        flat = np.zeros(np.shape(x))
        return np.stack([x, top, flat + self.bar - self.gap, cores * self.unit + flat], axis=-1)

    def draw_free(self, free: NDArray[np.int64]) -> None:
        """The capacity, the blocks of 16 free cores, and the fragments at the top."""
        theme = self.canvas.theme
        machine, node = np.nonzero(self.capacity)
        capacity, left = self.capacity[machine, node], free[machine, node]
        fragment = left % FRAGMENT
        whole = self.boxes(machine, node, 0 * capacity, capacity)
        self.canvas.rectangles(whole, theme.card, theme.border, zorder=2)
        for block in range(int((left // FRAGMENT).max(initial=0))):
            there = left // FRAGMENT > block
            below = (capacity - left + block * FRAGMENT)[there]
            boxes = self.boxes(machine[there], node[there], below, 0 * below + FRAGMENT)
            self.canvas.rectangles(boxes, theme.card, theme.border, zorder=3)
        there = fragment > 0
        boxes = self.boxes(
            machine[there], node[there], (capacity - fragment)[there], fragment[there]
        )
        self.canvas.rectangles(boxes, theme.demand, zorder=3)

    def draw_vms(self, blocks: Blocks, split: NDArray[np.bool_], moved: int) -> None:
        """The VMs, with their cores where there is room for a number."""
        theme = self.canvas.theme
        boxes = self.boxes(blocks.machine, blocks.node, blocks.below, blocks.cores)
        edge = theme.background if self.bar > 6 else "none"
        last = blocks.vm == moved
        for rows, colour in (
            (~split & ~last, theme.stock),
            (split & ~last, theme.arriving),
            (last, theme.order),
        ):
            self.canvas.rectangles(boxes[rows], colour, edge, zorder=4)
        for box, cores, light in zip(boxes, blocks.cores, split & ~last, strict=True):
            if box[3] >= 11 and box[2] >= text_width(str(cores), 10) + 2:
                x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
                colour = theme.text if light else theme.background
                self.canvas.write(x, y, str(cores), 10, box[2], ha="center", color=colour)

    def draw_names(self, names: Sequence[str] | None) -> None:
        """Names, or numbers, below the machines."""
        if not self.named:
            return
        room = self.cell[0] - 4
        for index, (x, y) in enumerate(zip(self.x, self.floor, strict=True)):
            name = str(index) if names is None or index >= len(names) else names[index]
            middle = x + self.bar * self.nodes.sum() / 2
            style = {"ha": "center", "color": self.canvas.theme.muted}
            self.canvas.write(middle, y + 9, name, NAME, room, **style)

    def draw_move(self, blocks: Blocks, vm: int, source: int) -> None:
        """An arrow from the machine that the VM has left to the VM."""
        from matplotlib.patches import FancyArrowPatch

        part = int(np.flatnonzero(blocks.vm == vm)[0])
        x, y, wide, high = self.boxes(
            blocks.machine[part], blocks.node[part], blocks.below[part], blocks.cores[part]
        )
        start = np.array([self.x[source] + self.bar * self.nodes.sum() / 2, self.floor[source]])
        start[1] -= 0.5 * self.unit * self.capacity[source].max()
        length = float(np.hypot(*(start - (x, y)))) + 1.0
        bend = min(0.25, 45 / length) * (1 if start[0] < x else -1)  # so that it stays below titles
        arrow = FancyArrowPatch(
            (float(start[0]), float(start[1])),
            (x + wide / 2, y + high / 2),
            connectionstyle=f"arc3,rad={-bend}",
            arrowstyle="-|>",
            mutation_scale=12,
            linewidth=1.6,
            color=self.canvas.theme.backlog,
            zorder=6,
        )
        self.canvas.axes.add_patch(arrow)
        self.canvas.axes.plot(*start, "o", markersize=4, color=self.canvas.theme.backlog, zorder=6)


def _title(canvas: Canvas, title: str, free: NDArray[np.int64]) -> None:
    """Title and fragment rate; below them what the rate is made of."""
    rate = f"fragment rate {float(fragment_rate(free[None])[0]):.3f}"
    heading = f"{title}: {rate}" if title else rate
    room = canvas.width - 2 * MARGIN
    canvas.write(MARGIN, 24, heading[:1].upper() + heading[1:], 16, room, weight="bold")
    shattered, total = int(fragments(free)), int(free.sum())
    text = f"{shattered} of {total} free cores are left over beside blocks of {FRAGMENT}"
    canvas.write(MARGIN, 46, text, 12, room, color=canvas.theme.muted)


def _legend(canvas: Canvas, numa: bool, moved: bool) -> None:
    """What the colours mean."""
    theme, x, y = canvas.theme, float(MARGIN), canvas.height - 18
    entries = [
        ("VM on one NUMA node" if numa else "VM", theme.stock, "none"),
        *([("VM over both", theme.arriving, "none")] * numa),
        (f"{FRAGMENT} free cores", theme.card, theme.border),
        ("fragment", theme.demand, "none"),
    ]
    for text, colour, edge in [*entries, *([("moved last", theme.order, "none")] * moved)]:
        canvas.rectangles((x, y - 6, 12, 12), colour, edge)
        canvas.write(x + 18, y, text, 12, 200)
        x += 18 + text_width(text, 12) + 24
