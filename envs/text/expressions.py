"""Arithmetic expressions written by a model: parsed by hand, valued exactly, never evaluated.

Grammar: `expr = term (("+"|"-") term)*`, `term = factor (("*"|"/") factor)*`,
`factor = number | "(" expr ")"`. ASCII digits only, no blanks, no signs.
"""

from __future__ import annotations

import re
from fractions import Fraction

_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/()]")
_PRIORITY = {"+": 1, "-": 1, "*": 2, "/": 2}
MAX_DIGITS = 30


def evaluate(text: str) -> tuple[Fraction, list[str]] | None:
    """Value of an expression and the numbers in it, as they are written.

    None where the text is no expression, divides by zero, or holds a number of more than 30
    characters. Parentheses may nest as deeply as they like.
    """
    tokens = _TOKEN.findall(text)
    if not tokens or "".join(tokens) != text:
        return None
    values: list[Fraction] = []
    pending: list[str] = []
    numbers: list[str] = []
    want_number = True
    for token in tokens:
        if token == "(" and want_number:
            pending.append(token)
        elif token[-1].isdigit() and want_number:
            if len(token) > MAX_DIGITS:
                return None
            numbers.append(token)
            values.append(Fraction(token))
            want_number = False
        elif token == ")" and not want_number:
            while pending and pending[-1] != "(":
                if not _apply(values, pending.pop()):
                    return None
            if not pending:
                return None
            pending.pop()
        elif token in _PRIORITY and not want_number:
            while pending and _PRIORITY.get(pending[-1], 0) >= _PRIORITY[token]:
                if not _apply(values, pending.pop()):
                    return None
            pending.append(token)
            want_number = True
        else:
            return None
    if want_number or "(" in pending:
        return None
    while pending:
        if not _apply(values, pending.pop()):
            return None
    return values[0], numbers


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    """`left operator right`; None for a division by zero."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else None


def _apply(values: list[Fraction], operator: str) -> bool:
    right, left = values.pop(), values.pop()
    result = apply(operator, left, right)
    if result is None:
        return False
    values.append(result)
    return True
