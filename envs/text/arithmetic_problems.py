"""Arithmetic expressions: how a task is drawn, and how it is worked out on paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .base import Task, check_integer, draw_until, is_test

OPERATIONS = "+-*"
GOLDEN = 0.6180339887498949  # multiples of it fill [0, 1) evenly: every prefix has the wished mix


@dataclass(frozen=True)
class Problem:
    """An expression over non-negative operands.

    Attributes:
        operands: two numbers or more.
        operators: one character of `+-*` between each two.
    """

    operands: tuple[int, ...]
    operators: str

    @cached_property
    def text(self) -> str:
        """The expression as it is shown."""
        pairs = zip(self.operators, self.operands[1:], strict=True)
        return str(self.operands[0]) + "".join(f"{o}{n}" for o, n in pairs)

    @cached_property
    def content(self) -> str:
        """What decides the split: a+b is the same problem as b+a."""
        if self.operators in ("+", "*"):
            low, high = sorted(self.operands)
            return f"{low}{self.operators}{high}"
        return self.text

    @cached_property
    def value(self) -> int:
        """The value under ordinary precedence."""
        return _chain(self, None)[1]

    @property
    def in_columns(self) -> bool:
        """Whether it is a sum or a difference of two terms."""
        return self.operators in ("+", "-")

    @cached_property
    def carries(self) -> int:
        """Columns that carry or borrow; 0 unless there are two terms and + or -."""
        if not self.in_columns:
            return 0
        return sum(column.passes_on for column in _columns(self, None))

    @cached_property
    def difficulty(self) -> int:
        """Number of lines that the working needs, plus carries."""
        return len(work_out(self, "lines")[0]) + self.carries


@dataclass(frozen=True)
class ArithmeticTask(Task):
    """A problem with what its prompt adds.

    Attributes:
        problem: the expression.
        control: index of the control value that is shown, None for none.
        hint: beginning of the working that is given, empty for none.
        context: what is said of an earlier attempt, empty for nothing.
    """

    problem: Problem = Problem((0, 0), "+")
    control: int | None = None
    hint: str = ""
    context: str = ""


@dataclass(frozen=True)
class _Column:
    upper: int
    lower: int
    incoming: int
    result: int
    passes_on: bool

    @property
    def minuend(self) -> int:
        """Upper digit of a difference after it has lent to the right and borrowed from the left."""
        return self.upper - self.incoming + 10 * self.passes_on


Error = tuple[int, int]  # the step that is wrong, and by how much


def work_out(problem: Problem, form: str, error: Error | None = None) -> tuple[list[str], int]:
    """The steps that a problem needs, and the answer to which they lead.

    Args:
        problem: what is worked out.
        form: "columns" (each column's result with its carry or borrow) or "lines" (one equation
            per step).
        error: step k comes out wrong by the given amount, and the rest follows from it.

    Raises:
        ValueError: the wrong result could not be written in this form.
    """
    if not problem.in_columns:
        return (_product if problem.operators == "*" else _chain)(problem, error)
    columns = _columns(problem, error)
    subtract = problem.operators == "-"
    if form == "columns":
        steps = [f"{'-' * (c.passes_on and subtract)}{c.result}" for c in columns]
    elif subtract:
        steps = [f"{c.minuend}-{c.lower}={c.result}" for c in columns]
    else:
        steps = [f"{c.upper}+{c.lower}{_carry(c.incoming)}={c.result}" for c in columns]
    places = [c.result if subtract else c.result % 10 for c in columns]
    if not subtract:
        places.append(columns[-1].result // 10)
    return steps, sum(digit * 10**j for j, digit in enumerate(places))


@lru_cache(maxsize=1 << 16)
def draw_problem(
    operations: str,
    levels: tuple[int, ...],
    weights: tuple[float, ...],
    terms: int,
    pool_seed: int,
    index: int,
    split: str,
) -> tuple[int, Problem]:
    """Level and problem of task `index` of a split.

    Args:
        operations: the operators that may occur.
        levels: numbers of digits, ascending.
        weights: weight of each level.
        terms: number of operands.
        pool_seed: another one gives other tasks.
        index: id of the task.
        split: "train" or "test".
    """
    level = level_of(index, levels, weights)
    low, high = (10 ** (level - 1), 10**level) if level > 1 else (0, 10)
    rng = np.random.default_rng((pool_seed, index))

    def draw() -> Problem:
        operands = rng.integers(low, high, size=terms).tolist()
        chosen = rng.integers(0, len(operations), size=terms - 1)
        operators = "".join(operations[k] for k in chosen)
        if operators == "-":
            operands.sort(reverse=True)
        return Problem(tuple(operands), operators)

    wanted = split == "test"
    what = f"problem of {level} digits in split {split!r}"
    return level, draw_until(draw, lambda one: is_test(one.content) == wanted, what)


def level_of(index: int, levels: Sequence[int], weights: Sequence[float]) -> int:
    """Level of task `index`: every prefix of the ids has the levels in the ratio of the weights."""
    place = (index + 1) * GOLDEN % 1.0
    bounds = np.cumsum(weights) / np.sum(weights)
    return levels[min(int(np.searchsorted(bounds, place, side="right")), len(levels) - 1)]


def parse_problem(text: Any, operations: str, digits: int, terms: int) -> Problem:
    """A problem written as a string such as "37+25".

    Raises:
        ValueError: it has another form, too many digits or terms, or an operator not in use.
    """
    if not isinstance(text, str) or not re.fullmatch(r"\d+([-+*]\d+)+", text, re.ASCII):
        raise ValueError(f'problem={text!r} must be numbers joined by + - or *, such as "37+25"')
    numbers = re.split(r"[-+*]", text)
    operators = "".join(re.findall(r"[-+*]", text))
    if any(number != "0" and number.startswith("0") for number in numbers):
        raise ValueError(f"problem={text!r}: a number begins with 0")
    if len(numbers) > terms or max(map(len, numbers)) > digits:
        raise ValueError(
            f"problem={text!r} has {len(numbers)} terms of up to {max(map(len, numbers))} digits, "
            f"this environment has at most {terms} terms of {digits} digits"
        )
    if not set(operators) <= set(operations):
        raise ValueError(f"problem={text!r}: the operations of this environment are {operations!r}")
    problem = Problem(tuple(map(int, numbers)), operators)
    if operators == "-" and problem.value < 0:
        raise ValueError(f"problem={text!r}: write the larger number of a difference first")
    return problem


def check_operations(operations: Any) -> str:
    """Return `operations`.

    Raises:
        ValueError: it is no string of one or more of `+-*`, each once.
    """
    known = isinstance(operations, str) and set(operations) <= set(OPERATIONS)
    if not known or not operations or len(set(operations)) < len(operations):
        raise ValueError(
            f"operations={operations!r} must be one or more of {OPERATIONS!r}, each once"
        )
    return str(operations)


def check_digits(digits: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Levels, ascending, and their weights.

    Raises:
        ValueError: `digits` is no number from 1 to 6, no tuple of such and no mapping to weights.
    """
    if isinstance(digits, Mapping):
        pairs = list(digits.items())
    elif isinstance(digits, list | tuple):
        pairs = [(level, 1.0) for level in digits]
    else:
        pairs = [(digits, 1.0)]
    levels = [check_integer("digits", level, 1, 6) for level, _ in pairs]
    if not levels or len(set(levels)) < len(levels):
        raise ValueError(f"digits={digits!r} must name at least one level, and none twice")
    for level, weight in pairs:
        is_number = isinstance(weight, int | float | np.integer | np.floating)
        if isinstance(weight, bool) or not is_number or not 0 < weight < float("inf"):
            raise ValueError(f"digits={digits!r}: the weight of level {level} must be above 0")
    ordered = sorted(zip(levels, (float(weight) for _, weight in pairs), strict=True))
    return tuple(level for level, _ in ordered), tuple(weight for _, weight in ordered)


def longest_answer(operations: str, digits: int, terms: int) -> int:
    """Characters of the longest value that problems of this size can have, its sign included."""
    low, high = (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1
    if "*" in operations:
        largest = high**terms
    elif "+" in operations:
        largest = high * terms
    else:
        largest = max(high - (terms - 1) * low, 0)
    smallest = 0
    if "-" in operations and terms > 2:
        taken = high ** (terms - 1) if "*" in operations else (terms - 1) * high
        smallest = min(low - taken, 0)
    return max(len(str(largest)), len(str(smallest)))


def _columns(problem: Problem, error: Error | None) -> list[_Column]:
    first, second = problem.operands
    subtract, incoming = problem.operators == "-", 0
    columns = []
    for j in range(len(str(max(first, second)))):
        upper, lower = first // 10**j % 10, second // 10**j % 10
        if subtract:
            result = upper - incoming - lower
            passes_on = result < 0
            result += 10 * passes_on
        else:
            result = upper + lower + incoming
        result = _off(result, j, error, 9 if subtract else 19)
        if not subtract:
            passes_on = result > 9
        columns.append(_Column(upper, lower, incoming, result, passes_on))
        incoming = int(passes_on)
    return columns


def _carry(incoming: int) -> str:
    return "+1" if incoming else ""


def _product(problem: Problem, error: Error | None) -> tuple[list[str], int]:
    """One partial product per non-zero digit of the second factor, then the running sums."""
    first, second = problem.operands
    factors = [second // 10**j % 10 * 10**j for j in range(len(str(second)))]
    steps: list[str] = []
    partial: list[int] = []
    for factor in [factor for factor in factors if factor] or [0]:
        partial.append(_off(first * factor, len(steps), error))
        steps.append(f"{first}*{factor}={partial[-1]}")
    total = partial[0]
    for term in partial[1:]:
        new = _off(total + term, len(steps), error)
        steps.append(f"{total}+{term}={new}")
        total = new
    return steps, total


def _chain(problem: Problem, error: Error | None) -> tuple[list[str], int]:
    """One line per operation: products before sums, the leftmost first."""
    numbers, operators = list(problem.operands), list(problem.operators)
    steps: list[str] = []
    while operators:
        k = operators.index("*") if "*" in operators else 0
        left, right, operator = numbers[k], numbers[k + 1], operators.pop(k)
        exact = left * right if operator == "*" else left + right * (1 if operator == "+" else -1)
        result = _off(exact, len(steps), error, None, 0 if operator == "*" else None)
        steps.append(f"{left}{operator}{right}={result}")
        numbers[k : k + 2] = [result]
    return steps, numbers[0]


def _off(
    result: int, step: int, error: Error | None, high: int | None = None, low: int | None = 0
) -> int:
    """The result of a step, wrong if the error is in this step."""
    if error is None or error[0] != step:
        return result
    wrong = result + error[1]
    if (high is not None and wrong > high) or (low is not None and wrong < low):
        raise ValueError(f"step {step} cannot be off by {error[1]}: {wrong}")
    return wrong
