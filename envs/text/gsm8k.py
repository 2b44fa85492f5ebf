"""`GSM8K-v0`: grade-school word problems from a user's file, graded by the number after ####."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .base import (
    PRINTABLE,
    Task,
    TextEnv,
    check_choice,
    check_flag,
    check_integer,
    is_test,
)
from .expressions import evaluate
from .json_lines import read_json_lines

STOP = "\x03"  # "end of text"; a dollar sign is part of many questions
_NUMBER = re.compile(r"-?(?:[0-9]{1,30}|[0-9]{1,3}(?:,[0-9]{3}){1,9})(?:\.[0-9]{1,30})?")
_CALCULATION = re.compile(r"<<([^<>=]{1,200})=([^<>=]{1,40})>>")


@dataclass(frozen=True)
class GSM8KTask(Task):
    """A question with its worked solution.

    Attributes:
        truth: the number after `####` of the solution.
        worked: the solution as the file has it.
    """

    truth: Fraction = Fraction(0)
    worked: str = ""


class GSM8K(TextEnv):
    r"""Word problems in the form of GSM8K, from a file of the user's.

    ## Description
    One prompt, one reply: a question in prose, a worked solution that ends in `#### number`. Any
    file in GSM8K's form will do. Meant for pretrained language models.

    ## Observation
    `Text`: the question and the `instruction`; shown again after the reply. The alphabet is
    printable ASCII, newline, tab, every other character of the files, and the stop.

    ## Action
    `Text`, at most `max_reply` characters, ended by the control character 3 ("end of text"), which
    a model with an end token writes in its place. Any string is legal.

    ## Dynamics
    A task is a line of the file. With a file for each split, the tasks of a split are its lines in
    their order; no question may occur in both. With a training file only, a question is a test
    question iff its crc32 is divisible by 5.

    The answer of a reply is the number behind its only `####`, up to the end: an optional `-`,
    digits with or without commas between thousands, an optional decimal part, ASCII; blanks and
    line breaks around it, and one `$` before it, do not matter. Two `####`, words or a unit behind
    the number make it no answer. Numbers are compared exactly, so 18 and 18.0 are equal.

    `info` after the step: `correct`, `answer` (as a float; left out where there is none), `format`
    (1 iff there is an answer), `length`, `stopped`; `calculations` and `calculations_right`: how
    many annotations `<<16-3-4=9>>` the reply holds, and how many of them are exactly true. At
    reset: `task`, `split`, `truth`.

    ## Reward
    `correct`, 0 or 1.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `train`: path of a file. `test`: path of another, or None. `split`: "train" or "test".
    - `pool`: number of training tasks that `reset` draws from, the first of them; None for all.
    - `instruction`: what is said after each question.
    - `annotations`: whether demonstrations keep the calculations `<<...>>`.
    - `max_reply`: characters of a reply, 8 to 2^20.
    - `reset(options=...)`: `task`, `split`.

    ## Data files
    One JSON object per line, UTF-8, with the strings `question` and `answer`; the answer ends in
    `#### number`. GSM8K's own files (MIT licence) have this form:
    https://github.com/openai/grade-school-math. A malformed line is refused with its number.

    ## Sources
    K. Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168.

    ## Version
    v0.
    """

    def __init__(
        self,
        train: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        *,
        split: str = "train",
        pool: int | None = None,
        instruction: str = "\nWork it out, then write #### and the number.",
        annotations: bool = True,
        max_reply: int = 2048,
        render_mode: str | None = None,
    ) -> None:
        if train is None:
            raise ValueError("train=None must be the path of a file in GSM8K's form (JSON lines)")
        if not isinstance(instruction, str):
            raise ValueError(f"instruction={instruction!r} must be a string")
        self.annotations = check_flag("annotations", annotations)
        self.rows = _splits(train, test)
        for name, found in self.rows.items():
            if not found:
                raise ValueError(f"{train}: no question falls into split {name!r}")
        if pool is not None:
            check_integer("pool", pool, 1, len(self.rows["train"]))
        self.instruction = instruction
        rows = [row for rows in self.rows.values() for row in rows]
        known = PRINTABLE + "\n\t"
        used = set(instruction).union(*(text for row in rows for text in row))
        super().__init__(
            alphabet=known + "".join(sorted(used - set(known) - {STOP})) + STOP,
            max_prompt=len(instruction) + max(len(question) for question, _ in rows),
            max_reply=check_integer("max_reply", max_reply, 8, 2**20),
            stop=STOP,
            split=split,
            pool=pool,
            render_mode=render_mode,
        )

    def number_of_tasks(self, split: str) -> int:
        """How many questions a split has."""
        return len(self.rows[check_choice("split", split, self.rows)])

    def make_task(self, index: int, split: str) -> GSM8KTask:
        """Task `index` of a split."""
        question, worked = self.rows[split][index]
        truth = final_number(worked)
        assert truth is not None  # the file was checked
        return GSM8KTask(index, split, question + self.instruction, 0, truth, worked)

    def describe(self, task: GSM8KTask) -> dict[str, Any]:
        """What `info` tells of a task."""
        return {"truth": float(task.truth)}

    def grade(self, task: GSM8KTask, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        stopped = reply.endswith(STOP)
        answer = final_number(reply[:-1]) if stopped else None
        checks = [_is_true(*found) for found in _CALCULATION.findall(reply)]
        return {
            "correct": int(answer == task.truth),
            "answer": None if answer is None else float(answer),
            "format": int(answer is not None),
            "length": len(reply),
            "stopped": int(stopped),
            "calculations": len(checks),
            "calculations_right": sum(checks),
        }

    def solution(self, task: Any) -> str:
        """The worked solution of the file."""
        one = self.find(task)
        worked = one.worked if self.annotations else re.sub(r"<<.*?>>", "", one.worked)
        return worked + STOP


def final_number(text: str) -> Fraction | None:
    """The number behind the only `####` of a solution; None where there is none."""
    before, mark, behind = text.partition("####")
    if not mark or "####" in behind or behind.startswith("#"):
        return None
    slot = behind.strip(" \t\r\n").removeprefix("$")
    return Fraction(slot.replace(",", "")) if _NUMBER.fullmatch(slot) else None


def _is_true(expression: str, result: str) -> bool:
    """Whether a calculation holds exactly."""
    left, right = evaluate(expression), evaluate(result)
    return left is not None and right is not None and left[0] == right[0]


Rows = list[tuple[str, str]]


def _splits(train: str | os.PathLike[str], test: str | os.PathLike[str] | None) -> dict[str, Rows]:
    rows = _read(train)
    if test is None:
        return {
            "train": [row for row in rows.values() if not is_test(row[0])],
            "test": [row for row in rows.values() if is_test(row[0])],
        }
    held_out = _read(test)
    known = {row[0]: line for line, row in rows.items()}
    for line, row in held_out.items():
        if row[0] in known:
            raise ValueError(
                f"{test}, line {line}: this question is also in line {known[row[0]]} of {train}; "
                "training and test questions must differ"
            )
    return {"train": list(rows.values()), "test": list(held_out.values())}


def _read(path: str | os.PathLike[str]) -> dict[int, tuple[str, str]]:
    """Question and answer of every line, by line number."""
    return {
        number: _question(entry, f"{path}, line {number}")
        for number, entry in read_json_lines(path).items()
    }


def _question(entry: Mapping[str, Any], where: str) -> tuple[str, str]:
    for key in ("question", "answer"):
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {key!r} must be a text, got {value!r}")
        if STOP in value:
            raise ValueError(f"{where}: {key!r} holds the control character 3, which ends a reply")
    if final_number(entry["answer"]) is None:
        raise ValueError(f"{where}: the answer must end in '#### number', got {entry['answer']!r}")
    return entry["question"], entry["answer"]
