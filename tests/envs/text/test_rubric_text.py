"""`RubricText-v0`: constraints, drafts and writers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.text.rubric_text import RubricTask, RubricText

ENV = RubricText()
TASK = RubricTask(0, "train", "0358:", 0, (0, 3, 5, 8))
ALL = RubricTask(0, "train", "0123456789:", 0, tuple(range(10)))


def test_worked_examples_of_the_verifier():
    found = ENV.verify(TASK, "dabe$")
    assert (found["met"], found["score"], found["unmet"]) == ([1, 1, 1, 0], 0.75, "8")
    assert found["ascending"] == pytest.approx(2 / 3)
    everything = ENV.verify(ALL, "dabe$")["met"]
    assert [k for k, met in enumerate(everything) if met] == [0, 1, 2, 3, 5, 6, 9]
    marked = ENV.verify(TASK, "dabe!.$")
    assert marked["met"] == found["met"] and (marked["friendly"], marked["closing"]) == (1, 1)
    run = ENV.verify(ALL, "ffff$")
    assert [k for k, met in enumerate(run["met"]) if met] == [1, 5] and run["run"] == 4
    assert ENV.verify(ALL, "dbafhfe$")["correct"] == 1
    assert RubricText(style=0.5).verify(TASK, "dabe$")["score"] == pytest.approx(0.75 + 1 / 3)


@pytest.mark.parametrize("reply", ["", "$", "!.$", "dabe", "DABE$", "dabé$", "d a$", "dabe\n$"])
def test_what_is_no_text_of_letters_meets_nothing(reply):
    found = ENV.verify(TASK, reply)
    assert (found["met"], found["score"], found["format"]) == ([0, 0, 0, 0], 0.0, 0)


def test_an_order_is_scored_by_its_longest_common_subsequence():
    env = RubricText(task="order")
    task = RubricTask(0, "train", "bdfaeh:", 0, (), "bdfaeh")
    replies = ("bbdfeeh$", "eeeeeeee$", "haefdb$", "bdfaeh$", "$")
    assert [env.verify(task, reply)["gold"] for reply in replies] == [5, 1, 2, 6, 0]
    prompts = {env.task(i).prompt for i in range(20)}
    assert all(len(set(prompt)) == 7 and prompt.endswith(":") for prompt in prompts)
    assert env.verify(3, env.solution(3))["correct"] == 1


def test_codes_stand_for_the_sets_of_the_specification():
    env = RubricText(n=5, show="code")
    sets = ["".join(map(str, env.task(i).constraints)) for i in range(4)]
    assert sets == ["01234", "01258", "01356", "01459"]
    assert [env.task(i).prompt for i in (0, 1, 16)] == ["A:", "B:", "A:"]


def test_prompts_name_the_constraints_and_the_splits_are_disjoint():
    train = {ENV.task(i, "train").prompt for i in range(500)}
    test = {ENV.task(i, "test").prompt for i in range(300)}
    assert not train & test and len(train | test) > 190  # of 210 sets of four
    assert all(list(prompt) == sorted(prompt) for prompt in train)


def test_a_draft_is_shown_with_what_it_lacks():
    env = RubricText()
    index = next(i for i in range(2000) if env.task(i, env.split).prompt == "0358:")
    prompt, _ = env.reset(options={"task": index, "draft": "dabe"})
    assert prompt == "0358|dabe|8:"
    assert env.with_draft(index, "").prompt == "0358|-|0358:"
    assert RubricText(n=5, show="code").with_draft(2, "dabe").prompt == "C|dabe:"
    with pytest.raises(ValueError, match="draft='xyz' must be at most 15 letters"):
        env.reset(options={"task": 0, "draft": "xyz"})
    with pytest.raises(ValueError, match="no drafts"):
        RubricText(task="order").with_draft(0, "ab")


def test_writers_meet_what_their_skill_says():
    rng = np.random.default_rng(0)
    means = [
        np.mean([ENV.verify(i, ENV.writer(i, skill, rng))["score"] for i in range(200)])
        for skill in (0.0, 0.5, 1.0)
    ]
    assert means[0] < means[1] - 0.1 < means[2] - 0.2
    perfect = np.mean([ENV.verify(i, ENV.writer(i, 1.0, rng))["correct"] for i in range(200)])
    assert perfect > 0.97
    habit = np.full((8, 8), -20.0)
    habit[:, 4] = 20.0
    assert set(ENV.writer(0, 0.0, rng, habit)[1:-1]) == {"e"}
    marks = [ENV.writer(0, 0.0, rng, friendly=0.3, closing=1.0) for _ in range(200)]
    assert all(text.endswith(".$") for text in marks)
    assert 0.2 < np.mean(["!" in text for text in marks]) < 0.4


def test_revisions_meet_everything():
    records = RubricText(pool=50).demonstrations(100, 2, revise_share=0.5)
    revised = [record for record in records if "|" in record.prompt]
    assert 30 < len(revised) < 70 and all(record.correct for record in revised)
    assert all(record.task >= 50 and len(record.reply) <= 16 for record in records)
    assert all(record.prompt in ENV.observation_space for record in records)


@settings(max_examples=100, deadline=None)
@given(reply=st.one_of(st.text(max_size=20), st.text(alphabet="abcdefgh!.$", max_size=20)))
def test_any_string_has_a_verdict(reply):
    found = ENV.verify(ALL, reply)
    assert 0 <= found["score"] <= 1 and found["correct"] == (found["score"] == 1)
    assert found["gold"] + len(found["unmet"]) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "poem"}, "task='poem'"),
        ({"n": 0}, "n=0 must be an integer from 1 to 10"),
        ({"show": "none"}, "show='none'"),
        ({"style": -1}, "style=-1"),
        ({"max_reply": 8}, "max_reply=8 must be an integer from 12 to 64"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RubricText(**arguments)
