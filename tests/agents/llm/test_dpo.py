"""DPO and IPO: the worked example, and what the losses do to a policy."""

from __future__ import annotations

import math

import gymnasium as gym
import pytest
import torch

import palaestra
from palaestra.agents.base.preference import PairBatch
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.base.text_data import Preferences
from palaestra.agents.llm.dpo import dpo_losses, ipo_losses

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
OLD = torch.tensor([[-0.5, -1, -0.2], [-0.7, -0.3, 0], [-1.2, -0.4, -0.9], [-0.6, 0, 0]]).double()
NEW = OLD + torch.tensor([[0.1, -0.3, 0.4], [0.25, -0.5, 0], [-0.1, 0.3, -0.4], [0.2, 0, 0]])
REFERENCE = OLD + torch.tensor([[-0.1, 0.2, 0], [0.3, 0.1, 0], [0, -0.2, 0.1], [0.1, 0, 0]])
# Reply 0 is preferred to 1 and reply 2 to 3: the preferred ones come first.
ORDER = torch.tensor([0, 2, 1, 3])


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def make(name="DPO", env=None, **arguments):
    cls = getattr(palaestra.agents, name)
    env = cls.example.build() if env is None else env
    changed = {**cls.example.kwargs, **arguments}
    return cls("TextPolicy", env, seed=0, device="cpu", **changed)


def learned(name, monkeypatch, **arguments):
    """The loss that an agent computes of the worked example, and its comparisons."""
    agent = make(name, **arguments)
    agent.learn(0)
    log_probs = NEW[ORDER].clone().requires_grad_()
    monkeypatch.setattr(agent.policy, "log_probs", lambda batch: log_probs)
    monkeypatch.setattr(agent.reference, "log_probs", lambda batch: REFERENCE[ORDER])
    tokens, mask = torch.zeros(4, 3).long(), MASK[ORDER]
    replies = TokenBatch(tokens[:, :1], mask[:, :1], tokens, mask)
    pairs = PairBatch(replies, torch.ones(2))
    loss = agent.loss(pairs)
    loss.backward()
    return agent, pairs, loss, log_probs.grad


def test_worked_example_of_dpo(monkeypatch):
    agent, pairs, loss, gradient = learned("DPO", monkeypatch, beta=0.1)
    close(pairs.scores, [-1.5 + 1.6, -2.7 + 2.6, -1.25 + 0.6, -0.4 + 0.5])
    close(pairs.differences, [0.75, -0.2])
    close(loss, 0.67977366)
    push = 0.1 * torch.sigmoid(-0.1 * torch.tensor([0.75, -0.2])) / 2
    expected = torch.cat([-push, push])[:, None] * MASK[ORDER]
    close(gradient, expected)
    logged = agent.noted()
    assert logged["train/accuracy"] == 0.5
    assert logged["train/difference"] == pytest.approx(0.275)
    assert logged["train/chosen"] == pytest.approx(0.0, abs=1e-6)
    assert logged["train/rejected"] == pytest.approx(-0.275)


def test_worked_example_of_ipo(monkeypatch):
    _, pairs, loss, _ = learned("IPO", monkeypatch, tau=0.1)
    close(loss, 22.55125)
    close(ipo_losses(pairs.differences, 0.1), [(0.75 - 5) ** 2, 5.2**2])


def test_losses_of_dpo_stay_finite_and_their_gradient_is_that_of_the_paper():
    h = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4]).double().requires_grad_()
    losses = dpo_losses(h, 0.5)
    losses.sum().backward()
    close(losses, [5000, math.log1p(math.exp(1.5)), math.log(2), math.log1p(math.exp(-1.5)), 0])
    close(h.grad, -0.5 * torch.sigmoid(-0.5 * h.detach()))


def test_ipo_stops_where_dpo_goes_on():
    at = torch.tensor([5.0, 8.0]).requires_grad_()
    ipo_losses(at, 0.1).sum().backward()
    close(at.grad, [0, 6])
    at.grad = None
    dpo_losses(at, 0.1).sum().backward()
    assert bool((at.grad < 0).all())


@pytest.mark.parametrize("name", ["DPO", "IPO"])
def test_before_the_first_step_policy_and_reference_agree(name):
    agent = make(name)
    first = []
    agent.learn(8, callback=lambda given, _: first.append(given["self"]._metrics) or True)
    found = first[0]
    assert found["train/difference"] == found["train/chosen"] == found["train/rejected"] == 0
    assert found["train/accuracy"] == 0.5  # ties
    expected = math.log(2) if name == "DPO" else 25
    assert found["train/loss"] == pytest.approx(expected, rel=1e-6)


def test_identical_replies_teach_nothing():
    env = gym.make("Arithmetic-v0", digits=1)
    data = Preferences(["3+4=", "5+5="], ["7$", "10$"], ["7$", "10$"], env=env)
    agent = make(env=data, batch_size=2)
    agent.learn(0)
    with torch.no_grad():  # away from the reference: scores are not all 0
        for parameter in agent.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    agent.policy.optimizer.zero_grad()
    pairs = agent.select([0, 1])
    loss = agent.loss(pairs)
    close(loss, math.log(2))
    assert float(pairs.scores.detach().abs().min()) > 1e-3
    loss.backward()
    gradients = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    assert gradients
    for gradient in gradients:
        close(gradient, torch.zeros_like(gradient), 1e-6)


def test_the_policy_comes_to_prefer_what_is_preferred():
    agent = make(learning_rate=1e-3, beta=0.5)
    agent.learn(8)
    frozen = {name: value.clone() for name, value in agent.reference.state_dict().items()}
    agent.learn(8 * 60, reset_num_timesteps=False)
    assert agent._metrics["train/accuracy"] > 0.9
    assert agent._metrics["train/chosen"] > agent._metrics["train/rejected"]
    for name, value in agent.reference.state_dict().items():
        assert torch.equal(value, frozen[name])


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("DPO", {"beta": 0.0}, "beta must be above 0, got 0.0"),
        ("IPO", {"tau": -0.1}, "tau must be above 0, got -0.1"),
        ("DPO", {"pairs": 0}, "pairs must be at least 1, got 0"),
        ("DPO", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(name, **wrong)


@pytest.mark.slow
def test_dpo_on_its_own_pairs_solves_more_than_its_warm_start():
    agent = palaestra.agents.DPO(
        "TextPolicy",
        gym.make("Arithmetic-v0"),
        seed=0,
        device="cpu",
        pairs=600,
        beta=1.0,
        learning_rate=1e-4,
    )
    tests = range(1000)
    agent.learn(0)
    before = agent.accuracy(tests)
    agent.learn(3 * 600, reset_num_timesteps=False)
    assert agent.accuracy(tests) > before + 0.02
