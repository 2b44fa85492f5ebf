"""`Countdown-v0`: tasks with a solution, exact values, and replies that must not pass."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.text.countdown import Countdown, CountdownTask
from palaestra.envs.text.expressions import evaluate

ENV = Countdown(max_reply=24)
TASK = CountdownTask(0, "train", "3,5,7=22?", 0, (3, 5, 7), 22)


def test_the_first_tasks_and_their_solutions_are_those_of_the_specification():
    env = Countdown()
    prompts = [env.task(i).prompt for i in range(5)]
    assert prompts == ["1,1,3=2?", "3,3,8=1?", "3,7,8=4?", "1,2,8=17?", "1,3,9=26?"]
    held_out = [env.task(i, "test").prompt for i in range(3)]
    assert held_out == ["3,5,7=9?", "2,5,8=15?", "1,3,3=10?"]
    solutions = [env.solution(i) for i in range(5)]
    assert solutions == ["1*3-1$", "3*3-8$", "3-7+8$", "1+2*8$", "3*9-1$"]


@pytest.mark.parametrize(
    ("reply", "correct", "valid", "distance"),
    [
        ("3*5+7$", 1, 1, 0.0),
        ("7+(3*5)$", 1, 1, 0.0),
        ("((7))+((3*5))$", 1, 1, 0.0),
        ("(3+7)*5$", 0, 1, 28.0),
        ("3/5+7$", 0, 1, 14.4),
        ("3*5$", 0, 0, None),
        ("3*5+7+7$", 0, 0, None),
        ("5/(3-3)+7$", 0, 0, None),
        ("3*5+07$", 0, 0, None),
        ("3*5+7.0$", 0, 0, None),
        ("3**5$", 0, 0, None),
        ("3//5+7$", 0, 0, None),
        ("-3+5+7$", 0, 0, None),
        ("3*5+7=22$", 0, 0, None),
        ("22$", 0, 0, None),
        ("35-7$", 0, 0, None),
        ("3 * 5 + 7$", 0, 0, None),
        ("３*5+7$", 0, 0, None),
        ("3×5+7$", 0, 0, None),
        ("3*5+7", 0, 0, None),
        ("(3*5+7$", 0, 0, None),
        ("3*5+7)$", 0, 0, None),
        ("()3*5+7$", 0, 0, None),
        ("(3*5)7$", 0, 0, None),
        ("__import__$", 0, 0, None),
        ("$", 0, 0, None),
    ],
)
def test_worked_examples_of_the_verifier(reply, correct, valid, distance):
    found = ENV.verify(TASK, reply)
    assert (found["correct"], found["valid"], found["distance"]) == (correct, valid, distance)
    assert found["format"] == valid and found["length"] == len(reply)


def test_solutions_are_right_and_none_is_missing():
    for arguments in ({}, {"numbers": 4, "operations": "+-*/"}, {"numbers": 2}):
        env = Countdown(**arguments, max_reply=32)
        for index in range(60):
            assert env.verify(index, env.solution(index))["correct"] == 1
    # Three numbers that need a division whose intermediate result is no integer.
    task = CountdownTask(0, "train", "", 0, (1, 3, 4, 6), 24)
    assert Countdown(4, operations="+-*/", max_reply=32).solution(task) == "6/(1-3/4)$"


def test_no_test_prompt_occurs_in_training():
    train = {ENV.task(i, "train").prompt for i in range(1500)}
    test = {ENV.task(i, "test").prompt for i in range(300)}
    assert len(train) > 800 and len(test) > 150 and not train & test


def test_demonstrations_lie_outside_the_pool_and_are_wrong_as_often_as_asked():
    env = Countdown(pool=200)
    records = env.demonstrations(200, 1, noise=0.25)
    assert records == env.demonstrations(200, 1, noise=0.25)
    for record in records:
        assert record.task >= 200 and len(record.reply) <= 16
        found = env.verify(record.task, record.reply)
        assert found["valid"] == 1 and found["correct"] == record.correct
    assert 0.65 < np.mean([record.correct for record in records]) < 0.85


def test_a_task_says_its_numbers():
    prompt, info = ENV.reset(options={"task": 3})
    assert prompt == "1,2,8=17?"
    assert info["numbers"].tolist() == [1, 2, 8] and info["target"] == 17


NUMBERS = st.integers(0, 99).map(str)
TREES = st.recursive(
    NUMBERS,
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from("+-*/"), parts).map("".join),
        parts.map(lambda part: f"({part})"),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(text=TREES)
def test_expressions_have_their_exact_value(text):
    found = evaluate(text)
    fractions = "".join(
        f"Fraction({part})" if part.isdigit() else part
        for part in text.replace("(", " ( ")
        .replace(")", " ) ")
        .replace("+", " + ")
        .replace("-", " - ")
        .replace("*", " * ")
        .replace("/", " / ")
        .split()
    )
    try:
        expected = eval(fractions, {"Fraction": Fraction})
    except ZeroDivisionError:
        assert found is None
    else:
        assert found is not None and found[0] == expected


@settings(max_examples=150, deadline=None)
@given(reply=st.one_of(st.text(max_size=30), st.text(alphabet="357()+-*/$ ", max_size=30)))
def test_any_string_has_a_verdict(reply):
    found = ENV.verify(TASK, reply)
    assert found == ENV.verify(TASK, reply[:24].partition("$")[0] + "$" * ("$" in reply[:24]))
    assert found["correct"] <= found["valid"] <= found["stopped"]


def test_deep_nesting_and_huge_numbers_are_read_or_refused():
    env = Countdown(max_reply=2**20)
    deep = "(" * 100_000 + "3" + ")" * 100_000 + "*5+7$"
    assert env.verify(TASK, deep)["correct"] == 1
    assert env.verify(TASK, "9" * 100_000 + "$")["valid"] == 0
    assert env.verify(TASK, "(" * 200_000 + "$")["valid"] == 0
    assert evaluate("1" * 31) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numbers": 1}, "numbers=1 must be an integer from 2 to 5"),
        ({"high": 0}, "high=0"),
        ({"target_max": 0}, "target_max=0"),
        ({"operations": "+^"}, r"operations='\+\^'"),
        ({"operations": None}, "operations=None"),
        ({"max_reply": 5}, "max_reply=5 must be an integer from 6"),
        ({"pool_seed": 0.5}, "pool_seed=0.5"),
        ({"split": "valid"}, "split='valid'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Countdown(**arguments)


def test_a_target_out_of_reach_is_said_to_be():
    with pytest.raises(ValueError, match="leave no solvable task in split 'train'"):
        Countdown(2, high=1, target_max=9, operations="-").task(0)
