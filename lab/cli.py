"""The command line: `palaestra list | envs | train | evaluate | record | measure | rollouts |
analyse | reproduce | compare | curves | report | bench | demo`.

Exit status: 0 done; 1 a claim did not hold; 2 bad usage or input; 3 anything else that failed.
Errors are one line on stderr; PALAESTRA_DEBUG=1 shows the traceback.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from typer.core import TyperGroup

from . import catalog
from .compare_commands import compare, curves
from .measure_command import measure
from .options import AgentOptions, EnvOptions, construct, key_values
from .record_command import record

LIST_KEYS = ("row", "slug", "family", "title", "state", "class", "environments", "claim")


class OneLineErrors(TyperGroup):
    """A command group whose failures are one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer's own: a usage error can say what it is, anything else is an exit.
            of_typer = type(error).__module__.split(".")[0] in ("typer", "click")
            if of_typer and not hasattr(error, "format_message"):
                raise
            if os.environ.get("PALAESTRA_DEBUG") == "1":
                typer.echo(getattr(error, "traceback", ""), err=True)
                traceback.print_exception(error)
            foreseen = of_typer or isinstance(error, ValueError | ImportError | OSError | KeyError)
            line = escape(_one_line(error, foreseen))
            Console(stderr=True).print(f"[red]error: {line}[/red]", soft_wrap=True, highlight=False)
            raise typer.Exit(2 if foreseen else 3) from error


def _one_line(error: Any, foreseen: bool) -> str:
    if hasattr(error, "format_message"):
        text = error.format_message()
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError puts quotes around it
    else:
        text = str(error)
    if not foreseen or not text:
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    help="Environments, agents, and a laboratory that tests what papers claim.",
)

analyses = typer.Typer()
app.add_typer(analyses, name="analyse", help="What is known of an environment without learning.")


@app.command("list")
def list_systems(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="One line per family.")] = False,
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state.")] = None,
) -> None:
    """The surveyed systems and the state of each."""
    families = list(catalog.summary())
    _check_choice("family", family, families)
    _check_choice("state", state, catalog.STATES)
    if summary:
        if state is not None:
            raise ValueError("--summary counts every state; leave --state out")
        counts = {f: n for f, n in catalog.summary().items() if family in (None, f)}
        if as_json:
            typer.echo(json.dumps(counts, indent=1))
            return
        table = Table("family", *catalog.STATES, "total")
        for name, count in counts.items():
            table.add_row(name, *(str(count[column]) for column in (*catalog.STATES, "total")))
        columns = (*catalog.STATES, "total")
        table.add_section()
        table.add_row("all", *(str(sum(n[c] for n in counts.values())) for c in columns))
        Console().print(table)
        return
    rows = [r for r in catalog.rows() if family in (None, r.family) and state in (None, r.state)]
    if as_json:
        objects = [{key: row.as_dict()[key] for key in LIST_KEYS} for row in rows]
        typer.echo(json.dumps(objects, indent=1))
        return
    table = Table("row", "slug", "family", "state", "title")
    for row in rows:
        shown = f"{row.state} (stale)" if row.stale else row.state
        table.add_row(str(row.row), row.slug, row.family, shown, escape(row.title))
    Console().print(table)


@app.command()
def envs(as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """The environments."""
    entries = catalog.environments()
    if as_json:
        typer.echo(json.dumps(entries, indent=1))
        return
    table = Table("id", "domain", "faces", Column("class", overflow="fold"))
    for entry in entries:
        table.add_row(entry["id"], entry["domain"], ", ".join(entry["faces"]), entry["class"])
    Console().print(table)


@app.command()
def train(
    agent: Annotated[str, typer.Argument(help="An agent, or PPO, SAC, ... of SB3.")],
    env: Annotated[str, typer.Argument(help="Environment id.")],
    steps: Annotated[int, typer.Option(min=1, help="Timesteps to learn for.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    policy: Annotated[str | None, typer.Option(help="Default: the agent's own example's.")] = None,
    agent_options: AgentOptions = None,
    env_options: EnvOptions = None,
    num_envs: Annotated[int, typer.Option(min=1, help="Native environments at once.")] = 1,
    save: Annotated[Path | None, typer.Option(help="Write the trained agent here.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint.")] = False,
    progress: Annotated[bool, typer.Option(help="Draw a progress bar.")] = True,
    episodes: Annotated[int, typer.Option(min=0, help="Evaluation episodes afterwards.")] = 10,
) -> None:
    """Train an agent in an environment, and evaluate it."""
    from . import evaluation

    if resume and checkpoint is None:
        raise ValueError("--resume needs --checkpoint DIR, the folder to go on from")
    cls = evaluation.agent_class(agent)
    learn_options: dict[str, Any] = {}
    if checkpoint is not None:
        if agent in evaluation.SB3_NAMES:
            raise ValueError(f"{agent} is Stable-Baselines3's own and has no --checkpoint")
        learn_options = {"checkpoint": checkpoint, "resume": resume}
    arguments = key_values("--env", env_options)
    world = evaluation.make_environment(env, arguments, num_envs)
    learner = construct(cls, policy, world, seed, key_values("--set", agent_options))
    learner.learn(steps, progress_bar=progress, **learn_options)
    if save is not None:
        learner.save(save)
        typer.echo(f"saved {save}")
    if episodes:
        # Seeds far from the training run's, which starts at `seed`.
        _evaluate(learner, evaluation.make_environment(env, arguments), episodes, seed + 1_000_000)


@app.command()
def evaluate(
    what: Annotated[
        str, typer.Argument(metavar="PATH|AGENT", help="A saved agent, or a heuristic.")
    ],
    env: Annotated[str, typer.Argument(help="Environment id.")],
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Episode i is reset with seed + i.")] = 0,
    agent_options: AgentOptions = None,
    env_options: EnvOptions = None,
) -> None:
    """Mean return of a saved agent or of a heuristic, with its 95% interval over episodes."""
    from .. import agents
    from ..agents.base import checkpoint as files
    from . import evaluation

    world = evaluation.make_environment(env, key_values("--env", env_options))
    options = key_values("--set", agent_options)
    if what in (*agents.names(), *evaluation.SB3_NAMES):
        cls = evaluation.agent_class(what)
        if not evaluation.is_heuristic(cls):
            raise ValueError(f"{what} must learn first: give the file that `train --save` wrote")
        actor = construct(cls, None, world, seed, options)
    else:
        if options:
            raise ValueError("--set is for an agent given by name; a saved one brings its own")
        if not files.with_suffix(what).exists():
            known = ", ".join(agents.names())
            raise ValueError(f"{what!r} is neither a file nor an agent; the agents are {known}")
        actor = evaluation.load_agent(what, world)
    _evaluate(actor, world, episodes, seed)


@app.command()
def rollouts(
    run: Annotated[Path, typer.Argument(help="A saved agent, or its folder of checkpoints.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replies of a language-model agent before and after it has learned."""
    from ..agents.base import checkpoint, resumable

    path = run / resumable.LATEST if run.is_dir() else run
    config, _ = checkpoint.read(path)
    samples = checkpoint.decode(config.get("extra", {})).get("samples")
    if not samples:
        raise ValueError(f"{path}: no rollouts are kept there: only agents that learn from replies")
    if as_json:
        typer.echo(json.dumps(samples, indent=1))
        return
    table = Table("when", "prompt", "reply", Column("reward", justify="right"))
    for when, rows in samples.items():
        for prompt, reply, reward in rows:
            table.add_row(when, escape(prompt), escape(reply), f"{reward:.3g}")
        table.add_section()
    Console().print(table)


@analyses.command("effective-horizon")
def effective_horizon(
    env: Annotated[str, typer.Argument(help="Environment id; its states must be finite.")],
    env_options: EnvOptions = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Default: the env's own.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Largest k; default: all.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="What gaps are divided by; default: range of returns.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How far one has to look ahead from the values of the random policy to act optimally."""
    from .analysis import effective_horizon_of

    found = effective_horizon_of(env, key_values("--env", env_options), horizon, depth, scale)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(*(Column(name, justify="right") for name in ("k", "solvable", "gap", "bound")))
    for row in found["steps"]:
        numbers = ("-" if row[name] is None else f"{row[name]:.6g}" for name in ("gap", "bound"))
        table.add_row(str(row["k"]), "yes" if row["solvable"] else "no", *numbers)
    Console().print(table)
    typer.echo(found["summary"])


@app.command()
def reproduce(
    slug: Annotated[str, typer.Argument(help="A system of `palaestra list`.")],
    scale: Annotated[float, typer.Option(help="Share of the budget; below 1 a trial.")] = 1.0,
    seeds: Annotated[int | None, typer.Option(help="Default: the claim's own.")] = None,
    workers: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster, or local.")
    ] = None,
    store: Annotated[bool, typer.Option(help="Store the result of a full run.")] = True,
    progress: Annotated[bool, typer.Option(help="Draw a progress bar.")] = True,
) -> None:
    """Run a paper's claim: exit status 0 when it holds, 1 when it does not."""
    from .runner import run_claim

    result = run_claim(
        slug,
        seeds=seeds,
        scale=scale,
        workers=workers,
        ray_address=ray,
        progress=progress,
        store=store,
    )
    console = Console()
    console.print(escape(result["claim"]))
    table = Table("criterion", "difference or value", "95% interval", "holds")
    for verdict in result["criteria"]:
        interval = f"[{verdict['low']:.4g}, {verdict['high']:.4g}]"
        table.add_row(
            escape(verdict["text"]),
            f"{verdict['estimate']:.4g}",
            escape(interval),
            "yes" if verdict["holds"] else "no",
        )
    console.print(table)
    held = "holds" if result["holds"] else "does not hold"
    kind = " (a trial: not stored)" if result["trial"] else ""
    console.print(f"{slug}: {result['state']}, the claim {held}{kind}", highlight=False)
    if store and not result["trial"]:
        console.print(f"stored in {catalog.result_path(slug)}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if result["holds"] else 1)


app.command()(record)
app.command()(measure)
app.command()(compare)
app.command()(curves)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("runs/report"),
) -> None:
    """Render the scoreboard of all systems as a static HTML page."""
    from .report import render_report

    typer.echo(str(render_report(out)))


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter, less exact.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the table here.")] = None,
) -> None:
    """Measure the speed of environments and training."""
    from .bench import main as run_benchmarks

    run_benchmarks(names or [], quick=quick, out=out)


@app.command()
def demo(
    demand: Annotated[Path | None, typer.Option(help="Demand to use: .npz or .csv.")] = None,
    calendar: Annotated[Path | None, typer.Option(help="Calendar features of the demand.")] = None,
    network: Annotated[Path | None, typer.Option(help="Supply network: .yaml.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
) -> None:
    """HDPO, PPO and the heuristics on InventoryNet, with a report."""
    from .demo import run_demo

    run_demo(demand=demand, calendar=calendar, network=network, out=out, seeds=seeds)


def main() -> None:
    """Entry point of the `palaestra` command."""
    app()


def _check_choice(option: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(f"--{option} {value!r} is not one of {', '.join(allowed)}")


def _evaluate(actor: Any, env: Any, episodes: int, seed: int) -> None:
    from .evaluation import episode_returns
    from .statistics import mean_interval

    estimate = mean_interval(episode_returns(actor, env, episodes, seed))
    typer.echo(
        f"mean return {estimate.estimate:.6g}, "
        f"95% interval [{estimate.low:.6g}, {estimate.high:.6g}], {episodes} episodes"
    )
