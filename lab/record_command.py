"""`palaestra record`: data sets of several qualities from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .options import AgentOptions, EnvOptions, construct, key_values


def record(
    env: Annotated[str, typer.Argument(help="Environment id.")],
    agent: Annotated[
        str | None, typer.Option(help="An agent, which is trained first, or a saved one.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each data set.")] = 100_000,
    quality: Annotated[
        list[str] | None,
        typer.Option(help="random, medium, medium-replay or expert (default); repeatable."),
    ] = None,
    train_steps: Annotated[int, typer.Option(min=1, help="Timesteps to learn for.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    policy: Annotated[str | None, typer.Option(help="Default: the agent's own example's.")] = None,
    agent_options: AgentOptions = None,
    env_options: EnvOptions = None,
    num_envs: Annotated[int, typer.Option(min=1, help="Native environments at once.")] = 1,
    ref_min_score: Annotated[
        float | None, typer.Option(help="Return of random actions; default: measured.")
    ] = None,
    ref_max_score: Annotated[
        float | None, typer.Option(help="Return of an expert; default: measured.")
    ] = None,
    reference_episodes: Annotated[int, typer.Option(min=1, help="To measure both.")] = 100,
    deterministic: Annotated[bool, typer.Option(help="Play what seems best, not a draw.")] = False,
    name: Annotated[
        str | None, typer.Option(help="Data sets are NAME/QUALITY-v0; default: the env id.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Draw a progress bar.")] = True,
) -> None:
    """Record Minari data sets of several qualities with an agent."""
    from .record import Request, from_command_line
    from .record import record as run

    request = Request(
        env_id=env,
        env_arguments=key_values("--env", env_options),
        qualities=quality or ["expert"],
        steps=steps,
        seed=seed,
        num_envs=num_envs,
        train_steps=train_steps,
        reference_episodes=reference_episodes,
        lowest=ref_min_score,
        highest=ref_max_score,
        deterministic=deterministic,
        namespace=name,
        progress=progress,
    )
    options = key_values("--set", agent_options)

    def build(cls: type[Any], world: Any) -> Any:
        return construct(cls, policy, world, seed, options)

    for stored in run(request, *from_command_line(agent, build, options)):
        score = "" if stored.score is None else f", normalised {stored.score:.3f}"
        typer.echo(
            f"{stored.name}: {stored.steps:,} steps, {stored.episodes:,} episodes, "
            f"mean return {stored.mean_return:.6g}{score}; {stored.folder}"
        )
