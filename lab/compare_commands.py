"""The commands `palaestra compare` and `palaestra curves`: agents that learn side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from .options import EnvOptions, key_values

Seeds = Annotated[int, typer.Option(min=2, help="Number of seeds, the same for every agent.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Default: one per core.")]
Bar = Annotated[bool, typer.Option(help="Draw a progress bar.")]


def compare(
    env: Annotated[str, typer.Argument(help="Environment id.")],
    agents: Annotated[list[str], typer.Argument(help="Agents, or DQN, DDPG, ... of SB3.")],
    steps: Annotated[int, typer.Option(min=1, help="Timesteps that each learns for.")] = 20_000,
    seeds: Seeds = 5,
    evaluations: Annotated[int, typer.Option(min=1, help="Points of a curve.")] = 10,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of an evaluation.")] = 10,
    num_envs: Annotated[int, typer.Option(min=1, help="Native environments at once.")] = 1,
    agent_options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[AGENT.]KEY=VALUE", help="Argument of all, or of one."),
    ] = None,
    env_options: EnvOptions = None,
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a page with the curves.")] = None,
    progress: Bar = True,
) -> None:
    """Let agents learn in the same environment: returns with 95% intervals over seeds."""
    from .compare import Comparison, Side, run_comparison

    if repeated := {name for name in agents if agents.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(repeated))} is given twice")
    options = _per_agent(agents, agent_options)
    comparison = Comparison(
        "compare",
        env,
        {name: Side(name, options[name]) for name in agents},
        steps,
        env_kwargs=key_values("--env", env_options),
        num_envs=num_envs,
        evaluations=min(evaluations, steps),
        episodes=episodes,
        seeds=seeds,
    )
    result = run_comparison(comparison, workers=workers, progress=progress)
    _print(result)
    if out is not None:
        from .report import render_comparison

        path = render_comparison(out, result)
        (path.parent / "comparison.json").write_text(json.dumps(result, indent=1) + "\n")
        typer.echo(str(path))


def curves(
    names: Annotated[list[str] | None, typer.Argument(help="Comparisons; default: all.")] = None,
    scale: Annotated[float, typer.Option(help="Share of the steps; below 1 a trial.")] = 1.0,
    seeds: Annotated[int | None, typer.Option(min=2, help="Default: its own number.")] = None,
    workers: Workers = None,
    show: Annotated[bool, typer.Option("--list", help="Only say which there are.")] = False,
    progress: Bar = True,
) -> None:
    """Measure the learning curves that the report shows; a full run is stored."""
    from .compare import FOLDER, run_comparison
    from .comparisons import COMPARISONS
    from .runner import store

    known = {each.name: each for each in COMPARISONS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"no comparison is called {name!r}; there are {', '.join(known)}")
    if show:
        table = Table("comparison", "environment", Column("steps", justify="right"), "agents")
        for each in COMPARISONS:
            table.add_row(each.name, each.env, f"{each.steps:,}", ", ".join(each.sides))
        Console().print(table)
        return
    for name in names or known:
        result = run_comparison(
            known[name], seeds=seeds, scale=scale, workers=workers, progress=progress
        )
        _print(result)
        if not result["trial"]:
            typer.echo(f"stored in {store(result, FOLDER)}")


def _per_agent(agents: list[str], pairs: list[str] | None) -> dict[str, dict[str, Any]]:
    """Arguments of each agent: those for all, with its own in their place."""
    common = [pair for pair in pairs or () if "." not in pair.partition("=")[0]]
    options = {}
    for name in agents:
        mine = [pair for pair in pairs or () if pair.startswith(f"{name}.")]
        own = key_values("--set", [pair.partition(".")[2] for pair in mine])
        options[name] = {**key_values("--set", common), **own}
    used = {name for name in agents for pair in pairs or () if pair.startswith(f"{name}.")}
    for pair in pairs or ():
        owner, dot, _ = pair.partition("=")[0].partition(".")
        if dot and owner not in used:
            raise ValueError(f"--set {pair!r}: {owner} is not compared; {', '.join(agents)} are")
    return options


def _print(result: Mapping[str, Any]) -> None:
    """The table: returns with their intervals, and speeds."""
    from .statistics import mean_interval

    title = f"{result['slug']}: {result['env']}, {result['steps']:,} steps, "
    title += f"{len(result['seeds'])} seeds"
    table = Table(
        "agent",
        Column("return at the end", justify="right"),
        Column("mean of the curve", justify="right"),
        Column("steps per CPU second", justify="right"),
        title=escape(title),
    )
    for name, arm in result["arms"].items():
        cells = []
        for metric in ("last", "mean"):
            found = mean_interval(arm["metrics"][metric])
            cells.append(f"{found.estimate:.4g} [{found.low:.4g}, {found.high:.4g}]")
        speed = mean_interval(arm["metrics"]["steps per CPU second"]).estimate
        table.add_row(escape(name), *map(escape, cells), f"{speed:,.0f}")
    Console().print(table)
