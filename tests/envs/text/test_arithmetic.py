"""`Arithmetic-v0`: tasks, the verifier's worked examples, and the tricks that must not fool it."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra  # noqa: F401
from palaestra.envs.text.arithmetic import ALPHABET, Arithmetic
from palaestra.envs.text.base import is_test

COLUMNS = {"reply": "columns"}
LINES = {"reply": "lines"}
TAGS = {"reply": "columns", "free": True, "tags": True}
RESPONSE = {
    "operations": "+-*",
    "digits": 1,
    "terms": 4,
    "reply": "lines",
    "tags": True,
    "response": True,
}


def verdict(arguments, reply, problem="37+25", hint=0.0):
    env = Arithmetic(**arguments)
    return env.verify(env.put(env.problem(problem), hint=hint), reply)


def texts(env, split, n):
    return [env.task(i, split).problem.text for i in range(n)]


# -- tasks -----------------------------------------------------------------------------------------


def test_the_first_tasks_are_those_of_the_specification():
    plain, mixed = Arithmetic(), Arithmetic(digits=(1, 2, 3, 4))
    assert texts(plain, "train", 6) == "86+67 56+90 98+17 62+38 50+89 72+44".split()
    assert texts(plain, "test", 6) == "25+83 99+60 96+20 55+90 23+29 38+43".split()
    assert texts(mixed, "train", 6) == "560+342 5+8 9815+1727 62+38 4+8 726+443".split()
    chain = Arithmetic("+-*", 1, 4)
    expected = "8+6+5+2 5+8*9+5 9+0-2*4 5*8+9-8 4*8-4-2 6-3-8+5"
    assert texts(chain, "train", 6) == expected.split()
    assert [chain.task(i).problem.value for i in range(6)] == [21, 82, 1, 41, 26, 0]


def test_no_test_problem_occurs_in_training_in_either_order():
    env = Arithmetic(digits=(1, 2))
    train = {frozenset(env.task(i, "train").problem.operands) for i in range(3000)}
    test = {frozenset(env.task(i, "test").problem.operands) for i in range(300)}
    assert len(train) > 1000 and len(test) > 100
    assert not train & test
    share = sum(is_test(f"{a}+{b}") for a in range(10, 100) for b in range(a, 100)) / 4095
    assert 0.18 < share < 0.22


def test_every_prefix_of_the_ids_has_the_levels_in_the_ratio_of_their_weights():
    env = Arithmetic(digits={1: 0.6, 2: 0.2, 3: 0.1, 4: 0.1})
    for n in (50, 100, 500):
        levels = Counter(env.task(i).level for i in range(n))
        for level, share in {1: 0.6, 2: 0.2, 3: 0.1, 4: 0.1}.items():
            assert abs(levels[level] - share * n) <= 3
    first = env.task_ids(5, "test", level=4)
    assert [env.task(i, "test").level for i in first] == [4] * 5
    assert env.task_ids(4, "train") == [0, 1, 2, 3]


def test_the_reply_format_never_changes_the_tasks():
    assert texts(Arithmetic(), "train", 20) == texts(Arithmetic(**TAGS), "train", 20)
    assert texts(Arithmetic(), "train", 20) != texts(Arithmetic(pool_seed=1), "train", 20)


@pytest.mark.parametrize(
    ("problem", "difficulty", "carries"),
    [
        ("3+4", 1, 0),
        ("7+5", 2, 1),
        ("37+25", 3, 1),
        ("4837+6295", 8, 4),
        ("52-37", 3, 1),
        ("37*25", 3, 0),
        ("7+2-3*4", 3, 0),
    ],
)
def test_difficulty_counts_lines_and_carries(problem, difficulty, carries):
    task = Arithmetic("+-*", 4, 4, reply="lines").problem(problem).problem
    assert (task.difficulty, task.carries) == (difficulty, carries)


@pytest.mark.parametrize(
    ("arguments", "problem", "reply"),
    [
        ({}, "37+25", "62$"),
        (COLUMNS, "37+25", "12,6#62$"),
        ({"operations": "-", **COLUMNS}, "52-37", "-5,1#15$"),
        (COLUMNS, "60+8", "8,6#68$"),
        (LINES, "37+25", "7+5=12\n3+2+1=6\n#62$"),
        ({"operations": "-", **LINES}, "52-37", "12-7=5\n4-3=1\n#15$"),
        ({"operations": "*", **LINES}, "37*25", "37*5=185\n37*20=740\n185+740=925\n#925$"),
        ({"operations": "*", "digits": 1, **LINES}, "7*0", "7*0=0\n#0$"),
        (TAGS, "37+25", "<12,6>62$"),
        ({**TAGS, "styles": 2}, "37+25", "<12,6>#62$"),
        (
            RESPONSE,
            "7+2-3*4",
            "<3*4=12\n7+2=9\n9-12=-3\n>3*4=12\n7+2=9\n9-12=-3\n#-3$",
        ),
    ],
)
def test_the_reference_reply(arguments, problem, reply):
    env = Arithmetic(**arguments)
    task = env.problem(problem)
    assert env.solution(task) == reply
    found = env.verify(task, reply)
    assert (found["correct"], found["format"], found["length"]) == (1, 1, len(reply))
    assert found["labels"] == found["useful"] == found["adopted"] == [1] * found["steps"]


# -- worked examples of the verifier ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reply", "expected"),
    [
        ({}, "62$", {"correct": 1, "digit_match": 1.0, "format": 1, "length": 3, "integer": 1}),
        ({}, "52$", {"correct": 0, "digit_match": 0.5, "first_wrong": 1, "answer": 52}),
        ({}, "162$", {"digit_match": 2 / 3, "first_wrong": 2}),
        ({}, "62", {"stopped": 0, "answer": None, "correct": 0, "format": 0, "length": 2}),
        ({}, "62$99$", {"correct": 1, "format": 1, "length": 3}),
        ({}, "$", {"answer": None, "format": 0, "length": 1}),
        ({}, "", {"answer": None, "format": 0, "length": 0}),
        ({}, " 62$", {"answer": None, "format": 0}),
        ({}, "062$", {"answer": None, "format": 1, "integer": 0}),
        ({}, "37+25$", {"answer": None, "format": 1, "integer": 0}),
        ({}, "00000062$", {"stopped": 0, "length": 8, "answer": None}),
        ({"styles": 2}, "#62$", {"style": 0, "correct": 1}),
        ({"styles": 2}, "@62$", {"style": 1, "correct": 1}),
        ({"styles": 2}, "62$", {"style": -1, "answer": None}),
        (
            COLUMNS,
            "12,6#62$",
            {
                "correct": 1,
                "format": 1,
                "labels": [1, 1],
                "useful": [1, 1],
                "step_ends": [3, 4],
                "working_length": 4,
            },
        ),
        (COLUMNS, "#62$", {"correct": 1, "format": 0}),
        ({**COLUMNS, "free": True}, "#62$", {"correct": 1, "format": 1, "steps": 0}),
        (COLUMNS, "12,6#61#62$", {"answer": None, "correct": 0, "format": 0}),
        (
            COLUMNS,
            "12,=12,=12,6#62$",
            {"labels": [1, 1, 1, 1], "useful": [1, 0, 0, 1], "adopted": [1, 1, 1, 1]},
        ),
        (COLUMNS, "11,=12,6#62$", {"labels": [0, 1, 1], "useful": [0, 1, 1]}),
        (COLUMNS, "12,12,6#62$", {"labels": [1, 0, 0]}),
        (
            LINES,
            "7+5=12\n3+2=5\n#52$",
            {"format": 1, "labels": [1, 0], "adopted": [1, 1], "correct": 0},
        ),
        (
            LINES,
            "7+5=11\n~7+5=12\n3+2+1=6\n#62$",
            {
                "correct": 1,
                "format": 1,
                "labels": [0, 1, 1],
                "withdrawn": [1, 0, 0],
                "reflections": [(1, 0)],
                "adopted": [0, 1, 1],
            },
        ),
        (
            LINES,
            "7+5=11\n3+2+1=6\n~~7+5=12\n3+2+1=6\n#62$",
            {"labels": [0, 1, 1, 1], "withdrawn": [1, 1, 0, 0], "reflections": [(2, 0)]},
        ),
        (LINES, "~7+5=12\n3+2+1=6\n#62$", {"correct": 1, "format": 0}),
        (LINES, "7+5=12\n=3+2+1=6\n#62$", {"correct": 1, "format": 0}),
        (LINES, "7+5=12\n=7+5=12\n3+2+1=6\n#62$", {"format": 1, "useful": [1, 0, 1]}),
        (LINES, "7+5=12\n3+2+1=6#62$", {"correct": 1, "format": 0}),
        (
            TAGS,
            "<12,6>62$",
            {"correct": 1, "format": 1, "working_length": 4, "step_ends": [4, 5]},
        ),
        (TAGS, "<>62$", {"correct": 1, "format": 1, "working_length": 0}),
        (TAGS, "12,6>62$", {"correct": 1, "format": 0}),
        (TAGS, "<12,6$", {"answer": None, "format": 0}),
        (TAGS, "<12>62>62$", {"answer": None, "format": 0}),
    ],
)
def test_worked_examples_of_the_verifier(arguments, reply, expected):
    found = verdict(arguments, reply)
    assert {name: found[name] for name in expected} == expected


def test_a_reply_continues_its_hint():
    arguments = {"digits": 4, **COLUMNS}
    found = verdict(arguments, "11,11#11132$", "4837+6295", hint=0.5)
    assert (found["correct"], found["format"], found["length"]) == (1, 1, 12)
    assert (found["labels"], found["step_ends"]) == ([1, 1], [3, 5])
    assert found["working_length"] == 5
    env = Arithmetic(**arguments)
    task = env.problem("4837+6295")
    shares = (0, 0.25, 0.5, 0.75)
    assert [env.hint_text(task, share) for share in shares] == ["", "12,", "12,13,", "12,13,11"]
    hinted = env.put(task, hint=0.75)
    assert hinted.prompt == "4837+6295=|12,13,11"
    assert env.solution(hinted) == ",11#11132$"
    assert env.verify(hinted, ",11#11132$")["steps"] == 1


def test_a_detour_is_right_but_not_useful():
    reply = "<7+2=9\n7-4=3\n3*4=12\n9-12=-3\n>3*4=12\n7+2=9\n9-12=-3\n#-3$"
    found = verdict(RESPONSE, reply, "7+2-3*4")
    assert (found["labels"], found["useful"]) == ([1, 1, 1, 1], [1, 0, 1, 1])
    assert (found["correct"], found["format"]) == (1, 1)
    other = verdict(RESPONSE, reply.replace("7-4=3", "7-2=5"), "7+2-3*4")
    assert other["adopted"] == [1, 0, 1, 1]


def test_a_line_that_is_needed_twice_is_useful_twice():
    found = verdict(LINES, "3+3=6\n3+3=6\n3+3=6\n#66$", "33+33")
    assert found["useful"] == [1, 1, 0]


def test_critiques():
    env = Arithmetic()
    task = env.problem("37+25")
    kinds = ("position", "digit", "answer", "binary")
    assert [env.critique(task, "52$", kind) for kind in kinds] == [
        *("52?1", "52?1=6", "52?=62", "52?")
    ]
    assert env.critique(task, "2$", "digit") == "2?1=6"
    assert env.critique(task, "162$", "digit") == "162?2="
    assert env.critique(task, "62$", "digit") == "62!"
    assert env.critique(task, "6 2$", "digit") == "?"
    assert env.critique(task, "6 2$", "answer") == "?=62"
    prompt, _ = env.reset(options={"problem": "37+25", "context": "52?1=6"})
    assert prompt == "37+25=[52?1=6]"
    with pytest.raises(ValueError, match="kind='praise'"):
        env.critique(task, "62$", "praise")


def test_corrupt_replaces_the_answer_only():
    env = Arithmetic(**COLUMNS)
    task = env.problem("37+25")
    assert env.corrupt(task, "12,6#62$ and more", 0) == "12,6#63$"
    assert env.corrupt(task, "12,6#62$", 4) == "12,6#67$"
    assert env.corrupt(task, "12,6", 0) is None


# -- tricks ----------------------------------------------------------------------------------------

TRICKS = [
    *("62 $", "\n62$", "62\n$", "+62$", "62.0$", "62.$", "6_2$", "0x3e$", "6e1$", "62,$", "--62$"),
    *(
        "٦٢$",
        "６２$",
        "𝟔𝟐$",
        "6²$",
        "62\u200b$",
        "\ufeff62$",
        "62\x00$",
    ),  # other scripts, invisible
    *(
        "37+25$",
        "61+1$",
        "62=62$",
        "62|62$",
        "6 2$",
        "<62>$",
        "#62$",
        "62#$",
        "-62$",
        "-0$",
        "6２$",
    ),
]


@pytest.mark.parametrize("reply", TRICKS)
def test_what_is_not_the_plain_number_is_not_right(reply):
    assert verdict({"max_reply": 20}, reply)["correct"] == 0


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        (COLUMNS, "62#61$"),  # the answer hides in the working
        (COLUMNS, "#61#62$"),  # several answers
        (COLUMNS, "12,6#62#$"),
        (COLUMNS, "12,6@62$"),  # a mark that is not in use
        (COLUMNS, "12,6#62\n$"),
        (COLUMNS, "12,6##62$"),
        ({**TAGS}, "<<12>62>$"),
        ({**TAGS}, ">62>$"),
        ({**TAGS}, "<12,6>62<$"),
        ({**TAGS}, "<62$"),
        ({"styles": 2}, "#@62$"),
        ({"styles": 2}, "#61@62$"),
    ],
)
def test_hidden_or_several_answers_are_not_right(arguments, reply):
    assert verdict(arguments, reply)["correct"] == 0


def test_huge_numbers_are_no_answer():
    arguments = {"max_reply": 100_000, **COLUMNS}
    for reply in ("#" + "9" * 19 + "$", "#" + "9" * 50_000 + "$", "9" * 50_000 + "#62$"):
        found = verdict(arguments, reply)
        assert found["answer"] == (62 if reply.endswith("#62$") else None)
    many = verdict({"max_reply": 100_000, **LINES}, "7+5=12\n~7+5=12\n" * 5_000 + "#62$")
    assert many["steps"] == 10_000 and sum(many["withdrawn"]) == 5_000


ENVS = [
    Arithmetic(),
    Arithmetic(styles=2),
    Arithmetic("+-", **COLUMNS),
    Arithmetic(**TAGS),
    Arithmetic("+-*", **LINES),
    Arithmetic(**RESPONSE),
    Arithmetic(reply="lines", free=True, tags=True, verbose=True, max_reply=300),
]
GRAMMAR = st.text(alphabet=ALPHABET + " <think>\t٣２", max_size=80)


@settings(max_examples=60, deadline=None)
@given(reply=st.one_of(st.text(max_size=60), GRAMMAR), index=st.integers(0, 50))
def test_any_string_has_a_verdict_and_only_its_graded_part_matters(reply, index):
    for env in ENVS:
        task = env.task(index)
        found = env.verify(task, reply)
        assert found == env.verify(index, reply)
        read = reply[: env.max_reply].partition("$")
        assert found == env.verify(task, read[0] + read[1])
        assert found["length"] == len(read[0] + read[1])
        parts = ("labels", "useful", "withdrawn", "adopted", "step_ends")
        assert all(len(found[name]) == found["steps"] for name in parts)
        assert found["step_ends"] == sorted(found["step_ends"])
        assert found["correct"] <= found["integer"] <= found["stopped"]
        shown = str(task.problem.value)
        assert not found["correct"] or shown in read[0].replace(" ", "").replace("\t", "")


def test_what_is_no_string_counts_as_an_empty_reply():
    env = Arithmetic()
    assert env.verify(0, None) == env.verify(0, 62) == env.verify(0, b"62$") == env.verify(0, "")


# -- episodes --------------------------------------------------------------------------------------


def test_options_choose_the_task_and_what_its_prompt_says():
    env = gym.make("Arithmetic-v0", **COLUMNS, control=(6, 12, 20), digits=(2, 4))
    _, info = env.reset(seed=3, options={"task": 7, "control": 2})
    assert (info["task"], info["split"], info["control"]) == (7, "train", 2)
    first = env.unwrapped.task(7).prompt
    assert env.reset(options={"task": 7})[0] == first
    assert env.reset(options={"task": 7, "control": 2})[0] == f"{first}C"
    assert env.reset(options={"task": 2**20 - 1})[1]["task"] == 2**20 - 1
    prompt, info = env.reset(
        options={"problem": "4837+6295", "hint": 0.5, "control": 0, "context": "1!"}
    )
    assert prompt == "4837+6295=[1!]A|12,13,"
    assert (info["task"], info["truth"], info["level"]) == (-1, 11132, 4)
    assert env.reset(options={"task": 3, "split": "test"})[1]["split"] == "test"


def test_a_reset_draws_from_the_pool_and_a_control_value():
    env = gym.make("Arithmetic-v0", pool=5, control=(1.0, 2.0))
    drawn = [env.reset(seed=0)[1], *(env.reset()[1] for _ in range(60))]
    assert {info["task"] for info in drawn} == set(range(5))
    assert {info["control"] for info in drawn} == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 3}, "unknown option 'tasks', allowed are"),
        ({"task": -1}, "task=-1 must be an integer from 0 to 1048575"),
        ({"task": 2**20}, "task=1048576"),
        ({"task": "3"}, "task='3'"),
        ({"task": True}, "task=True"),
        ({"split": "dev"}, "split='dev', allowed are"),
        ({"problem": "37+2a"}, "problem='37\\+2a' must be numbers"),
        ({"problem": "٣٧+25"}, "must be numbers"),
        ({"problem": "037+25"}, "begins with 0"),
        ({"problem": "137+25"}, "at most 2 terms of 2 digits"),
        ({"problem": "37-25"}, "the operations of this environment are '\\+'"),
        ({"problem": "37+25", "task": 3}, "no choice of split"),
        ({"control": 0}, "no control values"),
        ({"hint": 1.0}, "hint=1 must be below 1"),
        ({"hint": -0.1}, "hint=-0.1"),
        ({"context": "é"}, "cannot stand in a prompt"),
        ({"context": "$"}, "cannot stand in a prompt"),
        ({"context": "1" * 99}, "at most 29 characters"),
        ({"context": 3}, "context=3 must be a string"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic().reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": "+/"}, r"operations='\+/' must be one or more of '\+-\*'"),
        ({"operations": "++"}, "each once"),
        ({"operations": ""}, "operations=''"),
        ({"operations": 3}, "operations=3"),
        ({"digits": 0}, "digits=0 must be an integer from 1 to 6"),
        ({"digits": ()}, "at least one level"),
        ({"digits": (2, 2)}, "none twice"),
        ({"digits": {2: 0.0}}, "weight of level 2 must be above 0"),
        ({"digits": {2: float("nan")}}, "weight of level 2"),
        ({"terms": 7}, "terms=7 must be an integer from 2 to 6"),
        ({"operations": "*", "digits": 6, "terms": 3}, "18, with '\\*' at most 16"),
        ({"pool": 0}, "pool=0"),
        ({"pool_seed": -1}, "pool_seed=-1"),
        ({"split": "all"}, "split='all'"),
        ({"reply": "essay"}, "reply='essay'"),
        ({"reply": "columns", "terms": 3}, "reply='columns' needs terms=2"),
        ({"reply": "columns", "operations": "+*"}, "no '\\*'"),
        ({"free": True}, "free and tags are about the working"),
        ({"reply": "columns", "tags": True, "response": True}, "response needs tags"),
        ({"styles": 3}, "styles=3"),
        ({"control": ()}, "control=\\(\\) must be 1 to 8 numbers"),
        ({"control": range(9)}, "1 to 8 numbers"),
        ({"max_reply": 3}, "max_reply=3 must be an integer from 4"),
        ({"reply": "columns", "verbose": True}, "needs free=True"),
        ({"verbose": "yes"}, "verbose='yes' must be True or False"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**arguments)


def test_copies_go_on_alike():
    env = Arithmetic(digits=(1, 2), **TAGS, render_mode="ansi")
    env.reset(seed=5)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        same = copy.deepcopy(env)
        assert other.step("<>9$") == same.step("<>9$")
        assert [other.reset() for _ in range(5)] == [same.reset() for _ in range(5)]


def test_ansi_shows_prompt_reply_and_verdict():
    env = Arithmetic(render_mode="ansi")
    env.reset(options={"problem": "37+25"})
    env.step("52$")
    lines = env.render().splitlines()
    assert lines[0].endswith("37+25=") and lines[1].endswith("52$")
    assert lines[2].startswith("verdict  correct=0, answer=52")


# -- chat models -----------------------------------------------------------------------------------


def test_a_chat_models_prose_is_read():
    env = Arithmetic(reply="lines", free=True, verbose=True)
    task = env.problem("37+25")
    assert task.prompt == "Compute 37+25. Write one step per line, then the answer after ####."
    reply = "First 7 + 5 = 12, carry 1.\n3 + 2 + 1 = 6\n#### 62$"
    found = env.verify(task, reply)
    assert (found["correct"], found["format"], found["labels"]) == (1, 1, [0, 1])
    ends = found["step_ends"]
    assert [reply[begin:end] for begin, end in zip([0, *ends], ends, strict=False)] == [
        *("First 7 + 5 = 12, carry 1.\n", "3 + 2 + 1 = 6\n")
    ]
    assert env.verify(task, "#### 61\n#### 62$")["answer"] is None
    tagged = Arithmetic(reply="lines", free=True, tags=True, verbose=True, styles=2)
    found = tagged.verify(tagged.problem("37+25"), "<think>\n7+5=12\n3+2+1=6\n</think>\n@@@@ 62 $")
    assert (found["correct"], found["format"], found["style"], found["labels"]) == (1, 1, 1, [1, 1])


def test_a_verbose_hint_is_shown_and_not_continued():
    env = Arithmetic(reply="columns", free=True, verbose=True, control=(6, 12))
    task = env.put(env.problem("37+25"), hint=0.5, control=1, context="52?1")
    assert task.prompt.endswith(
        " An earlier attempt, with a remark: 52?1 Control value: 12. Beginning of a solution: 12"
    )
    assert task.prompt in env.observation_space
    assert env.verify(task, env.solution(task))["labels"] == [1, 1]
