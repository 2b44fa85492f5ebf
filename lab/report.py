"""The pages of the laboratory: the scoreboard of all systems, and the page of the demo."""

from __future__ import annotations

import base64
import importlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..envs.registry import ENTRIES
from . import catalog, compare, page, plots
from .demo_data import KINDS, DemoData, Episode, best_policy, ranked
from .page import Drawn
from .statistics import mean_interval

FRAMES = 4  # pictures of the network
MOST_LINES = 6  # locations with a line of their own in the plot of stocks
RENDER_STEPS = 10


def render_demo(out: Path, data: DemoData) -> Path:
    """Write the demo page.

    Args:
        out: folder of the page, made if it is missing.
        data: what it shows.

    Returns:
        the file, out/report.html. It loads nothing from elsewhere.
    """
    bounds = [row for row in data.ranked if row.kind == "bound"]
    bars = [plots.Bar(r.method, r.mean, r.low, r.high, r.kind) for r in data.ranked]
    rules = [row for row in data.ranked if row.kind == "heuristic"]
    levels = {f"best heuristic: {row.method}": row.mean for row in rules[:1]}
    levels |= {row.method: row.mean for row in bounds[:2]}
    values: dict[str, Any] = {"frames": [], "curves": None}
    if data.curves:
        values["curves"] = page.drawn(
            plots.learning_curves,
            data.curves,
            name="curves",
            x_label=data.x_label,
            y_label=data.metric,
            levels=levels,
        )
    if data.episode is not None:
        values |= _episode(data.episode)
    return page.write(
        out,
        "demo.html",
        data=data,
        comparison=page.drawn(
            plots.comparison, bars, name="comparison", x_label=data.metric, groups=KINDS
        ),
        decimals=page.decimals_for([row.mean for row in data.rows]),
        others=[
            {
                "title": title,
                "rows": ranked(rows),
                "best": best_policy(rows),
                "decimals": page.decimals_for([row.mean for row in rows]),
            }
            for title, rows in data.others.items()
        ],
        has_bound=bool(bounds),
        **values,
    )


def render_report(out: Path) -> Path:
    """Write the scoreboard of all systems: states, claims, evidence, pictures of environments.

    Args:
        out: folder of the page, made if it is missing.

    Returns:
        the file, out/report.html. It loads nothing from elsewhere.

    Raises:
        ValueError: a stored result is damaged.
    """
    rows = catalog.rows()
    families: dict[str, list[catalog.Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    counts = {name: Counter(row.state for row in members) for name, members in families.items()}
    stored = {row.slug: catalog.stored_result(row.slug) for row in rows if row.evidence}
    results = {slug: result for slug, result in stored.items() if result is not None}
    return page.write(
        out,
        "scoreboard.html",
        rows=rows,
        families=families,
        counts=counts,
        totals=Counter(row.state for row in rows),
        states=catalog.STATES,
        results=results,
        evidence=[_evidence(row, results[row.slug]) for row in rows if row.evidence],
        environments=[_environment(entry) for entry in catalog.environments()],
        comparisons=[_comparison(each, number) for number, each in enumerate(compare.stored())],
    )


def render_comparison(out: Path, result: Mapping[str, Any]) -> Path:
    """Write what `compare.run_comparison` found as a page; returns the file, out/report.html."""
    return page.write(out, "comparison.html", item=_comparison(result))


def _comparison(result: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
    """What is shown of agents that learned side by side."""
    curves, rows = {}, []
    for name, arm in result["arms"].items():
        common = plots.aligned([_floats(one["return"]) for one in arm["curves"]])
        if common is not None:
            curves[name] = common
        rows.append(
            {
                "name": name,
                "last": mean_interval(arm["metrics"]["last"]),
                "mean": mean_interval(arm["metrics"]["mean"]),
                "speed": float(np.median(arm["metrics"]["steps per CPU second"])),
            }
        )
    drawn = page.drawn(plots.learning_curves, curves, name=f"compare-{number}")
    return {"result": result, "rows": rows, "curve": drawn}


def _episode(episode: Episode) -> dict[str, Any]:
    net = episode.network
    shown = np.unique(np.linspace(0, episode.periods, FRAMES + 1).astype(int)[1:]) - 1
    names = {location: net.names[location] for location in _chain(episode)}
    stocks, caption = _stocks(episode)
    return {
        "frames": [
            {"period": int(t) + 1, "picture": _picture(episode, int(t))} for t in shown if t >= 0
        ],
        "orders": page.drawn(
            plots.orders_and_demand,
            {
                name: (episode.asked_of(location), episode.ordered_by(location))
                for location, name in names.items()
            },
            name="orders",
        ),
        "stocks": page.drawn(plots.stocks_over_time, stocks, name="stocks"),
        "stocks_caption": caption,
    }


def _picture(episode: Episode, period: int) -> Drawn:
    """The network after a period; for narrow screens in a size that scrolls."""
    net = episode.network
    suppliers = net.locations - net.stores
    height = int(np.clip(30 * max(net.stores, suppliers) + 150, 360, 800))

    def draw(width: int, name: str) -> Markup:
        return Markup(
            plots.network_picture(
                net,
                episode.inventory[period],
                episode.orders[period],
                episode.demand[period],
                name=f"{name}-{period + 1}",
                title=f"after period {period + 1} of {episode.periods}",
                size=(width, height),
            )
        )

    return Drawn(draw(960, "network"), draw(640, "network-narrow"))


def _chain(episode: Episode) -> list[int]:
    """The store with the highest demand, its main supplier, that one's main supplier, ..."""
    net = episode.network
    location = net.locations - net.stores + int(episode.demand.mean(axis=0).argmax())
    found = [location]
    shipped = episode.orders.sum(axis=0)
    while len(found) < 4:
        arcs = np.flatnonzero((net.target == location) & (net.source >= 0))
        if not len(arcs):
            break
        location = int(net.source[arcs[shipped[arcs].argmax()]])
        found.append(location)
    return found


def _stocks(episode: Episode) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Lines of the plot of stocks, with its caption: each location, or totals by kind."""
    net, held = episode.network, episode.inventory[:, :, 0]
    below = "Below zero: backlog. " if (held < 0).any() else ""
    if net.locations <= MOST_LINES:
        lines = {name: held[:, location] for location, name in enumerate(net.names)}
        return lines, f"{below}After each period, with what has just arrived."
    kinds = np.array(net.kinds)
    lines = {}
    for kind in dict.fromkeys(net.kinds):
        which = np.flatnonzero(kinds == kind)
        label = f"{len(which)} {kind}s" if len(which) > 1 else net.names[which[0]]
        lines[label] = held[:, which].sum(axis=1)
    return lines, f"{below}Totals after each period, with what has just arrived."


def _evidence(row: catalog.Row, result: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a stored result: criteria, arms, learning curves, samples of replies."""
    arms = [
        {
            "name": arm,
            "metrics": {m: mean_interval(values) for m, values in found["metrics"].items()},
            "seconds": float(np.mean(found["seconds"])),
        }
        for arm, found in result["arms"].items()
    ]
    names = dict.fromkeys(
        name for found in result["arms"].values() for one in found["curves"] for name in one
    )
    drawn = []
    for number, name in enumerate(names):
        curves = {}
        for arm, found in result["arms"].items():
            common = plots.aligned([_floats(one[name]) for one in found["curves"] if name in one])
            if common is not None:
                curves[arm] = common
        if curves:
            prefix = f"curve-{row.row}-{number}"
            drawn.append(page.drawn(plots.learning_curves, curves, name=prefix, y_label=name))
    samples = {
        arm: found["samples"] for arm, found in result["arms"].items() if found.get("samples")
    }
    return {"row": row, "result": result, "arms": arms, "curves": drawn, "samples": samples}


def _floats(curve: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve of a stored result, where null stands for a point that was not measured."""
    x, y = (np.array([np.nan if v is None else v for v in axis], dtype=float) for axis in curve)
    return x, y


def _environment(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with a picture after a few random steps or the text of a task, or the reason why
    there is none."""
    shown = {**entry, "picture": None, "text": "", "reason": ""}
    if needs := {each.id: each.needs for each in ENTRIES}[entry["id"]]:
        return {**shown, "reason": f"it needs {needs}"}
    module, name = entry["class"].rsplit(".", 1)
    try:
        modes = getattr(importlib.import_module(module), name).metadata["render_modes"]
        if "rgb_array" in modes:
            return {**shown, "picture": _png(_frame(entry["id"]))}
        return {**shown, "text": _text(entry["id"])}
    except ImportError as error:  # an extra that is not installed
        return {**shown, "reason": str(error)}


def _text(env_id: str) -> str:
    """What a text environment shows of its first task."""
    env = gym.make(env_id, render_mode="ansi")
    try:
        env.reset(seed=0)
        return str(env.render()).strip()
    finally:
        env.close()


def _frame(env_id: str) -> NDArray[np.uint8]:
    env = gym.make(env_id, render_mode="rgb_array")
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(RENDER_STEPS):
            # Where actions are masked, the space samples what is feasible.
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
        return np.asarray(env.render(), dtype=np.uint8)
    finally:
        env.close()


def _png(frame: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
