"""RLPD: critics in one network, subsets, numbers of steps, and losses against numbers."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from palaestra.agents import RLPD
from palaestra.agents.base.nets.ensemble import EnsembleMLP
from palaestra.agents.base.rlpd import (
    ensemble_loss,
    entropy_gap_loss,
    mean_actor_loss,
    random_steps,
    subset_of,
)

ALPHA = torch.tensor([0.5])


def pendulum():
    return gym.make("TorquePendulum-v0", max_steps=10)


def made(env=None, **arguments):
    env = random_steps(pendulum()) if env is None else env
    return RLPD(
        "MlpPolicy", env, **{**RLPD.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    )


def batch_of(agent, size=4):
    rng = np.random.default_rng(0)
    states = torch.as_tensor(rng.uniform(-1, 1, (2, size, 3)), dtype=torch.float32)
    actions = torch.as_tensor(rng.uniform(-1, 1, (size, 1)), dtype=torch.float32)
    dones = torch.tensor([0.0, 1.0] * (size // 2))[:, None]
    return ReplayBufferSamples(states[0], actions, states[1], dones, torch.ones(size, 1))


# -- the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_norm", [True, False])
def test_an_ensemble_is_its_members(layer_norm):
    torch.manual_seed(0)
    net = EnsembleMLP(3, 4, [5, 6], 2, nn.Tanh, layer_norm)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(7, 4)
    rows = []
    for k in range(3):
        hidden = x
        for layer, norm in zip(net.layers[:-1], net.norms, strict=True):
            hidden = hidden @ layer.weight[k] + layer.bias[k]
            if layer_norm:
                own = norm.weight[k, 0], norm.bias[k, 0]
                hidden = functional.layer_norm(hidden, hidden.shape[1:], *own)
            hidden = hidden.tanh()
        rows.append(hidden @ net.layers[-1].weight[k] + net.layers[-1].bias[k])
    assert_close(net(x), torch.stack(rows))
    assert_close(net(x, torch.tensor([2, 0])), torch.stack([rows[2], rows[0]]))


def test_the_members_begin_apart_and_as_linear_layers_do():
    torch.manual_seed(0)
    weight = EnsembleMLP(2, 25, [400], 1).layers[0].weight.detach()
    assert not torch.equal(weight[0], weight[1])
    assert float(weight.abs().max()) == pytest.approx(0.2, abs=1e-3)
    assert float(weight.std()) == pytest.approx(0.2 / 3**0.5, rel=0.02)


def test_values_of_several_actions_are_those_of_each():
    agent = made()
    batch = batch_of(agent)
    actions = torch.rand(4, 6, 1) * 2 - 1
    with torch.no_grad():
        together = agent.critic.values(batch.observations, actions)
        alone = [agent.critic.values(batch.observations, actions[:, i]) for i in range(6)]
        assert together.shape == (3, 4, 6)
        assert_close(together, torch.stack(alone, dim=2))
        as_sb3 = agent.critic(batch.observations, actions[:, 0])
        assert [each.shape for each in as_sb3] == [(4, 1)] * 3
        assert_close(torch.cat(as_sb3, dim=1).T, alone[0])
        assert_close(agent.critic.q1_forward(batch.observations, actions[:, 0]), as_sb3[0])


# -- losses ---------------------------------------------------------------------------------------


def test_losses_against_numbers():
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert float(ensemble_loss(values, torch.tensor([2.0, 1.0]))) == pytest.approx(1.0)
    log_prob = torch.tensor([-1.0, 0.5])
    assert float(mean_actor_loss(log_prob, values, 0.5)) == pytest.approx(-0.125 - 1.5)
    alpha = torch.tensor([0.2], requires_grad=True)
    loss = entropy_gap_loss(alpha, log_prob, -0.5)
    assert float(loss.detach()) == pytest.approx(0.2 * (0.25 + 0.5))
    loss.backward()
    assert float(alpha.grad) == pytest.approx(0.75)  # the entropy is above: alpha falls


def test_subsets_have_different_members_and_all_take_part():
    seen = Counter()
    for _ in range(300):
        chosen = subset_of(5, 2).tolist()
        assert len(set(chosen)) == 2
        seen.update(chosen)
    assert set(seen) == set(range(5))
    assert max(seen.values()) < 2 * min(seen.values())


@pytest.mark.parametrize(("entropy", "expected"), [(True, 1.0), (False, 0.0)])
def test_targets_take_the_smallest_of_the_subset_and_the_entropy_where_wanted(
    entropy, expected, monkeypatch
):
    agent = made(entropy_backup=entropy, gamma=0.9)
    batch = batch_of(agent)
    monkeypatch.setattr(agent, "members", lambda: torch.tensor([0, 2]))
    torch.manual_seed(3)
    found = agent.target_values(batch, ALPHA)
    torch.manual_seed(3)
    following = agent.next_actions(batch)
    values = agent.critic_target.values(batch.next_observations, following.actions)
    smallest = torch.minimum(values[0], values[2])[:, None]
    bonus = expected * 0.5 * following.log_prob
    assert_close(found, 1 + 0.9 * (1 - batch.dones) * (smallest - bonus))


# -- the agent ------------------------------------------------------------------------------------


def test_critics_take_many_steps_and_the_actor_one(monkeypatch):
    agent, calls = made(gradient_steps=3, learning_starts=5), Counter()
    for stage in ("update_critic", "update_targets", "update_policy", "update_actor"):
        original = getattr(agent, stage)

        def counted(*arguments, stage=stage, original=original):
            calls[stage] += 1
            return original(*arguments)

        monkeypatch.setattr(agent, stage, counted)
    agent.learn(10)
    assert calls == {
        **{"update_critic": 15, "update_targets": 15, "update_policy": 5, "update_actor": 5},
    }
    assert agent._n_updates == 15


def test_the_entropy_that_is_aimed_at_is_half_of_minus_the_actions():
    env = gym.make("PointMaze-v0", layout="two_routes", horizon=10)
    assert made(random_steps(env)).target_entropy == -1.0
    assert made(target_entropy=-3.0).target_entropy == -3.0


def test_with_all_critics_none_is_drawn():
    agent = made(n_critics=3, subset=3)
    before = torch.get_rng_state()
    assert agent.members() is None
    assert torch.equal(before, torch.get_rng_state())


def test_a_fixed_temperature_stays():
    agent = made(ent_coef=0.3).learn(40)
    assert float(agent.entropy_coefficient()) == pytest.approx(0.3)
    learned = made().learn(40)
    assert float(learned.entropy_coefficient()) != pytest.approx(1.0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="n_critics=0"):
        made(n_critics=0)
    with pytest.raises(ValueError, match="subset=4 must be an integer from 1 to 3"):
        made(subset=4)
    with pytest.raises(ValueError, match="entropy_backup='no'"):
        made(entropy_backup="no")
    with pytest.raises(ValueError, match="use_sde=True must be False"):
        made(use_sde=True)


class Named(gym.ObservationWrapper):
    """The pendulum, in a dictionary."""

    def __init__(self):
        super().__init__(pendulum())
        self.observation_space = gym.spaces.Dict({"seen": self.env.observation_space})

    def observation(self, observation):
        return {"seen": observation}


def test_observations_may_be_dictionaries_or_images():
    arguments = {**RLPD.example.kwargs, "seed": 0, "device": "cpu"}
    agent = RLPD("MultiInputPolicy", Named(), **arguments).learn(30)
    assert agent._n_updates > 0
    space, actions = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8), gym.spaces.Box(-1, 1, (2,))
    policy = RLPD.policy_aliases["CnnPolicy"](space, actions, lambda _: 1e-3, n_critics=3)
    seen = policy.obs_to_tensor(space.sample())[0]
    assert policy.critic.values(seen, torch.zeros(1, 2)).shape == (3, 1)
