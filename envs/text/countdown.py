"""`Countdown-v0`: reach a target with the given numbers, each used once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from .base import (
    Demonstration,
    Task,
    TextEnv,
    check_integer,
    check_share,
    draw_until,
    is_test,
)
from .expressions import apply, evaluate

ALPHABET = "$0123456789+-*/()=,\n#@<>~|[]?!.ABCDEFGH"
OPERATIONS = "+-*/"


@dataclass(frozen=True)
class CountdownTask(Task):
    """Numbers, ascending, and the target."""

    numbers: tuple[int, ...] = ()
    target: int = 0


class Countdown(TextEnv):
    """Combine the given numbers, each exactly once, to an expression with the target's value.

    ## Description
    One prompt, one reply. Checking an expression is easy, finding one takes search: every task has
    a solution, most have few.

    ## Observation
    `Text`: the numbers, ascending, and the target, `3,5,7=22?`; shown again after the reply. The
    alphabet is that of `Arithmetic-v0`.

    ## Action
    `Text`, at most `max_reply` characters, ended by `$`: `3*5+7$`. An expression of the given
    numbers, `+ - * /` and parentheses; no signs, no blanks, no leading zeros. Any string is legal.

    ## Dynamics
    Task i of a split: numbers `sorted(rng.integers(1, high + 1, size=numbers))` and target
    `rng.integers(1, target_max + 1)` from `default_rng((pool_seed, i))`, drawn until the prompt
    belongs to the split (crc32 divisible by 5: test) and the operations allow a solution. So no
    test prompt ever occurs in training.

    Values are exact fractions. `info` after the step: `valid` and `format` (1 iff the reply is an
    expression that uses the given numbers, each once, and divides by no zero), `correct` (valid,
    and the value is the target), `distance` (from the value to the target; left out if not valid),
    `length`, `stopped`. At reset: `task`, `split`, `numbers`, `target`.

    ## Reward
    `correct`, 0 or 1.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `numbers`: how many, 2 to 5. `high`: the largest number, 1 to 99. `target_max`: the largest
      target, 1 to 9999. `operations`: those that a solution may need, one or more of `+-*/` (a
      reply may use all four).
    - `pool`: number of training tasks that `reset` draws from, None for all 2^20. `pool_seed`:
      integer >= 0. `split`: "train" or "test".
    - `max_reply`: characters of a reply, enough for an expression without parentheses at least.
    - `reset(options=...)`: `task` (0 to 2^20 - 1), `split`.

    ## Data files
    None.

    ## Sources
    The numbers round of the television game. K. Gandhi et al., Stream of Search (SoS): Learning to
    Search in Language, arXiv 2404.03683 (as a task for language models).

    ## Version
    v0.
    """

    def __init__(
        self,
        numbers: int = 3,
        high: int = 9,
        target_max: int = 99,
        operations: str = "+-*",
        *,
        pool: int | None = None,
        pool_seed: int = 0,
        split: str = "train",
        max_reply: int = 16,
        render_mode: str | None = None,
    ) -> None:
        self.numbers = check_integer("numbers", numbers, 2, 5)
        self.high = check_integer("high", high, 1, 99)
        self.target_max = check_integer("target_max", target_max, 1, 9999)
        known = isinstance(operations, str) and set(operations) <= set(OPERATIONS)
        if not known or not operations or len(set(operations)) < len(operations):
            raise ValueError(
                f"operations={operations!r} must be one or more of {OPERATIONS!r}, each once"
            )
        self.operations = operations
        self.pool_seed = check_integer("pool_seed", pool_seed, 0, 2**63 - 1)
        shortest = self.numbers * (len(str(high)) + 1)  # numbers, operators and the stop
        super().__init__(
            alphabet=ALPHABET,
            max_prompt=shortest + len(str(target_max)) + 1,
            max_reply=check_integer("max_reply", max_reply, shortest, 2**20),
            split=split,
            pool=pool,
            reply_characters="$0123456789+-*/()",
            render_mode=render_mode,
        )

    def make_task(self, index: int, split: str) -> CountdownTask:
        """Task `index` of a split."""
        numbers, target = _draw(
            self.numbers,
            self.high,
            self.target_max,
            self.operations,
            self.pool_seed,
            index,
            split,
        )
        return CountdownTask(index, split, _prompt(numbers, target), 0, numbers, target)

    def describe(self, task: CountdownTask) -> dict[str, Any]:
        """What `info` tells of a task."""
        return {"numbers": np.array(task.numbers), "target": task.target}

    def grade(self, task: CountdownTask, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        stopped = reply.endswith("$")
        found = evaluate(reply[:-1]) if stopped else None
        distance = None
        # Written as they are given: a leading zero makes another number of it.
        if found is not None and sorted(found[1]) == sorted(map(str, task.numbers)):
            distance = float(abs(found[0] - task.target))
        valid = int(distance is not None)
        return {
            "correct": int(valid and found is not None and found[0] == task.target),
            "valid": valid,
            "format": valid,
            "distance": distance,
            "length": len(reply),
            "stopped": int(stopped),
        }

    def solution(self, task: Any) -> str:
        """The first solution: permutations in lexicographic order, the longer left part first,
        operations in the given order; with as few parentheses as its value allows.

        Raises:
            ValueError: it does not fit into `max_reply`.
        """
        one = self.find(task)
        reply = _solve(one.numbers, one.target, self.operations) + "$"
        if len(reply) > self.max_reply:
            raise ValueError(f"the solution {reply!r} does not fit into max_reply={self.max_reply}")
        return reply

    def demonstrations(self, n: int, seed: int, *, noise: float = 0.0) -> list[Demonstration]:
        """Solutions of training tasks outside the pool, those that fit into `max_reply`.

        Args:
            n: how many.
            seed: seed of the draw.
            noise: chance that one operator is replaced so that the value is wrong.

        Raises:
            ValueError: `noise` is no share; no solution fits.
        """
        check_share("noise", noise)
        rng = np.random.default_rng(seed)

        def draw() -> Demonstration:
            [index] = self._outside_the_pool(1, rng)
            task = self.task(index, "train")
            reply = _solve(task.numbers, task.target, self.operations)
            wrong = bool(rng.random() < noise)
            reply = self._spoilt(task, reply, rng) if wrong else reply
            return Demonstration(index, task.prompt, f"{reply}$", 0, not wrong)

        what = f"solution of at most {self.max_reply} characters"
        return [
            draw_until(draw, lambda one: len(one.reply) <= self.max_reply, what) for _ in range(n)
        ]

    def _spoilt(self, task: CountdownTask, reply: str, rng: np.random.Generator) -> str:
        places = [k for k, character in enumerate(reply) if character in OPERATIONS]
        changes = [
            reply[:k] + operator + reply[k + 1 :]
            for k in places
            for operator in OPERATIONS
            if operator != reply[k]
        ]
        verdicts = [self.grade(task, f"{change}$") for change in changes]
        wrong = [c for c, v in zip(changes, verdicts, strict=True) if v["valid"] > v["correct"]]
        return str(rng.choice(wrong))


def _prompt(numbers: tuple[int, ...], target: int) -> str:
    return f"{','.join(map(str, numbers))}={target}?"


@lru_cache(maxsize=1 << 16)
def _draw(
    count: int,
    high: int,
    target_max: int,
    operations: str,
    pool_seed: int,
    index: int,
    split: str,
) -> tuple[tuple[int, ...], int]:
    rng = np.random.default_rng((pool_seed, index))

    def draw() -> tuple[tuple[int, ...], int]:
        numbers = tuple(sorted(rng.integers(1, high + 1, size=count).tolist()))
        return numbers, int(rng.integers(1, target_max + 1))

    def fits(drawn: tuple[tuple[int, ...], int]) -> bool:
        numbers, target = drawn
        in_split = is_test(_prompt(numbers, target)) == (split == "test")
        return in_split and Fraction(target) in _values(numbers, operations)

    return draw_until(draw, fits, f"solvable task in split {split!r}")


@lru_cache(maxsize=4096)
def _values(numbers: tuple[int, ...], operations: str) -> frozenset[Fraction]:
    """Every value that all of the numbers, each used once, can be combined to."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    found: set[Fraction | None] = set()
    for left, right in _parts(numbers):
        for a, b in itertools.product(_values(left, operations), _values(right, operations)):
            found.update(apply(operator, a, b) for operator in operations)
    return frozenset(value for value in found if value is not None)


def _parts(numbers: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The ways to deal the numbers to two sides, none of them empty."""
    parts = set()
    for chosen in itertools.product((False, True), repeat=len(numbers)):
        if 0 < sum(chosen) < len(numbers):
            left = tuple(n for n, here in zip(numbers, chosen, strict=True) if here)
            right = tuple(n for n, here in zip(numbers, chosen, strict=True) if not here)
            parts.add((left, right))
    return parts


@lru_cache(maxsize=1 << 16)
def _solve(numbers: tuple[int, ...], target: int, operations: str) -> str:
    for order in itertools.permutations(numbers):
        for value, text, _ in _expressions(order, operations):
            if value == target:
                return text
    raise ValueError(f"{numbers} cannot be combined to {target} with {operations!r}")


def _expressions(numbers: tuple[int, ...], operations: str) -> Iterator[tuple[Fraction, str, str]]:
    """Value, text and outermost operator of every expression over numbers in this order."""
    if len(numbers) == 1:
        yield Fraction(numbers[0]), str(numbers[0]), ""
        return
    for size in range(len(numbers) - 1, 0, -1):
        for operator in operations:
            for left, left_text, left_outer in _expressions(numbers[:size], operations):
                for right, right_text, right_outer in _expressions(numbers[size:], operations):
                    value = apply(operator, left, right)
                    if value is not None:
                        first = _bracket(left_text, left_outer, operator, "")
                        second = _bracket(right_text, right_outer, operator, operator)
                        yield value, f"{first}{operator}{second}", operator


def _bracket(text: str, inner: str, outer: str, before: str) -> str:
    """The part of an expression, in parentheses where the value needs them.

    Args:
        text: the part.
        inner: its outermost operator, empty for a number.
        outer: the operator that joins it.
        before: that operator again if the part stands behind it.
    """
    weaker = inner in ("+", "-") and (outer in ("*", "/") or before == "-")
    return f"({text})" if weaker or (inner in ("*", "/") and before == "/") else text
