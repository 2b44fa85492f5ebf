"""Conservative Q-learning with discrete actions: losses against numbers, and low values."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from palaestra.agents import DiscreteCQL, QuantileCQL
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.base_discrete_cql import discrete_gap, random_play


def made(cls=DiscreteCQL, data=None, **arguments):
    data = random_play(gym.make("FiniteMDP-v0")) if data is None else data
    return cls("MlpPolicy", data, **{**cls.example.kwargs, "seed": 0, "device": "cpu", **arguments})


def as_table(net, rows):
    """Let a network without hidden layers give these outputs [states, ...]."""
    (layer,) = [each for each in net.q_net if isinstance(each, torch.nn.Linear)]
    layer.weight.data = torch.tensor(rows).reshape(len(rows), -1).T.contiguous()
    layer.bias.data.zero_()


def test_worked_example_of_the_gap():
    found = discrete_gap(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2]))
    assert_close(found, torch.tensor([2.407606, 1.098612]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("ended", "error"), [(0.0, 0.2025), (1.0, 0.0)])
def test_worked_example_of_the_loss(ended, error):
    agent = made(gamma=0.9, conservatism=2.0, policy_kwargs={"net_arch": []})
    as_table(agent.critic, [[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    as_table(agent.critic_target, [[0.5, 1.0], [2.0, 0.0], [1.0, 1.0]])
    batch = {
        "observations": torch.tensor([0, 2]),
        "actions": torch.tensor([0, 1]),
        "rewards": torch.tensor([1.0, 0.0]),
        "next_observations": torch.tensor([1, 0]),
        "terminations": torch.tensor([0.0, ended]),
    }
    # The network's own choices are 1 and 1, the slow copy says 0 and 1: y = 1, 0.9 against 1, 0.
    assert_close(agent.critic_targets(batch), torch.tensor([1.0, 0.9 * (1 - ended)]))
    loss = agent.critic_loss(batch).detach()
    gap = 0.5 * (1.313262 + 3.048587)
    assert float(agent.noted["error"]) == pytest.approx(error, abs=1e-6)
    assert float(loss) == pytest.approx(error + 2 * gap, abs=1e-5)


def test_worked_example_of_the_quantile_loss():
    agent = made(QuantileCQL, quantiles=2, policy_kwargs={"net_arch": []})
    table = [[[0.0, 2.0], [1.0, 1.0]], [[0.0] * 2] * 2, [[0.0] * 2] * 2]
    as_table(agent.critic, table)
    as_table(agent.critic_target, table)
    batch = {
        "observations": torch.tensor([0]),
        "actions": torch.tensor([0]),
        "rewards": torch.tensor([1.0]),
        "next_observations": torch.tensor([0]),
        "terminations": torch.tensor([1.0]),
    }
    assert_close(agent.critic_targets(batch), torch.ones(1, 2))
    # 0.25 * 0.5 for either quantile; both actions are worth 1, so the gap is log 2
    assert float(agent.critic_loss(batch).detach()) == pytest.approx(0.25 + 0.693147, abs=1e-5)
    batch["terminations"] = torch.tensor([0.0])
    assert_close(agent.critic_targets(batch), torch.tensor([[1.0, 2.98]]))  # of action 0: a tie


@pytest.mark.parametrize("cls", [DiscreteCQL, QuantileCQL])
def test_unseen_actions_are_worth_less_than_to_a_plain_network(cls):
    data = OfflineDataset.record(gym.make("FiniteMDP-v0"), 300, act=lambda state: 0)
    values = []
    for weight in (0.0, 1.0):
        agent = made(
            *(cls, data),
            **{"conservatism": weight, "learning_rate": 1e-3, "batch_size": 64, "tau": 0.05},
        ).learn(200)
        with torch.no_grad():
            values.append(agent.critic(torch.arange(3)))
        assert agent.predict(np.arange(3))[0].tolist() == [0, 0, 0]
    assert (values[1][:, 1] < values[0][:, 1] - 0.5).all()
    assert (values[1][:, 1] < values[1][:, 0]).all()


def test_the_slow_copy_follows_by_tau():
    agent = made(tau=0.25)
    before = [each.clone() for each in agent.critic_target.parameters()]
    agent.learn(1)
    for old, slow, fast in zip(
        before, agent.critic_target.parameters(), agent.critic.parameters(), strict=True
    ):
        assert_close(slow, 0.75 * old + 0.25 * fast)


@pytest.mark.parametrize("missing", ["rewards", "next_observations", "terminations"])
def test_data_that_lack_a_column_are_refused(missing):
    data = random_play(gym.make("FiniteMDP-v0"))
    with pytest.raises(ValueError, match=missing):
        made(data=replace(data, **{missing: None}))
    with pytest.raises(ValueError, match=missing):
        made().set_env(replace(data, **{missing: None}))


def test_wrong_spaces_and_arguments_are_refused():
    with pytest.raises(ValueError, match="DiscreteCQL needs actions in Discrete"):
        made(data=OfflineDataset.record(gym.make("LineWorld-v0"), 9))
    shifted = gym.spaces.Discrete(2, start=1)
    data = OfflineDataset(
        *([0], [1], [0.0], [0], [True]),
        observation_space=gym.spaces.Discrete(1),
        action_space=shifted,
    )
    with pytest.raises(ValueError, match="from 0"):
        made(data=data)
    for name, value in (
        ("gamma", -0.1),
        ("tau", 2.0),
        ("conservatism", -1.0),
        ("max_grad_norm", -1.0),
    ):
        with pytest.raises(ValueError, match=name):
            made(**{name: value})
    for name, value in (("quantiles", 0), ("kappa", 0.0)):
        with pytest.raises(ValueError, match=name):
            made(QuantileCQL, **{name: value})
