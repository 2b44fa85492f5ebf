"""`DigitSum-v0`: many right replies to each prompt."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.text.digit_sum import DigitSum

ENV = DigitSum()


@pytest.mark.parametrize(
    ("residue", "reply", "correct", "well_formed"),
    [
        (3, "1200$", 1, 1),
        (1, "9999$", 1, 1),
        (2, "1200$", 0, 1),
        (3, "120$", 0, 0),
        (3, "12000$", 0, 0),
        (3, "1200", 0, 0),
        (3, "120٠$", 0, 0),
        (3, "12 0$", 0, 0),
        (3, "-120$", 0, 0),
    ],
)
def test_worked_examples_of_the_verifier(residue, reply, correct, well_formed):
    found = ENV.verify(residue, reply)
    assert (found["correct"], found["format"]) == (correct, well_formed)


def test_one_reply_in_five_is_right():
    right = sum(
        ENV.verify(2, "".join(digits) + "$")["correct"]
        for digits in itertools.product("0123456789", repeat=4)
    )
    assert right == 2000


def test_prompts_repeat_with_the_modulus():
    assert [ENV.task(i).prompt for i in range(6)] == ["0=", "1=", "2=", "3=", "4=", "0="]
    assert ENV.reset(options={"task": 8})[1] == {"task": 8, "split": "train", "residue": 3}
    assert all(ENV.verify(i, ENV.solution(i))["correct"] for i in range(5))


def test_demonstrations_are_right_and_spread_over_the_replies():
    records = ENV.demonstrations(400, 0)
    assert all(ENV.verify(record.task, record.reply)["correct"] for record in records)
    assert len({record.reply for record in records}) > 370
    first = Counter(record.reply[0] for record in records)
    assert len(first) == 10 and max(first.values()) < 75


@settings(max_examples=100, deadline=None)
@given(reply=st.text(max_size=8))
def test_any_string_has_a_verdict(reply):
    assert ENV.verify(0, reply)["correct"] <= ENV.verify(0, reply)["format"]


@pytest.mark.parametrize("arguments", [{"length": 0}, {"modulus": 1}, {"modulus": 11}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be an integer from"):
        DigitSum(**arguments)
