"""Running a policy through a simulator on recorded randomness, step by step or compiled."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ...envs.base import ArrayCore, Arrays


def stretch(
    core: ArrayCore, policy: Any, state: Arrays, tape: Arrays, alive: Any, steps: int
) -> tuple[Arrays, Any, torch.Tensor]:
    """Some steps of a batch of recorded episodes.

    Args:
        core, policy, tape: as in `unroll`.
        state: at the start.
        alive: bool [n], episodes that have not ended; None where none ever ends.
        steps: number of steps.

    Returns:
        State and `alive` at the end, and the sum of rewards [n].
    """
    total = torch.zeros((), dtype=torch.float32)
    oracle = getattr(policy, "hindsight", None)
    for _ in range(steps):
        action = policy(core.observation(state)) if oracle is None else oracle(core, state, tape)
        following = core.transition(state, action, tape)
        reward = core.reward(state, action, following)
        if alive is not None:
            reward = torch.where(alive, reward, torch.zeros_like(reward))
            alive = alive & ~core.terminal(following)
        total = total + reward
        state = following
    return state, alive, total


class CompiledStretch:
    """`stretch` through `torch.compile`, for one number of steps: fewer and larger operations.

    It is compiled in the first two calls (the state that starts an episode carries no gradients,
    later ones do) and for every new batch size. That takes seconds each time, in proportion to
    `steps`. Results equal those of `stretch` up to float rounding.

    Args:
        steps: number of steps, >= 1.

    Raises:
        ValueError: there is no C++ compiler.
    """

    def __init__(self, steps: int) -> None:
        names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
        if not any(shutil.which(name) for name in names):
            raise ValueError(
                f"compile_periods={steps} needs a C++ compiler, and none of {', '.join(names)} is "
                "on the path: install one, or leave compile_periods at 0"
            )
        # The array API's dispatch is cached by type, which is the same whenever it is traced.
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        self.steps = steps
        # With torch 2.13 the vectorised ends of loops write beyond their arrays, and a graph policy
        # crashes.
        options: dict[str, Any] = {"cpp.enable_loop_tail_vec": False}
        self.compiled = torch.compile(stretch, dynamic=False, options=options)
        self.prepared = False

    def __call__(
        self, core: ArrayCore, policy: Any, state: Arrays, tape: Arrays, alive: Any
    ) -> tuple[Arrays, Any, torch.Tensor]:
        """What `stretch` returns after `steps` steps."""
        if not self.prepared:
            # What core and policy prepare on first use does not belong into the compiled graph.
            with torch.no_grad():
                stretch(core, policy, state, tape, alive, 1)
            self.prepared = True
        # One memory layout for all stretches: another one would be compiled anew.
        state = {name: value.contiguous() for name, value in state.items()}
        found: tuple[Arrays, Any, torch.Tensor] = self.compiled(
            core, policy, state, tape, alive, self.steps
        )
        return found


def unroll(
    core: ArrayCore,
    policy: Callable[[torch.Tensor], torch.Tensor],
    tape: Arrays,
    steps: int,
    ignore: int = 0,
    compiled: CompiledStretch | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `policy` on a batch of recorded episodes.

    Args:
        core: face 3 of an environment.
        policy: observations [n, D] -> actions [n, A]. One that has a method
            `hindsight(core, state, tape)` is an oracle: it is asked that way and knows the recorded
            future.
        tape: batched tape, tensors.
        steps: number of steps.
        ignore: steps at the start that the second result leaves out.
        compiled: `stretch`, compiled; it runs as many steps as it can.

    Returns:
        Mean reward per step of each episode over all steps, and over the steps after `ignore`, both
        [n]. Steps after the end of an episode count 0.
    """
    state = core.initial(tape)
    ends = type(core).terminal is not ArrayCore.terminal
    alive = ~core.terminal(state) if ends else None
    warm_up = scored = torch.zeros((), dtype=torch.float32)
    step = 0
    while step < steps:
        count = (ignore if step < ignore else steps) - step
        if compiled is not None and count >= compiled.steps:
            count = compiled.steps
            state, alive, total = compiled(core, policy, state, tape, alive)
        else:
            state, alive, total = stretch(core, policy, state, tape, alive, count)
        if step < ignore:
            warm_up = warm_up + total
        else:
            scored = scored + total
        step += count
    return (warm_up + scored) / steps, scored / (steps - ignore)
