"""Conservative Q-learning with continuous actions: losses against numbers, and low values."""

from __future__ import annotations

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from palaestra.agents import CQL
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.sac import SampledActions
from palaestra.agents.offline.base_cql import conservative_gap, entropy_coefficient, random_steps
from palaestra.envs.control.line_world_data import alternating_steps


def made(data=None, **arguments):
    if data is None:
        data = random_steps(gym.make("TorquePendulum-v0", max_steps=10))
    return CQL("MlpPolicy", data, **{**CQL.example.kwargs, "seed": 0, "device": "cpu", **arguments})


def batch_of(agent, size=6):
    agent._setup_learn(1)
    return agent.tensors.sample(size, np.random.default_rng(0))


# -- numbers --------------------------------------------------------------------------------------


def test_worked_example_of_the_gap():
    values = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    log_densities = torch.tensor([[math.log(0.5), 0.0]])
    found = conservative_gap(values, log_densities, torch.tensor([[0.5], [1.0]]))
    # log(e / 0.5 + e^2) - 0.5 and log(1 / 0.5 + 1) - 1
    assert_close(found, torch.tensor([[2.051445], [0.098612]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("entropy", "expected"), [(False, [1.9, 1.0]), (True, [2.35, 1.0])])
def test_worked_example_of_the_targets(entropy, expected, monkeypatch):
    agent = made(gamma=0.9, entropy_backup=entropy)
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    monkeypatch.setattr(agent.critic_target, "values", lambda seen, actions: values)
    batch = {
        "next_observations": torch.zeros(2, 3),
        "rewards": torch.ones(2),
        "terminations": torch.tensor([0.0, 1.0]),
    }
    following = SampledActions(torch.zeros(2, 1), torch.tensor([-1.0, 2.0]))
    found = agent.critic_targets(batch, following, torch.tensor(0.5))
    assert_close(found, torch.tensor(expected))


def test_worked_example_of_the_loss(monkeypatch):
    agent = made(conservatism=2.0)
    values = torch.tensor([[[0.5, 1.0, 2.0]], [[1.0, 0.0, 0.0]]])  # recorded, then two others
    monkeypatch.setattr(agent.critic, "values", lambda seen, actions: values)
    proposed = SampledActions(torch.zeros(1, 2, 1), torch.tensor([[math.log(0.5), 0.0]]))
    monkeypatch.setattr(agent, "proposals", lambda batch: proposed)
    batch = {"observations": torch.zeros(1, 3), "actions": torch.zeros(1, 1)}
    loss = agent.critic_loss(batch, torch.tensor([2.0]))
    # errors 1.5^2 + 1, and twice the gaps 2.051445 + 0.098612
    assert float(loss) == pytest.approx(3.25 + 2 * 2.150058, abs=1e-5)
    assert float(agent.noted["error"]) == pytest.approx(3.25)
    assert float(agent.noted["gap"]) == pytest.approx(1.075029, abs=1e-5)


def test_worked_examples_of_what_is_learned_beside():
    agent = made(target_gap=1.0)
    log_prob = SampledActions(torch.zeros(2, 1), torch.tensor([-1.0, 0.5]))
    assert float(agent.temperature_loss(torch.tensor([0.5]), log_prob)) == pytest.approx(0.625)
    log_weight = torch.tensor([math.log(5.0)], requires_grad=True)
    loss = agent.weight_loss(log_weight, torch.tensor([1.0, 3.0]))
    assert float(loss.detach()) == pytest.approx(-5.0)
    loss.backward()
    assert float(log_weight.grad) == pytest.approx(-5.0)  # gaps above g: w rises


def test_the_actor_weighs_entropy_and_the_smallest_value(monkeypatch):
    agent = made()
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    monkeypatch.setattr(agent.critic, "values", lambda seen, actions: values)
    sampled = SampledActions(torch.zeros(2, 1), torch.tensor([-1.0, 0.5]))
    loss = agent.actor_loss({"observations": torch.zeros(2, 3)}, sampled, torch.tensor(0.5))
    assert float(loss) == pytest.approx(-0.125 - 0.5)


# -- what the networks are asked ------------------------------------------------------------------


def test_values_of_several_actions_are_those_of_each():
    agent = made(n_critics=3)
    batch, actions = batch_of(agent), torch.rand(6, 4, 1) * 2 - 1
    together = agent.critic.values(batch["observations"], actions)
    assert together.shape == (3, 6, 4)
    for i in range(4):
        alone = agent.critic.values(batch["observations"], actions[:, i])
        assert_close(together[:, :, i], alone)


def test_proposals_come_from_three_laws_with_their_densities():
    agent = made(n_actions=5)
    agent.actor.log_std.bias.data -= 1  # far from the bounds, where the inverse of tanh is exact
    agent.actor.mu.weight.data *= 3  # observations matter
    batch = batch_of(agent)
    found = agent.proposals(batch)
    assert found.actions.shape == (6, 15, 1) and found.log_prob.shape == (6, 15)
    assert float(found.actions.detach().abs().max()) <= 1
    assert_close(found.log_prob[:, :5], torch.full((6, 5), -math.log(2.0)))
    for start, name in ((5, "observations"), (10, "next_observations")):
        mean, log_std, _ = agent.actor.get_action_dist_params(batch[name])
        law = agent.actor.action_dist.proba_distribution(mean, log_std)
        for j in range(start, start + 5):
            expected = law.log_prob(found.actions[:, j])
            assert_close(found.log_prob[:, j], expected, atol=1e-3, rtol=1e-3)


def test_actions_are_scaled_and_what_is_predicted_is_not():
    box = gym.spaces.Box(np.float32([0.0, -3.0]), np.float32([4.0, 3.0]))
    seen = gym.spaces.Box(-1, 1, (1,))
    rng = np.random.default_rng(0)
    data = OfflineDataset(
        np.zeros((40, 1), np.float32),
        rng.uniform(box.low, box.high, (40, 2)).astype(np.float32),
        np.zeros(40),
        np.zeros((40, 1), np.float32),
        np.ones(40, bool),
        observation_space=seen,
        action_space=box,
    )
    agent = made(data).learn(2)
    actions = agent.tensors.column("actions")
    assert_close(
        actions, torch.as_tensor(data.actions) / torch.tensor([2.0, 3.0]) - torch.tensor([1.0, 0.0])
    )
    found = np.array([agent.predict(np.zeros(1, np.float32))[0] for _ in range(50)])
    assert all(box.contains(each) for each in found)
    assert found[:, 0].max() > 2.5


def test_learning_rates_are_shared_out():
    agent = made(learning_rate=3e-3, actor_share=0.5, target_gap=1.0).learn(1)

    def rate(optimizer):
        return optimizer.param_groups[0]["lr"]

    assert rate(agent.critic.optimizer) == rate(agent.weight.optimizer) == 3e-3
    assert rate(agent.actor.optimizer) == rate(agent.temperature.optimizer) == 1.5e-3


@pytest.mark.parametrize(("target_gap", "rises"), [(-100.0, True), (100.0, False)])
def test_the_weight_is_learned_towards_a_gap(target_gap, rises):
    agent = made(target_gap=target_gap, conservatism=2.0).learn(5)
    assert (float(agent.weight.value) > 2.0) is rises
    fixed = made(conservatism=2.0).learn(5)
    assert fixed.weight is None and fixed.update_weight(torch.zeros(2)) == 2.0


def test_the_entropy_coefficient_is_learned_or_fixed():
    assert entropy_coefficient("auto") == 1.0
    assert entropy_coefficient("auto_0.2") == 0.2
    assert entropy_coefficient(0) == 0.0
    learned = made(ent_coef="auto_0.2").learn(5)
    assert float(learned.temperature.value) == pytest.approx(0.2, rel=0.01)
    assert float(learned.temperature.value) != pytest.approx(0.2, rel=1e-6)
    fixed = made(ent_coef=0.1).learn(2)
    assert fixed.temperature is None
    assert "ent_coef" not in fixed.noted


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["rewards", "next_observations", "terminations"])
def test_data_that_lack_a_column_are_refused(missing):
    data = random_steps(gym.make("TorquePendulum-v0", max_steps=10))
    with pytest.raises(ValueError, match=missing):
        made(replace(data, **{missing: None}))
    with pytest.raises(ValueError, match=missing):
        made(data).set_env(replace(data, **{missing: None}))


def test_wrong_spaces_and_arguments_are_refused():
    with pytest.raises(ValueError, match="bounded Box"):
        made(OfflineDataset.record(gym.make("FiniteMDP-v0"), 9))
    for name, value in (
        ("gamma", 1.5),
        ("tau", -0.1),
        ("conservatism", -1.0),
        ("conservatism", np.nan),
        ("n_actions", 0),
        ("n_critics", 0),
        ("actor_share", -1),
        ("target_gap", np.inf),
        ("target_entropy", "none"),
        ("ent_coef", "auto_0"),
        ("ent_coef", "much"),
        ("ent_coef", -1.0),
        ("entropy_backup", 1),
    ):
        with pytest.raises(ValueError, match=name):
            made(**{name: value})
    with pytest.raises(ValueError, match="conservatism=0"):
        made(conservatism=0, target_gap=1.0)


# -- the agent -------------------------------------------------------------------------------------


def test_unseen_actions_are_worth_less_than_to_plain_soft_actor_critic():
    data = OfflineDataset(**alternating_steps(2_000, 100), env=gym.make("LineWorld-v0"))
    places = torch.linspace(0.5, 9.5, 10)[:, None]
    shown = torch.where(places.floor() % 2 == 1, -0.6, 0.6)
    differences, unseen = [], []
    for weight in (0.0, 1.0):
        agent = CQL(
            *("MlpPolicy", data),
            **{"seed": 100, "conservatism": weight, "gamma": 0.9, "learning_rate": 1e-3},
            **{"batch_size": 64, "n_actions": 3, "policy_kwargs": {"net_arch": [32]}},
        ).learn(200)
        with torch.no_grad():
            low, high = (agent.critic.values(places, sign * shown).mean() for sign in (-1, 1))
        differences.append(float(high - low))
        unseen.append(float(low))
    assert unseen[1] < unseen[0] - 0.05
    assert differences[1] > differences[0] + 0.03
