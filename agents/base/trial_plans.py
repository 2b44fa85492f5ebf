"""Plans tried in an exact simulator: several courses of action from one state, side by side."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...envs.base import Arrays, put, take
from ...envs.cluster.features import PM_FEATURES
from ...envs.cluster.vm_rescheduling import VMRescheduling
from .pair_policy import Choice, PairPolicy

PAIRS = 2**25  # of tokens that attend to each other in one pass, which bounds the memory


@dataclass(frozen=True)
class Trials:
    """What k plans from each of n states have led to.

    Attributes:
        actions: int [n, k, T, 2]; -1 where nothing was moved (illegal, the machine where it was, or
            after the end).
        fragment_rates: at the end, [n, k].
    """

    actions: NDArray[np.int64]
    fragment_rates: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.int64]:
        """The plan of each state with the least fragments, the first of equal ones, [n]."""
        return self.fragment_rates.argmin(1)

    def moves(self, row: int) -> list[tuple[int, int]]:
        """What the best plan of a state moves, in order."""
        actions = self.actions[row, self.best[row]]
        return [(int(vm), int(pm)) for vm, pm in actions if vm >= 0]


@torch.no_grad()
def try_plans(
    policy: PairPolicy,
    core: VMRescheduling,
    state: Arrays,
    tape: Arrays,
    plans: int,
    quantiles: tuple[float, float] = (0.0, 0.0),
    generator: torch.Generator | None = None,
) -> Trials:
    """Follow a policy `plans` times from each state to the end of the episode.

    The first plan takes the most likely action at every step, the others are sampled; all are
    simulated at once. None of the arguments is changed. Where the cluster has churn, plans are made
    as if nothing happened meanwhile.

    Args:
        policy: whose plans.
        core, state, tape: of the environment, a batch of n.
        plans: k, at least 1.
        quantiles: see `Choice`.
        generator: for the samples; None: torch's own.

    Raises:
        ValueError: there is no plan to try, or the policy does something illegal in a core that
            does not allow it.
    """
    if plans < 1:
        raise ValueError(f"at least 1 plan must be tried, got {plans}")
    policy.set_training_mode(False)
    core = standing_still(core)
    count = len(state["t"])
    rows = np.repeat(np.arange(count), plans)
    state, tape = take(state, rows), take(tape, rows)
    taken = []
    while not (over := core.truncated(state) | core.terminal(state)).all():
        going = np.flatnonzero(~over)
        whole = len(going) == len(rows)
        now = state if whole else take(state, going)
        observation = core.observation(now)
        actions = _actions(policy, observation, going % plans == 0, quantiles, generator)
        after = core.transition(
            now, core.check_action(actions, now), tape if whole else take(tape, going)
        )
        state = after if whole else put(state, going, after)
        step = np.full((len(rows), 2), -1, dtype=np.int64)
        step[going] = np.where(after["moved"][:, :1] >= 0, actions, -1)
        taken.append(step)
    together = np.stack(taken, 1) if taken else np.zeros((len(rows), 0, 2), dtype=np.int64)
    return Trials(
        together.reshape(count, plans, len(taken), 2),
        core.info(state)["fragment_rate"].reshape(count, plans),
    )


def standing_still(core: VMRescheduling) -> VMRescheduling:
    """The core in which no VM arrives or leaves: a plan may not know what is going to happen."""
    if not core.churn:
        return core
    still = copy.copy(core)
    still.churn = still.inference_seconds = 0.0
    return still


def _actions(
    policy: PairPolicy,
    observation: Arrays,
    greedy: NDArray[np.bool_],
    quantiles: tuple[float, float],
    generator: torch.Generator | None,
) -> NDArray[np.int64]:
    """Actions [n, 2], as many rows at a time as memory allows."""
    tensors, _ = policy.obs_to_tensor(observation)
    first = torch.as_tensor(greedy, device=policy.device)
    tokens = observation["owner"].shape[1] + observation["pms"].shape[1] // PM_FEATURES + 2
    rows = max(PAIRS // tokens**2, 1)
    found = []
    for start in range(0, len(greedy), rows):
        part = slice(start, start + rows)
        choice = Choice(first[part], quantiles, generator)
        found.append(policy.choose({key: value[part] for key, value in tensors.items()}, choice))
    return torch.cat(found).cpu().numpy()


def final_rates(agent: Any, core: VMRescheduling) -> NDArray[np.float64]:
    """Fragment rates after an agent has played one episode from each mapping of a data set, one
    deterministic action after another."""
    state, tape = every_mapping(core)
    while not core.truncated(state).all():
        actions, _ = agent.predict(core.observation(state), deterministic=True)
        state = core.transition(state, core.check_action(actions, state), tape)
    found: NDArray[np.float64] = core.info(state)["fragment_rate"]
    return found


def every_mapping(core: VMRescheduling) -> tuple[Arrays, Arrays]:
    """State and tape of one episode from each mapping of a data set."""
    assert core.mappings is not None
    choices = [{"mapping": i} for i in range(len(core.mappings))]
    tape = core.tapes(len(choices), 0, choices)
    return core.initial(tape), tape
