"""Checks of arguments: what passes, and what the messages say."""

from __future__ import annotations

import numpy as np
import pytest

from palaestra.envs.checks import (
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_share,
)


def test_what_is_allowed_is_returned_as_a_plain_value():
    for found, expected in (
        (check_integer("n", np.int64(3), 0), 3),
        (check_number("x", np.float32(0.5)), 0.5),
        (check_number("x", -2, high=0), -2.0),
        (check_share("p", 1), 1.0),
        (check_choice("kind", "b", ["a", "b"]), "b"),
        (check_flag("on", np.True_), True),
    ):
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_integer, (1.5, 0), "x=1.5 must be an integer of at least 0"),
        (check_integer, (True, 0), "x=True must be an integer of at least 0"),
        (check_integer, (-1, 0), "x=-1 must be an integer of at least 0"),
        (check_integer, (7, 2, 5), "x=7 must be an integer from 2 to 5"),
        (check_number, ("a",), "x='a' must be a finite number"),
        (check_number, (np.nan,), "x=nan must be a finite number"),
        (check_number, (np.inf, 0.0), "x=inf must be a finite number of at least 0"),
        (check_number, (-1, 0.0), "x=-1 must be a finite number of at least 0"),
        (check_number, (3, 0.0, 2.5), "x=3 must be a number from 0 to 2.5"),
        (check_share, (1.1,), "x=1.1 must be a number from 0 to 1"),
        (check_share, (False,), "x=False must be a number from 0 to 1"),
        (check_choice, ("c", ("a", "b")), r"x='c', allowed are \('a', 'b'\)"),
        (check_choice, (1, ("a", "b")), "x=1, allowed are"),
        (check_flag, (1,), "x=1 must be True or False"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(check, arguments, message):
    with pytest.raises(ValueError, match=message):
        check("x", *arguments)
