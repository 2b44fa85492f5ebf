"""How a task of `Arithmetic-v0` is put, and how the replies of chat models are read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .arithmetic_notation import LETTERS, Notation
from .arithmetic_problems import ArithmeticTask

# What vanishes or is shortened, until nothing changes any more.
_RULES = (
    (re.compile(r"[ \t\r]+"), ""),
    (re.compile(r"<think>"), "<"),
    (re.compile(r"</think>"), ">"),
    (re.compile(r"#{4,}"), "#"),
    (re.compile(r"@{4,}"), "@"),
    (re.compile(r"\n+(?=[<>$])"), ""),
    (re.compile(r"(?<=[<>$#@])\n+"), ""),
)


def write_prompt(task: ArithmeticTask, notation: Notation, control: Sequence[float] | None) -> str:
    """The prompt of a task.

    Args:
        task: the problem, with hint, context and index of the control value.
        notation: the form of the reply.
        control: the control values.
    """
    if not notation.verbose:
        letter = "" if task.control is None else LETTERS[task.control]
        context = f"[{task.context}]" if task.context else ""
        hint = f"|{task.hint}" if task.hint else ""
        return f"{task.problem.text}={context}{letter}{hint}"
    if notation.tags:
        how = "Think between <think> and </think>, then write the number."
        if notation.response:
            how = (
                "Think between <think> and </think>, then write the steps again, one per line, "
                "and the answer after ####."
            )
    else:
        how = {
            "plain": "Reply with the number only.",
            "columns": "Write your working, then the answer after ####.",
            "lines": "Write one step per line, then the answer after ####.",
        }[notation.reply]
    parts = [f"Compute {task.problem.text}.", how]
    if notation.styles == 2:
        parts.append("Put #### or @@@@ before the number.")
    if task.context:
        parts.append(f"An earlier attempt, with a remark: {task.context}")
    if task.control is not None and control is not None:
        parts.append(f"Control value: {control[task.control]:g}.")
    if task.hint:
        parts.append(f"Beginning of a solution: {task.hint}")
    return " ".join(parts)


def to_grammar(reply: str) -> tuple[str, list[int]]:
    """A chat model's reply in the short grammar.

    Returns:
        The mapped text, and for each of its characters where it ends in `reply`.
    """
    text, ends = reply, list(range(1, len(reply) + 1))
    changed = True
    while changed:
        changed = False
        for pattern, replacement in _RULES:
            if pattern.search(text):
                text, ends = _substitute(pattern, replacement, text, ends)
                changed = True
    return text, ends


def _substitute(
    pattern: re.Pattern[str], replacement: str, text: str, ends: list[int]
) -> tuple[str, list[int]]:
    parts, kept, begin = [], [], 0
    for match in pattern.finditer(text):
        parts += [text[begin : match.start()], replacement]
        kept += ends[begin : match.start()]
        if replacement:
            kept.append(ends[match.end() - 1])
        begin = match.end()
    return "".join([*parts, text[begin:]]), kept + ends[begin:]
