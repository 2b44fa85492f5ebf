"""SFT: the worked example, given demonstrations and those of an environment."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

import palaestra
from palaestra.agents.base.text.supervised import sft_loss
from palaestra.agents.base.text_data import Demonstrations

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
OLD = torch.tensor([[-0.5, -1, -0.2], [-0.7, -0.3, 0], [-1.2, -0.4, -0.9], [-0.6, 0, 0]]).double()
NEW = OLD + torch.tensor([[0.1, -0.3, 0.4], [0.25, -0.5, 0], [-0.1, 0.3, -0.4], [0.2, 0, 0]])
TINY = {"model_kwargs": {"layers": 1, "width": 16, "heads": 2}}
ECHO = Demonstrations(["ab:", "ba:", "aa:", "bb:"], ["ab", "ba", "aa", "bb"])


def make(env=None, **arguments):
    cls = palaestra.agents.SFT
    env = cls.example.build() if env is None else env
    return cls("TextPolicy", env, seed=0, device="cpu", **{**cls.example.kwargs, **arguments})


def test_worked_example_of_the_loss(monkeypatch):
    assert float(sft_loss(NEW, MASK)) == pytest.approx(0.65, abs=1e-6)
    agent = make()
    agent.learn(0)
    batch = agent.select([0, 1, 2, 3])
    batch.mask = MASK
    monkeypatch.setattr(agent.policy, "log_probs", lambda batch: NEW)
    assert float(agent.loss(batch)) == pytest.approx(0.65, abs=1e-6)


def test_the_loss_covers_the_end_of_a_reply_and_not_the_prompt():
    agent = make()
    agent.learn(0)
    batch = agent.policy.batch(["3+4=", "5+6="], ["7$", "11$"])
    assert batch.lengths.tolist() == [2, 3]
    stop = agent.policy.tokenizer.eos
    assert (batch.tokens[0, 1], batch.tokens[1, 2]) == (stop, stop)
    log_probs = agent.policy.log_probs(batch)
    probabilities = torch.cat([log_probs[0, :2], log_probs[1]])
    torch.testing.assert_close(agent.loss(batch), -probabilities.mean())


def test_it_learns_given_replies_without_an_environment(tmp_path):
    agent = make(ECHO, learning_rate=0.01, policy_kwargs=TINY, batch_size=4)
    agent.learn(4 * 200)
    assert agent.env is None
    assert agent.predict(list(ECHO.prompts), deterministic=True)[0] == ECHO.replies
    agent.save(tmp_path / "agent")
    loaded = palaestra.agents.SFT.load(tmp_path / "agent")
    assert loaded.predict("ab:", deterministic=True)[0] == "ab"
    with pytest.raises(ValueError, match="no environment to learn in"):
        loaded.learn(1)
    loaded.set_env(Demonstrations(["b:"], ["b"]))  # shorter texts have no other spaces
    assert loaded.learn(1, reset_num_timesteps=False).num_timesteps == 801
    with pytest.raises(ValueError, match="'c' at place 0"):
        make(ECHO, policy_kwargs=TINY).policy.batch(["c"], ["a"])


def test_resume_is_exact_in_the_middle_of_a_pass_and_without_an_environment(tmp_path):
    arguments = {"policy_kwargs": TINY, "batch_size": 3}
    whole = make(ECHO, **arguments).learn(30)
    make(ECHO, **arguments).learn(12, checkpoint=tmp_path)
    resumed = make(ECHO, **arguments).learn(30, checkpoint=tmp_path, resume=True)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name])


def test_a_pass_shows_each_record_once_and_ends_with_the_last_whole_minibatch():
    agent = make(batch_size=5, demonstrations=13)
    agent.learn(0)
    seen = [agent.next_rows() for _ in range(4)]
    first, second = seen[0] + seen[1], seen[2] + seen[3]
    for rows in (first, second):
        assert len(set(rows)) == 10 and set(rows) <= set(range(13))
    assert first != second
    assert len(make(batch_size=64, demonstrations=13).learn(0).next_rows()) == 13


def test_demonstrations_are_of_the_environment_and_as_many_as_asked_for():
    agent = make(demonstrations=20).learn(0)
    env = gym.make("Arithmetic-v0", digits=1).unwrapped
    assert len(agent.records) == 20
    for prompt, reply in agent.records.lessons:
        assert env.verify(env.choose({"problem": prompt[:-1]}), reply)["correct"]
    other = gym.make("Arithmetic-v0", digits=1)
    drawn = agent.records
    agent.set_env(other)
    assert agent.records is None
    assert agent.learn(0).records.prompts != drawn.prompts


def test_it_ends_when_enough_is_solved(tmp_path):
    agent = make(imitate_until=0.0, batch_size=4)
    agent.learn(4 * 80, checkpoint=tmp_path)
    assert agent.num_timesteps == 4 * 50  # at the first look
    assert agent._metrics["train/held_out"] == agent.solved >= 0
    again = make(imitate_until=0.0, batch_size=4)
    again.learn(4 * 80, checkpoint=tmp_path, resume=True)
    assert again.num_timesteps == 4 * 50
    with pytest.raises(ValueError, match="imitate_until=0.5 needs held-out tasks"):
        make(ECHO, policy_kwargs=TINY, imitate_until=0.5).learn(1)


def test_nothing_to_imitate_is_an_error():
    with pytest.raises(ValueError, match="holds no records"):
        make(demonstrations=0).learn(1)
