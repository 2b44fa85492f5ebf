"""`GSM8K-v0`: a user's file, and the verifier against the data set's own marking."""

from __future__ import annotations

import copy
import json
import pickle
import re
from fractions import Fraction
from pathlib import Path

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra  # noqa: F401
from palaestra.envs.text.gsm8k import GSM8K, STOP, final_number

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "text"
ROWS = [
    {"question": f"Tom has {n} apples and eats one. How many €?", "answer": worked}
    for n, worked in (
        (5, "He has 5-1=<<5-1=4>>4.\n#### 4"),
        (1101, "That is 1101-1=<<1101-1=1100>>1100\n#### 1,100"),
        (3, "Half of them: #### 1.5"),
        (0, "He owes one: 0-1=<<0-1=2>>-1\n#### -1"),
        (8, "It makes 8-1=<<8-1=7>>7\n#### 7"),
    )
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


@pytest.fixture
def env(path, tmp_path):
    other = tmp_path / "test.jsonl"
    other.write_text(json.dumps({"question": "1+1?", "answer": "#### 2"}), encoding="utf-8")
    return GSM8K(path, other, render_mode="ansi")


def test_tasks_are_the_lines_of_the_file(env):
    assert (env.number_of_tasks("train"), env.number_of_tasks("test")) == (5, 1)
    prompt, info = env.reset(options={"task": 1})
    assert prompt == ROWS[1]["question"] + "\nWork it out, then write #### and the number."
    assert info == {"task": 1, "split": "train", "truth": 1100.0}
    assert "€" in env.alphabet and prompt in env.observation_space
    _, reward, terminated, truncated, info = env.step("so it is #### 1100" + STOP)
    assert (reward, terminated, truncated, info["answer"]) == (1.0, True, False, 1100.0)
    with pytest.raises(ValueError, match="task=5 must be an integer from 0 to 4"):
        env.reset(options={"task": 5})
    with pytest.raises(ValueError, match="asked for 6 ids in split 'train', found 5"):
        env.task_ids(6, "train")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("#### 1,100", 1100),
        ("#### 1100.0", 1100),
        ("####1100", 1100),
        ("work\n####  1100 \n", 1100),
        ("#### $1,100", 1100),
        ("#### 1 100", None),
        ("#### 1,10,0", None),
        ("#### 1100 apples", None),
        ("#### 1100.", None),
        ("#### 1e3", None),
        ("#### ١١٠٠", None),
        ("#### １１００", None),
        ("#### 1099\n#### 1100", None),
        ("##### 1100", None),
        ("#### #### 1100", None),
        ("### 1100", None),
        ("1100", None),
        ("1100 ####", None),
        ("#### 1100\u200b", None),
        ("#### " + "9" * 5000, None),
        ("#### 1101-1", None),
    ],
)
def test_the_answer_is_the_number_behind_the_only_mark(env, reply, answer):
    found = env.verify(1, reply + STOP)
    assert found["answer"] == answer
    assert found["correct"] == found["format"] == int(answer is not None)


def test_a_reply_that_was_cut_has_no_answer(env):
    assert env.verify(1, "#### 1100")["answer"] is None
    assert env.verify(1, "#### 1100" + STOP + "#### 7")["correct"] == 1


def test_calculations_are_checked_exactly(env):
    reply = "<<5-1=4>> <<0.1+0.2=0.3>> <<1/3=0.33>> <<2**9=512>> <<(2+4)*3=18>> <<5-1=>>" + STOP
    found = env.verify(0, reply)
    assert (found["calculations"], found["calculations_right"]) == (5, 3)
    assert env.verify(3, env.solution(3))["calculations_right"] == 0  # 0-1 is not 2


def test_demonstrations_are_the_worked_solutions(env, path):
    for record in env.demonstrations(20, 0):
        assert record.reply == ROWS[record.task]["answer"] + STOP
        assert env.verify(record.task, record.reply)["correct"] == 1
    bare = GSM8K(path, annotations=False, pool=1)
    assert "<<" not in "".join(record.reply for record in bare.demonstrations(20, 0))


def test_a_single_file_is_split_by_content(tmp_path):
    rows = [{"question": f"What is {n}+1?", "answer": f"#### {n + 1}"} for n in range(300)]
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    env = GSM8K(file)
    splits = [{env.task(i, s).prompt for i in range(env.number_of_tasks(s))} for s in env.rows]
    assert not splits[0] & splits[1]
    assert len(splits[0]) + len(splits[1]) == 300 and 35 < len(splits[1]) < 90


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("not json\n", "line 1: no JSON"),
        ("\n[1]\n", "line 2: must be a JSON object, got list"),
        ('{"question": "a"}\n', "line 1: 'answer' must be a text, got None"),
        ('{"question": 3, "answer": "#### 1"}\n', "'question' must be a text, got 3"),
        ('{"question": "a", "answer": "1"}\n', "must end in '#### number', got '1'"),
        ('{"question": "a\\u0003", "answer": "#### 1"}\n', "control character 3"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, text, message):
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        GSM8K(file)


def test_other_bad_arguments_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="train=None must be the path"):
        gym.make("GSM8K-v0")
    with pytest.raises(ValueError, match="there is no such file"):
        GSM8K(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"line 1: this question is also in line 1 of"):
        GSM8K(path, path)
    with pytest.raises(ValueError, match="pool=9 must be an integer from 1 to"):
        GSM8K(path, pool=9)
    with pytest.raises(ValueError, match="instruction=3"):
        GSM8K(path, instruction=3)
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="the file is not UTF-8"):
        GSM8K(tmp_path / "latin.jsonl")


def test_copies_go_on_alike(env):
    env.reset(seed=1)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert other.step("#### 4" + STOP)[0] == copy.deepcopy(env).step("#### 4" + STOP)[0]


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text(alphabet="#0123.,-$<>=+ \n", max_size=40)))
def test_any_string_has_at_most_one_number(text):
    found = final_number(text)
    if found is not None:
        assert text.count("####") == 1
        digits = "".join(re.findall("[0-9.-]", text.partition("####")[2]))
        assert Fraction(digits) == found


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.exists(), reason=f"no data in {DATA}")
def test_the_verifier_agrees_with_the_data_sets_own_marking():
    """The marking of the authors: the digits behind ####, without commas, as text."""
    env = GSM8K(DATA / "gsm8k_train.jsonl", DATA / "gsm8k_test.jsonl")
    assert (env.number_of_tasks("train"), env.number_of_tasks("test")) == (7473, 1319)
    calculations = right = 0
    for split in ("train", "test"):
        file = DATA / f"gsm8k_{split}.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        for index, line in enumerate(lines):
            marked = re.search(r"#### (-?[0-9.,]+)", line["answer"])[1].replace(",", "")
            task = env.task(index, split)
            found = env.verify(task, env.solution(task))
            assert found["correct"] == 1 and task.truth == Fraction(marked)
            wrong = env.solution(task).replace("#### ", "#### 1")
            assert env.verify(task, wrong)["correct"] == 0
            calculations += found["calculations"]
            right += found["calculations_right"]
    assert (calculations, right) == (27998, 27964)  # 34 of them are rounded, or wrong
