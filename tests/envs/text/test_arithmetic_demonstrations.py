"""Demonstrations of `Arithmetic-v0` are what their arguments say."""

from __future__ import annotations

import pytest

from palaestra.envs.text.arithmetic import Arithmetic

SETTINGS = [
    ({}, {}),
    ({"styles": 2}, {"noise": 0.4}),
    ({"operations": "+-", "digits": (1, 4), "reply": "columns"}, {"noise": 0.5}),
    (
        {"digits": (1, 3), "reply": "columns", "free": True},
        {"skip": {1: 1.0, 3: 0.0}, "redundancy": 0.5},
    ),
    ({"digits": 3, "pool": 200}, {"critique_share": 0.5}),
    (
        {"digits": {2: 0.5, 4: 0.5}, "pool": 200, "reply": "columns", "max_reply": 24},
        {"levels": {2: 0.6, 4: 0.4}, "hint_share": {2: 0.2, 4: 1.0}, "noise": 0.3},
    ),
    ({"digits": (2, 3), "reply": "lines"}, {"slip": 0.3, "redundancy": 0.3}),
    ({"operations": "*", "reply": "lines", "digits": (1, 2)}, {"noise": 0.5}),
    (
        {
            "operations": "+-*",
            "digits": 1,
            "terms": 4,
            "reply": "lines",
            "tags": True,
            "response": True,
            "max_reply": 96,
        },
        {"redundancy": 0.4, "slip": 0.2, "noise": 0.4},
    ),
    ({"reply": "lines", "free": True, "verbose": True}, {"hint_share": 0.5, "noise": 0.2}),
    ({"reply": "columns", "free": True, "tags": True, "control": (1, 2)}, {"redundancy": 2.0}),
]


@pytest.mark.parametrize(("arguments", "how"), SETTINGS)
def test_demonstrations_keep_the_format_and_are_as_right_as_they_say(arguments, how):
    env = Arithmetic(**arguments)
    records = env.demonstrations(150, 3, **how)
    assert records == env.demonstrations(150, 3, **how)
    assert records != env.demonstrations(150, 4, **how)
    wrong = 0
    for record in records:
        assert record.task >= (arguments.get("pool") or 0)
        assert record.prompt in env.observation_space
        assert record.reply in env.action_space
        assert set(record.reply) <= set(env.reply_characters)
        base = env.task(record.task, "train")
        hint = record.prompt.partition("|")[2]
        task = next(
            task
            for task in [base, *(env.put(base, hint=share) for share in (0.25, 0.5, 0.75))]
            if env.notation.verbose or task.hint == hint
        )
        assert record.prompt.startswith(base.prompt.rstrip("."))
        found = env.verify(task, record.reply)
        assert found["format"] == 1
        assert found["correct"] == record.correct
        assert record.level == base.level
        wrong += not record.correct
    noise = how.get("noise", 0.0)
    assert abs(wrong / 150 - noise) < 0.13
    assert noise or wrong == 0


def test_skip_redundancy_and_slip_show_in_the_verdicts():
    env = Arithmetic(digits=(1, 3), reply="columns", free=True, max_reply=64)

    def steps(records, level):
        found = [env.verify(r.task, r.reply) for r in records if r.level == level]
        return [verdict["steps"] for verdict in found]

    skipped = env.demonstrations(100, 0, skip={1: 1.0})
    assert set(steps(skipped, 1)) == {0} and set(steps(skipped, 3)) == {3}
    redundant = steps(env.demonstrations(400, 0, redundancy=1.0), 3)
    assert 5.5 < sum(redundant) / len(redundant) < 6.5  # 3 needed, 3 more on average
    lines = Arithmetic(reply="lines")
    slips = [
        lines.verify(r.task, r.reply)["withdrawn"] for r in lines.demonstrations(300, 0, slip=0.3)
    ]
    assert 0.22 < sum(map(sum, slips)) / 600 < 0.38


def test_critiques_controls_and_hints_come_as_often_as_asked():
    env = Arithmetic(reply="columns", control=(1, 2, 3), digits=(2, 4), max_reply=24)
    records = env.demonstrations(
        600, 1, control_share=0.25, critique_share=0.5, hint_share={4: 1.0}
    )
    with_letter = [r for r in records if set(r.prompt) & set("ABC")]
    with_context = [r for r in records if "[" in r.prompt]
    assert 0.19 < len(with_letter) / 600 < 0.31
    assert 0.43 < len(with_context) / 600 < 0.57
    assert 0.17 < sum("!" in r.prompt for r in with_context) / len(with_context) < 0.33
    assert all(("|" in r.prompt) == (r.level == 4) for r in records)


def test_levels_replace_the_weights():
    env = Arithmetic(digits={1: 0.9, 4: 0.1})
    levels = [r.level for r in env.demonstrations(400, 0, levels={1: 0.25, 4: 0.75})]
    assert 0.68 < levels.count(4) / 400 < 0.82
    assert {r.task for r in env.demonstrations(40, 0, ids=[3, 4])} == {3, 4}


def test_logs_are_right_in_the_share_asked_for():
    right = sum(record.correct for record in Arithmetic().logs(2000, 0.4)) / 2000
    assert 0.36 < right < 0.44


@pytest.mark.parametrize(
    ("arguments", "how", "message"),
    [
        ({"reply": "columns"}, {"skip": 0.5}, "skip=0.5 needs free=True"),
        ({}, {"redundancy": 0.5}, "redundancy=0.5: a plain reply has no working"),
        ({"reply": "lines"}, {"redundancy": 2.5}, "from 0 to 2"),
        ({"reply": "columns"}, {"slip": 0.5}, "slip=0.5 needs reply='lines'"),
        ({}, {"noise": 1.5}, "noise=1.5 must be a number from 0 to 1"),
        ({}, {"levels": {3: 1.0}}, "levels={3: 1.0} must give levels of \\(2,\\)"),
        ({"reply": "columns", "free": True}, {"skip": {3: 1.0}}, "the levels of this environment"),
        ({"pool": 2**20}, {}, "leaves no training tasks"),
        ({}, {"ids": []}, "ids is empty"),
        ({"digits": 4, "reply": "columns", "max_reply": 14}, {}, "fits into max_reply=14"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments, how, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**arguments).demonstrations(5, 0, **how)
