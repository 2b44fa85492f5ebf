"""`palaestra measure`: how good recorded data are, and how much of the world they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table


def measure(
    datasets: Annotated[
        list[str], typer.Argument(help="Minari names or folders, or D4RL files (.hdf5).")
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="What an online agent saw in as many steps; without it no SACo."),
    ] = None,
    lowest: Annotated[
        float | None, typer.Option("--min", help="Return of random play; default: the known one.")
    ] = None,
    highest: Annotated[
        float | None, typer.Option("--expert", help="Return of an expert; default: the known one.")
    ] = None,
    max_episode_steps: Annotated[
        int | None, typer.Option(min=1, help="For D4RL files that do not say where they cut.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a page with pictures.")] = None,
) -> None:
    """Measure data sets: trajectory quality (TQ) and state-action coverage (SACo)."""
    from .measure import measure as run
    from .measure import render_measures

    if repeated := {name for name in datasets if datasets.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(repeated))} is given twice")
    found = run(datasets, reference, lowest, highest, max_episode_steps)
    rows = [each.as_dict() for each in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        names = ("TQ", "SACo", "steps", "episodes", "mean return", "mean length", "pairs")
        table = Table(Column("data set", overflow="fold"))
        for name in names:
            table.add_column(name, justify="right")
        for row in rows:
            measures = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("tq", "saco"))
            numbers = (f"{row['steps']:,}", f"{row['episodes']:,}", f"{row['mean_return']:.6g}")
            rest = (f"{row['mean_length']:.4g}", f"{row['pairs']:,}")
            table.add_row(escape(row["name"]), *measures, *numbers, *rest)
        Console().print(table)
        for row in rows:
            for note in row["notes"]:
                typer.echo(f"{row['name']}: {note}", err=True)
    if out is not None:
        path = render_measures(out, found)
        (path.parent / "measures.json").write_text(json.dumps(rows, indent=1) + "\n")
        typer.echo(str(path), err=as_json)
