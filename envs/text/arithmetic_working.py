"""The steps of a working: which are right, needed, withdrawn, used by the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .arithmetic_notation import CHUNK, EQUATION, Notation, Reading
from .arithmetic_problems import Problem, work_out

_CHUNK_STEP = re.compile(rf"(=?)({CHUNK})")
_LINE_STEP = re.compile(rf"(~{{0,3}}|=)({EQUATION})")


@dataclass
class _Step:
    begin: int
    end: int  # of its own characters
    after: int  # of its separator
    text: str = ""
    repeats: bool = False
    withdraws: int = 0
    label: int = 0
    useful: int = 0
    withdrawn: int = 0
    adopted: int = 0
    takes_back: list[int] = field(default_factory=list)


def judge(
    problem: Problem, notation: Notation, text: str, reading: Reading, answer: int | None, skip: int
) -> tuple[dict[str, Any], bool]:
    """The verdict over each step of a working.

    Args:
        problem: what is worked out.
        notation: the form of the reply.
        text: hint and reply.
        reading: what `read` found in it.
        answer: the answer given, None without one.
        skip: length of the hint; steps that lie in it are judged, but not reported.

    Returns:
        `steps`, `step_ends`, `labels`, `useful`, `withdrawn`, `reflections`, `adopted`; and whether
        every withdrawal and repetition refers to what stands there.
    """
    working = text[reading.begin : reading.end]
    columns = notation.reply == "columns"
    steps = list(_segments(working, "," if columns else "\n", reading.begin))
    sound = (_judge_columns if columns else _judge_lines)(problem, steps)
    standing = [step for step in steps if not step.withdrawn]
    if answer is not None:
        (_adopt_places if problem.in_columns else _adopt_results)(standing, answer)
    first = next((k for k, step in enumerate(steps) if step.end > skip), len(steps))
    shown = steps[first:]
    verdict = {
        "steps": len(shown),
        "step_ends": [step.after - skip for step in shown],
        "labels": [step.label for step in shown],
        "useful": [step.useful for step in shown],
        "withdrawn": [step.withdrawn for step in shown],
        "reflections": [
            (k, step.takes_back[0] - first)
            for k, step in enumerate(shown)
            if step.takes_back and step.takes_back[0] >= first
        ],
        "adopted": [step.adopted for step in shown],
    }
    return verdict, sound


def _segments(working: str, separator: str, offset: int) -> Iterator[_Step]:
    """The parts between separators; an empty part is no step."""
    begin = 0
    for part in working.split(separator):
        end = begin + len(part)
        if part:
            after = min(end + 1, len(working))
            yield _Step(begin + offset, end + offset, after + offset, part)
        begin = end + 1


@lru_cache(maxsize=4096)
def _needed(problem: Problem, form: str) -> tuple[str, ...]:
    """The steps of `work_out`; the replies to one task are judged together."""
    return tuple(work_out(problem, form)[0])


def _judge_columns(problem: Problem, steps: list[_Step]) -> bool:
    needed = _needed(problem, "columns")
    place, done = -1, set()
    for step in steps:
        match = _CHUNK_STEP.fullmatch(step.text)
        step.repeats = step.text.startswith("=")
        place += not step.repeats
        if match and 0 <= place < len(needed) and match[2] == needed[place]:
            step.label, step.useful = 1, int(place not in done)
            done.add(place)
        step.text = match[2] if match else ""
    return True


def _judge_lines(problem: Problem, steps: list[_Step]) -> bool:
    needed = Counter(_needed(problem, "lines"))
    two_terms, sound = len(problem.operands) == 2, True
    standing: list[int] = []
    there: Counter[str] = Counter()  # how often each line stands
    for k, step in enumerate(steps):
        match = _LINE_STEP.fullmatch(step.text)
        if match is None:
            step.text = ""
            standing.append(k)
            continue
        sign, step.text = match[1], match[2]
        step.repeats = sign == "="
        if step.repeats:
            sound = sound and k > 0 and steps[k - 1].text == step.text
        elif sign:
            sound = sound and len(sign) <= len(standing)
            step.takes_back = standing[-len(sign) :]
            del standing[-len(sign) :]
            for taken in step.takes_back:
                steps[taken].withdrawn = 1
                there[steps[taken].text] -= 1
        step.label = int(step.text in needed if two_terms else _holds(step.text))
        step.useful = int(there[step.text] < needed[step.text])
        there[step.text] += 1
        standing.append(k)
    return sound


def _adopt_places(standing: Sequence[_Step], answer: int) -> None:
    """The j-th step gives digit j of the answer; a missing digit is 0."""
    digits, place = str(abs(answer))[::-1], -1
    for step in standing:
        place += not step.repeats
        digit = digits[place] if 0 <= place < len(digits) else "0"
        step.adopted = int(step.text.endswith(digit))


def _adopt_results(standing: Sequence[_Step], answer: int) -> None:
    """From the last step back: its result is the answer, or goes into a step that is adopted."""
    wanted = {answer}
    for step in reversed(standing):
        if step.text and int(step.text.partition("=")[2]) in wanted:
            step.adopted = 1
            wanted.update(_numbers(step.text)[:-1])


def _numbers(equation: str) -> list[int]:
    """Operands and result; only the first and the last can be negative."""
    left, _, result = equation.partition("=")
    operands = [int(number) for number in re.findall(r"[0-9]+", left)]
    operands[0] *= -1 if left.startswith("-") else 1
    return [*operands, int(result)]


def _holds(equation: str) -> bool:
    *operands, result = _numbers(equation)
    operators = re.findall(r"(?<=[0-9])[-+*]", equation.partition("=")[0])
    return Problem(tuple(operands), "".join(operators)).value == result
