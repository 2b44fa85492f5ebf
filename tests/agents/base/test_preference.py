"""Recorded texts, pairs drawn from a policy, and learning from comparisons."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.preference import PreferenceAlgorithm
from palaestra.agents.base.text.attempts import attempt
from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.text_data import Demonstrations, Preferences

TINY = {"model_kwargs": {"layers": 1, "width": 16, "heads": 2}}
PAIRS = Preferences(["ab", "b", "aab"], ["bb.", "a.", "."], ["b.", "aaaa.", "a"], stop=".")


def text_env():
    return gym.make("Arithmetic-v0", digits=1)


def make(env=None, name="DPO", **arguments):
    cls = getattr(palaestra.agents, name)
    env = cls.example.build() if env is None else env
    changed = {**cls.example.kwargs, **arguments}
    return cls("TextPolicy", env, seed=0, device="cpu", **changed)


def written(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# -- data ------------------------------------------------------------------------------------------


def test_texts_without_an_environment_bring_their_own_language():
    assert PAIRS.language == {"alphabet": ".ab", "stop": "."}
    assert PAIRS.lessons == [("ab", "bb."), ("b", "a."), ("aab", ".")]
    for text in (*PAIRS.chosen, *PAIRS.rejected):
        assert PAIRS.action_space.contains(text)
    assert PAIRS.observation_space.contains("aab")
    in_env = Preferences(["1+1="], ["2$"], ["3$"], env=text_env())
    assert in_env.language == {"alphabet": text_env().unwrapped.alphabet, "stop": "$"}
    assert in_env.action_space == text_env().action_space


def test_a_file_is_read_with_or_without_margins(tmp_path):
    pair = {"prompt": "a", "chosen": "ä", "rejected": "c", "source": "not read"}
    plain = Preferences.from_jsonl(written(tmp_path / "plain", pair, "", pair))
    assert (plain.prompts, plain.chosen, plain.rejected) == (["a"] * 2, ["ä"] * 2, ["c"] * 2)
    assert plain.margins is None
    file = written(tmp_path / "margins", pair | {"margin": 2}, pair | {"margin": 0.5})
    assert Preferences.from_jsonl(file, stop="c").margins == [2, 0.5]
    assert Preferences.from_jsonl(file, stop="c").language["stop"] == "c"
    shown = Demonstrations.from_jsonl(written(tmp_path / "sft", {"prompt": "a", "reply": "b"}))
    assert shown.lessons == [("a", "b")]


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([PAIR, "{"], "pairs.jsonl, line 2: no JSON"),
        ([PAIR, "[1]"], "pairs.jsonl, line 2: must be a JSON object, got list"),
        ([PAIR, {"prompt": "a"}], "pairs.jsonl, line 2: 'chosen' must be a text, got None"),
        ([PAIR | {"rejected": 3}], "pairs.jsonl, line 1: 'rejected' must be a text, got 3"),
        ([PAIR | {"chosen": ""}], r"line 1: 'chosen' is empty: a complete reply ends with '\$'"),
        (
            [PAIR | {"margin": 1}, "", PAIR],
            "pairs.jsonl, line 3: 'margin' must be a finite number, got None",
        ),
        ([PAIR, PAIR | {"margin": 1}], "line 2: 'margin' stands here and not in the first line"),
        ([PAIR | {"margin": float("inf")}], "line 1: 'margin' must be a finite number, got inf"),
        ([PAIR | {"margin": True}], "'margin' must be a finite number, got True"),
        ([""], "pairs.jsonl: the file is empty"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, records, message):
    file = written(tmp_path / "pairs.jsonl", *records)
    with pytest.raises(ValueError, match=message):
        Preferences.from_jsonl(file, stop="$")


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing: there is no such file"):
        Preferences.from_jsonl(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary: the file is not UTF-8"):
        Preferences.from_jsonl(tmp_path / "binary")


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        (([], [], []), {}, "the data set holds no records"),
        (("a", ["b"], ["c"]), {}, "prompts must be a list of texts, got the text 'a'"),
        ((["a"], ["b", "c"], ["d"]), {}, "there are 2 chosen and 1 prompts"),
        ((["a"], ["b"], ["c"], [1.0, 2.0]), {}, "there are 2 margins and 1 prompts"),
        ((["a"], [None], ["c"]), {}, r"chosen\[0\] must be a text, got None"),
        ((["a"], ["b"], ["c"], [float("nan")]), {}, r"margins\[0\] must be a finite number"),
        ((["a"], ["b"], [""]), {"stop": "$"}, r"rejected\[0\] is empty"),
        ((["a"], ["b"], ["c"]), {"env": gym.make("CartPole-v1")}, "text environment is needed"),
    ],
)
def test_texts_that_are_no_comparisons_are_refused(columns, arguments, message):
    with pytest.raises(ValueError, match=message):
        Preferences(*columns, **arguments)


# -- pairs of a policy -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner():
    """A policy that solves some of its tasks."""
    env = text_env()
    policy = TextPolicy(env.observation_space, env.action_space, **TINY, stop="$", seed=0)
    records = env.unwrapped.demonstrations(500, seed=0)
    policy.warm_start([(r.prompt, r.reply) for r in records], 60, learning_rate=1e-2)
    return policy


def test_sampled_pairs_are_what_the_environment_prefers(learner):
    env = text_env()
    learner.set_seed(1)
    found = Preferences.sampled(env, learner, 20, seed=3, batch_size=8)
    assert len(found) == 20
    judge = env.unwrapped
    for prompt, chosen, rejected, margin in zip(
        found.prompts, found.chosen, found.rejected, found.margins, strict=True
    ):
        task = judge.choose({"problem": prompt[:-1]})
        better, worse = (judge.score(judge.verify(task, text)) for text in (chosen, rejected))
        assert better - worse == margin > 0
    learner.set_seed(1)
    again = Preferences.sampled(env, learner, 20, seed=3, batch_size=8)
    assert again.columns() == found.columns()
    learner.set_seed(1)
    assert Preferences.sampled(env, learner, 20, seed=4).prompts != found.prompts


def test_the_best_of_several_replies_is_preferred_to_the_worst(learner):
    class Longer(type(text_env().unwrapped)):
        """Pays for every character."""

        def score(self, verdict):
            return float(verdict["length"])

    env = Longer(digits=1)
    learner.set_seed(1)
    found = Preferences.sampled(env, learner, 6, seed=3, replies=5, batch_size=6)
    learner.set_seed(1)
    ids = np.random.default_rng(3).choice(env.pool_size, 6, replace=False)
    given = attempt(env, learner, ids.tolist(), 5)
    assert given.scores.shape == given.correct.shape == (6, 5)
    lengths = [[len(reply) for reply in own] for own in given.replies]
    assert given.scores.tolist() == lengths
    rows = [row for row in range(6) if min(lengths[row]) < max(lengths[row])]
    for pair, row in zip(range(6), rows, strict=False):
        assert found.prompts[pair] == given.tasks[row].prompt
        assert found.chosen[pair] == max(given.replies[row], key=len)
        assert found.rejected[pair] == min(given.replies[row], key=len)
        assert found.margins[pair] == max(lengths[row]) - min(lengths[row])


def test_a_score_that_tells_nothing_apart_is_an_error(learner):
    class Blind(type(text_env().unwrapped)):
        """Pays the same for all."""

        def score(self, verdict):
            return 1.0

    with pytest.raises(ValueError, match="128 tasks gave 0 pairs of 1"):
        Preferences.sampled(Blind(digits=1), learner, 1)
    for wrong in ({"n": 0}, {"n": 1, "replies": 1}, {"n": 1, "batch_size": 0}):
        with pytest.raises(ValueError, match="n and batch_size are at least 1"):
            Preferences.sampled(text_env(), learner, **wrong)


def test_a_score_that_is_not_finite_is_named(learner):
    class Broken(type(text_env().unwrapped)):
        """Pays nothing that can be counted."""

        def score(self, verdict):
            return float("nan")

    with pytest.raises(ValueError, match="has the score nan: scores are finite"):
        Preferences.sampled(Broken(digits=1), learner, 1)


def test_pairs_from_demonstrations_need_no_policy():
    env = text_env()
    found = Preferences.from_demonstrations(env, 32)
    assert 16 < len(found) <= 32
    judge = env.unwrapped
    for prompt, chosen, rejected in zip(found.prompts, found.chosen, found.rejected, strict=True):
        task = judge.choose({"problem": prompt[:-1]})
        assert judge.verify(task, chosen)["correct"] and not judge.verify(task, rejected)["correct"]
    assert found.margins == [1.0] * len(found)


# -- the algorithm ---------------------------------------------------------------------------------


def test_a_minibatch_has_the_preferred_replies_first():
    agent = make(batch_size=2)
    agent.learn(0)
    data = agent.records
    pairs = agent.select([3, 1])
    assert len(pairs) == 2 and len(pairs.replies) == 4
    texts = agent.policy.tokenizer.decode(pairs.replies.tokens, pairs.replies.mask)
    assert texts == [data.chosen[3], data.chosen[1], data.rejected[3], data.rejected[1]]
    assert pairs.replies.groups.tolist() == [0, 1, 0, 1]
    assert pairs.margins.tolist() == [data.margins[3], data.margins[1]]
    with pytest.raises(ValueError, match="there are no values yet"):
        _ = pairs.differences
    pairs.scores = torch.tensor([3.0, 1.0, 1.0, 2.0])
    assert pairs.differences.tolist() == [2.0, -1.0]


def test_scores_are_log_ratios_of_whole_replies():
    agent = make()
    agent.learn(8 * 4)
    pairs = agent.select(range(6))
    scores = agent.score(pairs)
    prompts = [agent.records.prompts[row] for row in range(6)]
    replies = [agent.records.chosen[row] for row in range(6)]
    alone = agent.policy.batch(prompts, replies)
    gaps = agent.policy.log_probs(alone) - agent.reference.log_probs(alone)
    torch.testing.assert_close(scores[:6], gaps.sum(dim=1), rtol=1e-4, atol=1e-5)
    assert float(scores.detach().abs().max()) > 1e-3
    assert scores.requires_grad and not pairs.replies.reference_log_probs.requires_grad


def test_pairs_are_drawn_from_the_policy_after_its_warm_start():
    agent = make(text_env(), pairs=10, batch_size=4)
    agent.learn(0)
    assert agent.started and len(agent.records) == 10
    assert agent.dataset is None and agent.records.margins is not None
    first = agent.records.columns()
    agent.learn(8)
    assert agent.records.columns() == first  # the same pairs for as long as the environment stays
    agent.set_env(text_env())
    agent.learn(1, reset_num_timesteps=False)
    assert agent.records.columns() != first


def test_resume_is_exact_with_drawn_pairs(tmp_path):
    arguments = {"pairs": 10, "batch_size": 3}
    whole = make(text_env(), **arguments).learn(30)
    make(text_env(), **arguments).learn(12, checkpoint=tmp_path)
    resumed = make(text_env(), **arguments).learn(30, checkpoint=tmp_path, resume=True)
    assert resumed.records.columns() == whole.records.columns()
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name])


def test_a_loaded_agent_keeps_its_pairs_and_its_reference(tmp_path):
    agent = make(text_env(), pairs=10, batch_size=4).learn(12)
    agent.save(tmp_path / "agent")
    loaded = palaestra.agents.DPO.load(tmp_path / "agent", env=text_env())
    assert loaded.records.columns() == agent.records.columns()
    for name, value in agent.reference.state_dict().items():
        assert torch.equal(value, loaded.reference.state_dict()[name])
    loaded.learn(4, reset_num_timesteps=False)
    assert loaded.num_timesteps == 16


def test_comparisons_from_a_file_need_no_environment(tmp_path):
    agent = make(PAIRS, batch_size=3, learning_rate=0.01, policy_kwargs=TINY)
    agent.learn(3 * 60)
    assert agent.env is None
    assert agent._metrics["train/accuracy"] == 1
    assert set(agent.predict("ab")[0]) <= set(".ab")
    agent.save(tmp_path / "agent")
    loaded = palaestra.agents.DPO.load(tmp_path / "agent", env=PAIRS)
    assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 183


def test_the_warm_start_imitates_preferred_replies_where_there_is_no_environment():
    one = Preferences(["a", "b"], ["ba", "ab"], ["aa", "bb"])
    agent = make(one, demonstrations=2, policy_kwargs=TINY)
    agent.learn(0)
    assert agent.predict(["a", "b"], deterministic=True)[0] == ["ba", "ab"]


def test_what_was_set_later_replaces_what_was_given():
    agent = make(batch_size=4)
    given = agent.records
    other = Preferences.from_demonstrations(text_env(), seed=5)
    agent.set_env(other)
    assert agent.records is other is not given
    agent.set_env(text_env())  # only to evaluate in
    assert agent.records is other
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.set_env(Preferences(["1+1="], ["2$"], ["3$"], env=gym.make("Arithmetic-v0")))
    assert agent.records is other


def test_a_subclass_writes_its_loss_and_gets_what_it_needs():
    class Longest(PreferenceAlgorithm):
        """Has no reference; likes the replies that it finds likely."""

        uses_reference = False

        def score(self, pairs):
            pairs.replies.log_probs = self.policy.log_probs(pairs.replies)
            return pairs.replies.log_probs.sum(dim=1)

        def pair_losses(self, pairs):
            return (1 - pairs.differences).clamp(min=0) * pairs.margins

    agent = Longest("TextPolicy", PAIRS, seed=0, policy_kwargs=TINY, demonstrations=0)
    agent.learn(3 * 5)
    assert agent.reference is None
    assert agent._metrics["train/loss"] >= 0


@pytest.mark.parametrize("name", ["DPO", "BradleyTerry", "SFT"])
def test_an_environment_without_texts_is_refused(name):
    with pytest.raises(ValueError, match="needs a TextEnv"):
        make(gym.make("CartPole-v1"), name)
