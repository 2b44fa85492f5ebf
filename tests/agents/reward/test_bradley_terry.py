"""Bradley and Terry's reward model: the worked example, its scores, and learning them."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.text.measures import pair_accuracy
from palaestra.agents.base.text_data import Preferences
from palaestra.agents.reward.bradley_terry import bradley_terry_losses

CHOSEN, REJECTED = torch.tensor([1.2, 0.3]).double(), torch.tensor([0.4, 0.9]).double()


def make(env=None, **arguments):
    cls = palaestra.agents.BradleyTerry
    env = cls.example.build() if env is None else env
    changed = {**cls.example.kwargs, **arguments}
    return cls("TextPolicy", env, seed=0, device="cpu", **changed)


def test_worked_example_of_the_loss():
    plain = bradley_terry_losses(CHOSEN, REJECTED).mean()
    assert float(plain) == pytest.approx(0.70429431, abs=1e-7)
    both = bradley_terry_losses(CHOSEN, REJECTED, margin=0.5, centre=0.01).mean()
    assert float(both) == pytest.approx(0.99084528, abs=1e-7)


def test_worked_example_in_the_agent(monkeypatch):
    data = Preferences(["1+1=", "2+2="], ["2$", "4$"], ["3$", "5$"], env=gym.make("Arithmetic-v0"))
    scores = torch.cat([CHOSEN, REJECTED])
    for arguments, expected in (
        ({"margin": 0.0, "centre": 0.0}, 0.70429431),
        ({"margin": 0.5, "centre": 0.01}, 0.99084528),
    ):
        agent = make(data, **arguments)
        monkeypatch.setattr(agent.policy, "classify", lambda batch: scores[:, None])
        assert float(agent.loss(agent.select([0, 1]))) == pytest.approx(expected, abs=1e-6)
        assert agent.noted()["train/accuracy"] == 0.5


def test_margins_of_the_data_scale_the_margin(monkeypatch):
    env = gym.make("Arithmetic-v0")
    data = Preferences(["1+1="] * 2, ["2$"] * 2, ["3$"] * 2, [2.0, 0.0], env=env)
    agent = make(data, margin=0.5, centre=0.0)
    monkeypatch.setattr(agent.policy, "classify", lambda batch: torch.zeros(4, 1))
    expected = (math.log1p(math.e) + math.log(2)) / 2
    assert float(agent.loss(agent.select([0, 1]))) == pytest.approx(expected, abs=1e-6)


def test_ties_count_half():
    assert float(pair_accuracy(torch.tensor([1.0, 0.0, -2.0, 3.0]))) == 0.625
    assert float(pair_accuracy(torch.zeros(3))) == 0.5


def test_equal_scores_push_apart_and_a_centre_pulls_to_zero():
    scores = torch.tensor([2.0, 2.0]).requires_grad_()
    bradley_terry_losses(scores[:1], scores[1:]).sum().backward()
    assert scores.grad.tolist() == pytest.approx([-0.5, 0.5])
    scores.grad = None
    bradley_terry_losses(scores[:1], scores[1:], centre=0.1).sum().backward()
    assert scores.grad.tolist() == pytest.approx([0.3, 1.3])


def test_it_learns_which_replies_are_preferred_and_serves_as_a_scorer():
    """Of two numbers the longer one is preferred."""
    rng = np.random.default_rng(0)
    long, short = ([f"{rng.integers(low, 10 * low)}$" for _ in range(64)] for low in (100, 1))
    env = gym.make("Arithmetic-v0", digits=1)
    prompts = [record.prompt for record in env.unwrapped.demonstrations(64, seed=0)]
    agent = make(Preferences(prompts, long, short, env=env), learning_rate=3e-3, batch_size=16)
    agent.learn(64 * 12)
    assert agent._metrics["train/accuracy"] == 1
    fresh = ["123$", "7$", "481$", "5$"]
    scores = agent.scores(["8+8="] * 4, fresh)
    assert scores.shape == (4,) and scores.dtype == np.float64
    assert min(scores[0], scores[2]) > max(scores[1], scores[3])

    cls = palaestra.agents.BestOfN
    chooser = cls("TextPolicy", env, seed=0, scorer=agent.scores, **cls.example.kwargs)
    chooser.learn(0)
    texts = chooser.policy.generate(
        "8+8=", 4, temperature=1.0, generator=chooser.draws_of("8+8=")
    ).texts
    best = texts[int(agent.scores(["8+8="] * 4, texts).argmax())]
    assert chooser.predict("8+8=", deterministic=True)[0] == best


def test_scores_do_not_depend_on_how_many_are_asked_for():
    agent = make(batch_size=3)
    agent.learn(0)
    prompts, replies = ["1+1=", "2+3=", "9+9=", "4+5="], ["2$", "12345", "18$", "9$"]
    together = agent.scores(prompts, replies)
    alone = [agent.scores([p], [r])[0] for p, r in zip(prompts, replies, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert agent.scores([], []).shape == (0,)
    with pytest.raises(ValueError, match="got 2 prompts and 1 replies"):
        agent.scores(["1+1=", "1+1="], ["2$"])


def test_it_learns_from_pairs_that_the_environment_judges():
    env = gym.make("Arithmetic-v0", digits=1)
    agent = make(env, pairs=8, batch_size=8)
    agent.learn(16)
    judge = env.unwrapped
    for prompt, chosen, rejected in zip(
        agent.records.prompts, agent.records.chosen, agent.records.rejected, strict=True
    ):
        task = judge.choose({"problem": prompt[:-1]})
        assert judge.verify(task, chosen)["correct"] and not judge.verify(task, rejected)["correct"]
    assert agent.reference is None
    assert agent.num_timesteps == 16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"margin": -1.0}, "margin and centre are at least 0, got margin=-1.0"),
        ({"centre": -0.1}, "margin and centre are at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
