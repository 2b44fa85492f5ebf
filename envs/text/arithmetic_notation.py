"""The forms that a reply to `Arithmetic-v0` can have, and where its answer stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .base import check_choice, check_flag, check_integer

ANSWER = re.compile(r"0|-?[1-9][0-9]{0,17}")
SLOT = re.compile(r"[0-9+\-*]+")
MARKS = "#@"
LETTERS = "ABCDEFGH"  # of control values
KINDS = ("position", "digit", "answer", "binary")
REPLIES = ("plain", "columns", "lines")
_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
CHUNK = r"-?[0-9]{1,2}"
EQUATION = rf"-?{_NUMBER}[-+*]{_NUMBER}(?:[-+*]{_NUMBER})?=-?{_NUMBER}"
_COLUMNS = rf"{CHUNK}(?:,=?{CHUNK})*"
_LINES = rf"(?:(?:~{{1,3}}|=)?{EQUATION}\n)+"


@dataclass(frozen=True)
class Notation:
    """What a reply has to look like.

    Attributes:
        reply: "plain", "columns" or "lines".
        free: whether the working is optional and its text free.
        tags: whether the working stands between `<` and `>`.
        response: whether a clean solution in lines follows the tags.
        styles: how many marks may introduce the answer.
        verbose: whether chat models write it (see `arithmetic_wording`).
    """

    reply: str = "plain"
    free: bool = False
    tags: bool = False
    response: bool = False
    styles: int = 1
    verbose: bool = False

    @property
    def marks(self) -> str:
        """The characters that may stand before the answer; none where no mark is in use."""
        if self.styles == 2:
            return MARKS
        return "" if self.reply == "plain" or (self.tags and not self.response) else "#"

    @property
    def opening(self) -> str:
        """What stands before the working."""
        return "<" if self.tags else ""

    @cached_property
    def well_formed(self) -> re.Pattern[str]:
        """Pattern of a whole reply that keeps to the structure."""
        working = _COLUMNS if self.reply == "columns" else _LINES
        if self.free:
            working = r"[^#@<>$]*" if self.verbose else r"[0-9+\-*=,.~\n]*"
        if self.reply == "plain":
            working = ""
        before = f"<{working}>" if self.tags else working
        if self.response:
            before += working
        mark = f"[{self.marks}]" if self.marks else ""
        return re.compile(rf"{before}{mark}{SLOT.pattern}\$")

    @property
    def characters(self) -> str:
        """The characters that a reply of this form may hold."""
        used = "$0123456789-+*" if self.reply == "plain" else "$0123456789+-*=,.~\n"
        if self.reply == "lines" and not self.free:
            used = "$0123456789+-*=\n~"
        if self.reply == "columns" and not self.free:
            used = "$0123456789-+*,="
        return used + ("<>" if self.tags else "") + self.marks

    def write(self, working: str, response: str, answer: str, mark: str = "#") -> str:
        """A reply out of its parts.

        Args:
            working: chunks or lines; empty without working.
            response: lines of the clean solution, not used unless `response`.
            answer: digits of the answer.
            mark: what introduces the answer, where marks are in use.
        """
        before = f"<{working}>" if self.tags else working
        if self.response:
            before += response
        return before + (mark if self.marks else "") + answer + "$"

    def join(self, steps: Sequence[str]) -> str:
        """The working that consists of these steps."""
        if self.reply == "lines":
            return "".join(f"{step}\n" for step in steps)
        return ",".join(steps)


@dataclass
class Reading:
    """A reply taken apart.

    Attributes:
        stopped: whether it ended with `$`.
        slot: what stands where the answer belongs; None if there is no such place.
        style: index of the mark before the answer, -1 without one.
        begin: where the working begins.
        end: where the working ends.
    """

    stopped: bool
    slot: str | None
    style: int
    begin: int
    end: int


def read(text: str, notation: Notation) -> Reading:
    """Find the answer and the working in a reply (preceded by its hint, if it has one)."""
    stopped = text.endswith("$")
    body = text[:-1] if stopped else text
    begin, end = 0, len(body)
    rest: str | None = body
    if notation.tags:
        begin = int(body.startswith("<"))
        closing = body.find(">")
        end = len(body) if closing < 0 else closing
        rest = body[closing + 1 :] if body.count(">") == 1 else None
    elif notation.reply != "plain":
        end = next((i for i, character in enumerate(body) if character in MARKS), len(body))
    if notation.reply == "plain":
        end = begin
    slot, style = (rest if stopped else None), -1
    if slot is not None and notation.marks:
        marks = [character for character in slot if character in MARKS]
        if len(marks) == 1 and marks[0] in notation.marks:
            style = MARKS.index(marks[0])
            slot = slot.partition(marks[0])[2]
        else:
            slot = None
    return Reading(stopped, slot, style, begin, max(begin, end))


def check_notation(
    reply: str, free: bool, tags: bool, response: bool, styles: int, verbose: bool
) -> Notation:
    """The notation that the arguments of `Arithmetic` describe.

    Raises:
        ValueError: they do not go together.
    """
    check_choice("reply", reply, REPLIES)
    flags = {"free": free, "tags": tags, "response": response, "verbose": verbose}
    free, tags, response, verbose = (check_flag(name, value) for name, value in flags.items())
    if reply == "plain" and (free or tags):
        raise ValueError("free and tags are about the working: reply must be 'columns' or 'lines'")
    if response and not (tags and reply == "lines"):
        raise ValueError(f"response needs tags and reply='lines', got {tags=}, {reply=}")
    if verbose and reply != "plain" and not free:
        raise ValueError(f"verbose with reply={reply!r} needs free=True: chat models write prose")
    return Notation(reply, free, tags, response, check_integer("styles", styles, 1, 2), verbose)


def check_control(control: Sequence[float] | None) -> tuple[float, ...] | None:
    """Control values as a tuple.

    Raises:
        ValueError: no numbers, or more than there are letters.
    """
    if control is None:
        return None
    values = tuple(control) if isinstance(control, list | tuple) else ()
    numbers = all(isinstance(v, int | float) and np.isfinite(v) for v in values)
    if not 1 <= len(values) <= len(LETTERS) or not numbers:
        raise ValueError(f"control={control!r} must be 1 to {len(LETTERS)} numbers, or None")
    return values


def check_context(context: Any, alphabet: str, longest: int) -> None:
    """Refuse what cannot stand in the brackets of a prompt.

    Raises:
        ValueError: no string, too long, or a character that is not in the alphabet.
    """
    if not isinstance(context, str) or len(context) > longest:
        raise ValueError(
            f"context={context!r:.80} must be a string of at most {longest} characters"
        )
    foreign = sorted(set(context) - set(alphabet) | set(context) & {"$"})
    if foreign:
        raise ValueError(f"context={context!r}: {foreign} cannot stand in a prompt")


def critique(verdict: Mapping[str, Any], value: int, kind: str) -> str:
    """What is said of a reply; `Arithmetic.critique` specifies it.

    Args:
        verdict: over the reply.
        value: the right answer.
        kind: one of `KINDS`.
    """
    check_choice("kind", kind, KINDS)
    truth = str(value)
    slot = verdict["slot"] if SLOT.fullmatch(verdict["slot"]) else ""
    if verdict["correct"]:
        return f"{slot}!"
    if kind == "answer":
        return f"{slot}?={truth}"
    if kind == "binary" or not slot:
        return f"{slot}?"
    place = first_wrong(slot, truth)
    if kind == "position":
        return f"{slot}?{place}"
    return f"{slot}?{place}={truth[::-1][place : place + 1]}"


def digit_match(answer: int, truth: int) -> float:
    """Share of the digits that agree, aligned from the right; 0 where the signs differ."""
    if (answer < 0) != (truth < 0):
        return 0.0
    given, right = str(abs(answer))[::-1], str(abs(truth))[::-1]
    equal = sum(a == b for a, b in zip(given, right, strict=False))
    return equal / max(len(given), len(right))


def first_wrong(slot: str, truth: str) -> int:
    """Place of the lowest character, from the right, in which two texts differ; -1 for none."""
    given, right = slot[::-1], truth[::-1]
    for place in range(max(len(given), len(right))):
        if given[place : place + 1] != right[place : place + 1]:
            return place
    return -1
