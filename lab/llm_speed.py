"""Language models: steps of GRPO beside TRL's, what other papers' steps cost, and sums learned."""

from __future__ import annotations

import functools
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import gymnasium as gym

from .bench import TIMES, Result, Say, alternate, ratio
from .llm_steps import WARM_UP, environment, learner, write_llama
from .peer import Peer

SIZES = {"prompts": 8, "group_size": 8, "tokens": 16}  # of a step
SIDES = {
    "embedded": "ours, embedded model",
    "hugging_face": "ours, model of Llama's form",
    "trl": "TRL, the same model of Llama's form",
}
NO_TRL = 'TRL was not measured here: pip install "palaestra[trl]".'
# What is compared with GRPO, by the name of the class; SPO has no groups.
SYSTEMS = ("BNPO", "DCPO", "KLCov", "ClipCov", "SingleStreamPO", "KnapsackGRPO")
FEW = 64  # tasks, so few that those who remember them have met all


def installed(*names: str) -> bool:
    """Whether packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in names)


# -- a step beside TRL's ---------------------------------------------------------------------------


def llm_speed(quick: bool, say: Say) -> list[Result]:
    """Time and memory of a step of GRPO: ours, and TRL's."""
    rounds, steps = (1, 1) if quick else (9, 10)
    sides = [name for name in SIDES if name == "embedded" or installed("trl", "transformers")]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if "trl" in sides:
            write_llama(folder)
        peers = {}
        for side in sides:
            task = {"side": side, "directory": folder, "threads": 1, **SIZES}
            command = [sys.executable, "-m", f"{__package__}.llm_steps", json.dumps(task)]
            peers[side] = stack.enter_context(Peer(command, SIDES[side]))
        say(f"{rounds} rounds of {steps} steps: {', '.join(sides)}")
        clocks = {side: functools.partial(peer.seconds, steps) for side, peer in peers.items()}
        seconds = alternate(clocks, rounds)
        memory = {side: peer.seconds(0) for side, peer in peers.items()}
    results = [
        Result(f"{SIDES[side]}, ms per step", 1e3 * statistics.median(seconds[side]) / steps)
        for side in sides
    ]
    results += [Result(f"{SIDES[side]}, peak memory in MiB", memory[side]) for side in sides]
    there = "trl" in sides
    note = "" if there else NO_TRL
    for side, times in (("embedded", 3.0), ("hugging_face", 1.3)):
        value = ratio(seconds["trl"], seconds[side]) if there else None
        results.append(Result(f"time, TRL / {SIDES[side]}", value, TIMES, times, note=note))
        value = memory[side] / memory["trl"] if there else None
        results.append(
            Result(f"memory, {SIDES[side]} / TRL", value, TIMES, 1.0, at_most=True, note=note)
        )
    return results


# -- what other papers' steps cost -----------------------------------------------------------------


def updates(name: str, count: int) -> Callable[[], float]:
    """A function: the seconds that updates of an agent take, by the name of its class."""
    from .. import agents

    prompts, group_size = SIZES["prompts"], SIZES["group_size"]
    if name == "SingleStreamPO":  # one reply to each prompt
        prompts, group_size = prompts * group_size, 1
    agent = learner(
        getattr(agents, name),
        environment(SIZES["tokens"], FEW),
        prompts=prompts,
        group_size=group_size,
    )

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            agent.update()
        return time.perf_counter() - begun

    for _ in range(WARM_UP):
        agent.update()
    return measure


def llm_overhead(quick: bool, say: Say) -> list[Result]:
    """How much longer than GRPO's a step of each system takes."""
    from .. import agents

    rounds, count = (1, 1) if quick else (15, 5)
    there = [name for name in SYSTEMS if name in agents.names()]
    clocks = {name: updates(name, count) for name in ("GRPO", *there)}
    say(f"{rounds} rounds of {count} steps: {', '.join(clocks)}")
    seconds = alternate(clocks, rounds)
    results = [Result("GRPO, ms per step", 1e3 * statistics.median(seconds["GRPO"]) / count)]
    return results + [
        Result(f"{name}, over GRPO", 100 * (ratio(seconds[name], seconds["GRPO"]) - 1), "{:+.1f}%")
        for name in there
    ]


# -- sums ------------------------------------------------------------------------------------------

SUMS: dict[str, Any] = {"digits": 2, "reply": "columns"}
START, AIM = 0.35, 0.9  # held-out accuracy, greedy
LOOK = 25  # updates between two looks
MOST_UPDATES = 1_000
HELD_OUT, OTHERS = (
    range(1_000),
    range(10_000, 11_000),
)  # tasks on which learning ends, and is judged
RECIPE: dict[str, Any] = {"prompts": 64, "group_size": 8, "learning_rate": 3e-4}


class Run(NamedTuple):
    """One run of `learn_sums`.

    Attributes:
        before: accuracy on held-out tasks after imitation, greedy.
        seconds: from there to the aim; None where it was not reached.
        updates: of GRPO.
        after: accuracy on other tasks then.
    """

    before: float
    seconds: float | None
    updates: int
    after: float


def learn_sums(
    seed: int,
    aim: float = AIM,
    held_out: Sequence[int] = HELD_OUT,
    others: Sequence[int] = OTHERS,
    **recipe: Any,
) -> Run:
    """GRPO from a model that has imitated until it is right on about 40% of held-out tasks.

    Args:
        seed: of everything.
        aim: accuracy on held-out tasks above which learning ends.
        held_out, others: test tasks.
        recipe: what differs from `RECIPE`.
    """
    from ..agents.llm.baselines import GRPO

    env = gym.make("Arithmetic-v0", **SUMS)
    agent = GRPO("TextPolicy", env, demonstrations=0, seed=seed, device="cpu", **RECIPE | recipe)
    agent.policy.warm_start(
        [(record.prompt, record.reply) for record in agent.tasks.demonstrations(2_000, seed)],
        1_000,
        seed=seed,
        until=lambda _: agent.accuracy(held_out) >= min(START, aim),
        every=10,
    )
    before = agent.accuracy(held_out)
    replies = LOOK * agent.prompts * agent.group_size
    begun = time.perf_counter()
    for done in range(LOOK, MOST_UPDATES + 1, LOOK):
        agent.learn(replies, log_interval=None, reset_num_timesteps=False)
        if agent.accuracy(held_out) > aim:
            seconds = time.perf_counter() - begun
            return Run(before, seconds, done, agent.accuracy(others))
    return Run(before, None, MOST_UPDATES, agent.accuracy(others))


def llm_arithmetic(quick: bool, say: Say) -> list[Result]:
    """GRPO on sums of two digits, to nine in ten."""
    small: dict[str, Any] = {}
    if quick:
        small = {"aim": -1.0, "held_out": range(8), "others": range(8), "prompts": 2}
    runs = []
    for seed in range(1 if quick else 3):
        say(f"GRPO on sums, seed {seed}")
        runs.append(learn_sums(seed, **small))
    return sums_results(runs)


def sums_results(runs: Sequence[Run]) -> list[Result]:
    """The table of some runs."""
    times = [run.seconds for run in runs if run.seconds is not None]
    short = len(runs) - len(times)
    slowest = None if short else max(times)
    note = f"{short} of {len(runs)} runs did not come so far." if short else ""
    start = statistics.mean(run.before for run in runs)
    return [
        Result("held-out accuracy after imitation, mean", 100 * start, "{:.0f}%"),
        Result("seconds to above 90%, slowest run", slowest, target=180.0, at_most=True, note=note),
        Result("updates, most", max(run.updates for run in runs)),
        Result(
            "accuracy on 1,000 other tasks then, lowest",
            100 * min(run.after for run in runs),
            "{:.1f}%",
        ),
    ]
