"""`DigitSum-v0`: write digits with a given sum modulo a number; one reply in `modulus` is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import ALPHABET
from .base import Task, TextEnv, check_integer


class DigitSum(TextEnv):
    """Write a fixed number of digits whose sum has the residue that is shown.

    ## Description
    One prompt, one reply, and thousands of right replies to each prompt: made for methods that are
    to keep a policy diverse.

    ## Observation
    `Text`: the residue y and `=`, such as `3=`; shown again after the reply. The alphabet is that
    of `Arithmetic-v0`.

    ## Action
    `Text`, at most `length` + 1 characters, ended by `$`: `1200$`. Any string is legal.

    ## Dynamics
    y is the id of the task modulo `modulus`. There are `modulus` prompts only, so the splits share
    them: there is nothing to hold out. `info` after the step: `correct`, `format`
    (1 iff the reply is exactly `length` ASCII digits and the stop), `digits` (the digits as text,
    empty without format), `length`, `stopped`. At reset: `task`, `split`, `residue`.

    ## Reward
    `correct`: 1 iff the digit sum is y modulo `modulus`. One well-formed reply in about `modulus`
    is right.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `length`: digits of a reply, 1 to 64. `modulus`: 2 to 10.
    - `split`: "train" or "test". `pool`: number of training tasks that `reset` draws from.
    - `reset(options=...)`: `task` (0 to 2^20 - 1), `split`.

    ## Data files
    None.

    ## Sources
    Written for this suite.

    ## Version
    v0.
    """

    def __init__(
        self,
        length: int = 4,
        modulus: int = 5,
        *,
        split: str = "train",
        pool: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.length = check_integer("length", length, 1, 64)
        self.modulus = check_integer("modulus", modulus, 2, 10)
        super().__init__(
            alphabet=ALPHABET,
            max_prompt=2,
            max_reply=self.length + 1,
            split=split,
            pool=pool,
            reply_characters="$0123456789",
            render_mode=render_mode,
        )

    def make_task(self, index: int, split: str) -> Task:
        """Task `index` of a split."""
        return Task(index, split, f"{index % self.modulus}=")

    def describe(self, task: Task) -> dict[str, Any]:
        """What `info` tells of a task."""
        return {"residue": task.index % self.modulus}

    def grade(self, task: Task, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        body = reply[:-1] if reply.endswith("$") else ""
        well_formed = len(body) == self.length and set(body) <= set("0123456789")
        residue = sum(map(int, body)) % self.modulus if well_formed else -1
        return {
            "correct": int(residue == task.index % self.modulus),
            "format": int(well_formed),
            "digits": body if well_formed else "",
            "length": len(reply),
            "stopped": int(reply.endswith("$")),
        }

    def solution(self, task: Any) -> str:
        """The smallest right reply: zeros, then the residue."""
        return str(self.find(task).index % self.modulus).rjust(self.length, "0") + "$"

    def demonstrated(self, task: Any, rng: np.random.Generator) -> str:
        """A right reply, drawn uniformly from all of them."""
        reply = ""
        while not self.grade(task, reply)["correct"]:
            reply = "".join(map(str, rng.integers(0, 10, size=self.length))) + "$"
        return reply
