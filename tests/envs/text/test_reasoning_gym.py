"""`ReasoningGym-v0`: tasks of the package by number, graded strictly."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra.extras
from palaestra.envs.text.reasoning_gym import STOP, ReasoningGym

pytest.importorskip("reasoning_gym")

ENV = ReasoningGym(tasks=200)


def test_the_reference_answer_is_right_and_the_split_disjoint():
    train = {ENV.task(i, "train").prompt for i in range(100)}
    test = {ENV.task(i, "test").prompt for i in range(100)}
    assert len(train) > 95 and not train & test
    for index in range(20):
        assert ENV.verify(index, ENV.solution(index))["correct"] == 1
    assert ENV.task(3) == ReasoningGym(tasks=200).task(3)
    assert ENV.task(3) != ReasoningGym(tasks=200, seed=1).task(3)


@pytest.mark.parametrize(
    "name",
    ["prime_factorization", "propositional_logic", "leg_counting", "graph_color", "mini_sudoku"],
)
def test_tasks_of_other_kinds_run(name):
    env = ReasoningGym(name, tasks=20)
    prompt, info = env.reset(seed=0)
    assert prompt in env.observation_space and info["item"] >= 0
    for reply in ("nonsense", "9" * 300, "\ud800", "((", ""):
        found = env.verify(env.current, reply + STOP)
        assert found["correct"] == 0 and 0 <= found["score"] < 1
    if env.current.reference is not None:
        assert env.verify(env.current, env.solution(env.current))["correct"] == 1


def test_a_reply_that_contains_the_answer_earns_nothing_unless_asked():
    truth = ENV.task(0).reference
    hedged = f"{truth} {int(truth) + 1}" + STOP
    found = ENV.verify(0, hedged)
    assert found["correct"] == 0 and 0 < found["score"] < 1
    assert ENV.score(found) == 0.0
    assert ReasoningGym(tasks=200, partial=True).score(found) == found["score"]
    assert ENV.verify(0, truth)["correct"] == 0  # cut
    assert ENV.verify(0, f" {truth}\n{STOP}")["correct"] == 1


def test_tags_hold_exactly_one_answer():
    env = ReasoningGym(tasks=200, tags=True)
    truth = env.task(0).reference
    assert env.verify(0, env.solution(0))["correct"] == 1
    good = f"<answer>{truth}</answer>"
    for reply in (
        truth,
        good + "<answer>1</answer>",
        f"<answer>{good}",
        f"{good}</answer>",
        f"<answer><answer>{truth}</answer></answer>",
    ):
        assert env.verify(0, reply + STOP)["correct"] == 0
    assert env.verify(0, f"so {good}." + STOP)["correct"] == 1


@pytest.mark.parametrize("name", ["countdown", "n_queens", "simple_integration", "spiral_matrix"])
def test_verifiers_that_would_run_the_reply_are_refused(name):
    with pytest.raises(ValueError, match="would run the reply as Python code"):
        ReasoningGym(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nothing"}, "name='nothing', allowed are"),
        ({"config": {"terms": 3}}, "chain_sum: config=.*terms"),
        ({"config": {"min_terms": -1}}, "chain_sum: config="),
        ({"tasks": 0}, "tasks=0"),
        ({"tasks": 10, "pool": 11}, "pool=11 must be an integer from 1 to 10"),
        ({"seed": -1}, "seed=-1"),
        ({"partial": 1}, "partial=1 must be True or False"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGym(**arguments)


def test_a_question_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="characters, max_prompt=5"):
        ReasoningGym(tasks=10, max_prompt=5).reset(seed=0)


def test_a_missing_package_gives_one_line_that_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(palaestra.extras.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "palaestra\[reasoning\]"'):
        ReasoningGym("leg_counting", tasks=77)


def test_copies_go_on_alike():
    env = ReasoningGym(tasks=50)
    env.reset(seed=4)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert [other.reset() for _ in range(4)] == [e.reset() for e in [copy.deepcopy(env)] * 4]


@settings(max_examples=50, deadline=None)
@given(reply=st.text(max_size=40))
def test_any_string_has_a_verdict(reply):
    found = ENV.verify(1, reply + STOP)
    assert found["correct"] <= found["format"] <= found["stopped"] == 1
