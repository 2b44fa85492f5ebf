"""IQL: its numbers, discrete actions, the schedule of its actor, errors."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.base_iql import (
    IQL,
    CategoricalActor,
    advantage_weights,
    expectile_loss,
    gaussian_log_prob,
    weighted_likelihood_loss,
)
from palaestra.agents.offline.behaviour_cloning import BehaviourCloning
from palaestra.envs.control.line_world_data import half_good_steps

PLACE = gym.spaces.Box(0.0, 10.0, (1,), np.float32)
MOVE = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
SMALL = {"net_arch": [8]}


def line_data(rows=200, **changes):
    arrays = half_good_steps(rows, seed=100) | changes
    return OfflineDataset(**arrays, observation_space=PLACE, action_space=MOVE)


def set_linear(network, weight, bias):
    with torch.no_grad():
        network.weight.copy_(torch.tensor(weight).reshape(network.weight.shape))
        network.bias.copy_(torch.tensor(bias).reshape(network.bias.shape))


def linear_agent(**changes):
    """Networks without hidden layers, plain gradient steps, and s = 2, a = 0.5, r = 1, s' = 3."""
    data = OfflineDataset(
        observations=np.float32([[2.0]]),
        actions=np.float32([[0.5]]),
        rewards=np.array([1.0]),
        next_observations=np.float32([[3.0]]),
        terminations=np.array([False]),
        observation_space=PLACE,
        action_space=MOVE,
    )
    agent = IQL(
        "MlpPolicy",
        data,
        seed=0,
        policy_kwargs={"net_arch": [], "optimizer_class": torch.optim.SGD},
        batch_size=1,
        learning_rate=0.1,
        gamma=0.9,
        tau=0.5,
        **changes,
    )
    set_linear(agent.actor.mu[0], [0.5], [0.0])
    set_linear(agent.value.network[0], [0.2], [0.1])
    for critic in (agent.critic, agent.critic_target):
        set_linear(critic.layers[0], [[0.1, 0.2], [0.3, -0.1]], [0.0, 0.1])
    return agent


def places_after(agent, steps=20):
    """Where 50 starts from 0 to 9 end."""
    places = np.linspace(0.0, 9.0, 50, dtype=np.float32)[:, None]
    for _ in range(steps):
        places = np.clip(places + agent.predict(places, deterministic=True)[0], 0.0, 10.0)
    return places[:, 0]


def test_worked_example_expectile_loss():
    differences = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = expectile_loss(differences, 0.7)
    assert float(loss.detach()) == pytest.approx(0.95, abs=1e-6)  # (0.7 * 1 + 0.3 * 4) / 2
    loss.backward()
    assert differences.grad.tolist() == pytest.approx([0.7, -0.6])
    assert float(expectile_loss(torch.zeros(3), 0.9)) == 0


def test_the_expectile_of_half_is_the_mean_and_a_high_one_nears_the_best():
    values = torch.tensor([0.0, 1.0, 5.0])
    # The minimum: e (5 - v) = (1 - e) (v + v - 1) where 1 < v < 5.
    for expectile, expected in ((0.5, 2.0), (0.9, 4.6 / 1.1), (0.99, 4.96 / 1.01)):
        v = torch.tensor(3.0, requires_grad=True)
        optimizer = torch.optim.SGD([v], lr=0.5)
        for _ in range(200):
            optimizer.zero_grad()
            expectile_loss(values - v, expectile).backward()
            optimizer.step()
        assert float(v.detach()) == pytest.approx(expected, abs=1e-4)


def test_worked_example_actor_loss():
    advantages = torch.tensor([0.3, -0.2, 1.0])  # min(Q1', Q2') - V
    weights = advantage_weights(advantages, torch.tensor([8.0, 11.0, 12.5]))
    np.testing.assert_allclose(weights, [11.023176, 0.110803, 100.0], rtol=1e-5)
    log_probs = torch.tensor([-1.0, -2.0, -0.5])
    assert float(weighted_likelihood_loss(log_probs, weights)) == pytest.approx(20.414928, abs=1e-4)
    assert advantage_weights(torch.tensor([1e30]), 3.0).tolist() == pytest.approx([100.0])
    assert advantage_weights(torch.tensor([-5.0]), 0.0).tolist() == [1.0]


def test_worked_example_gaussian_log_prob():
    # -0.5 * 0.25 - 0.918939 for the first, -0.5 * 2.4^2 - (log 0.5 + 0.918939) for the second.
    found = gaussian_log_prob(
        torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 0.2]]), torch.tensor([0.0, -0.693147])
    )
    assert found.tolist() == pytest.approx([-4.149730], abs=1e-5)


def test_worked_example_of_a_whole_step():
    agent = linear_agent().learn(1)
    # Q' = min(0.3, 0.65), V(s) = 0.5: x = -0.2 weighs 0.3.
    assert float(agent.noted["value_loss"]) == pytest.approx(0.012, abs=1e-6)
    value = agent.value.network[0]
    assert [value.weight.item(), value.bias.item()] == pytest.approx([0.176, 0.088], abs=1e-6)
    # With the new V(s) = 0.44 the weight is exp(3 * -0.14) = 0.657047; the mean is tanh(1).
    assert float(agent.noted["actor_loss"]) == pytest.approx(0.626267, abs=1e-5)
    mean = agent.actor.mu[0]
    assert [mean.weight.item(), mean.bias.item()] == pytest.approx([0.485563, -0.007219], abs=1e-5)
    assert agent.actor.log_std.tolist() == pytest.approx([-0.061208], abs=1e-5)
    # y = 1 + 0.9 V(3) = 1.5544 with the new V; Q(s, a) = 0.3 and 0.65.
    assert float(agent.noted["critic_loss"]) == pytest.approx(2.391459, abs=1e-5)
    critic, follower = agent.critic.layers[0], agent.critic_target.layers[0]
    weights = np.array([[0.60176, 0.32544], [0.66176, -0.00956]])
    np.testing.assert_allclose(critic.weight.detach()[..., 0], weights, atol=1e-5)
    np.testing.assert_allclose(critic.bias.detach().flatten(), [0.25088, 0.28088], atol=1e-5)
    half_way = (weights + [[0.1, 0.2], [0.3, -0.1]]) / 2
    np.testing.assert_allclose(follower.weight.detach()[..., 0], half_way, atol=1e-5)


def test_worked_example_of_probabilities():
    actor = IQL("MlpPolicy", coin_data(3), seed=0, policy_kwargs={"net_arch": []}).actor
    assert isinstance(actor, CategoricalActor)
    set_linear(actor.logits[0], np.zeros((3, 1), dtype=np.float32), [1.0, 0.0, -1.0])
    nothing = torch.zeros(3, dtype=torch.int64)
    found = actor.log_prob(nothing, torch.arange(3)).tolist()
    assert found == pytest.approx([-0.407606, -1.407606, -2.407606], abs=1e-5)
    assert actor._predict(nothing, deterministic=True).tolist() == [0, 0, 0]
    torch.manual_seed(0)
    drawn = actor._predict(nothing.repeat(3000))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, [0.665241, 0.244728, 0.090031], atol=0.02)


def coin_data(actions, rows=600):
    """One state, uniform actions, the last of which pays 1 and the others nothing."""
    rng = np.random.default_rng(100)
    chosen = rng.integers(actions, size=rows)
    nothing = np.zeros(rows, dtype=np.int64)
    return OfflineDataset(
        observations=nothing,
        actions=chosen,
        rewards=(chosen == actions - 1).astype(float),
        next_observations=nothing,
        terminations=np.ones(rows, dtype=bool),
        observation_space=gym.spaces.Discrete(1),
        action_space=gym.spaces.Discrete(actions),
    )


def test_discrete_actions_are_weighted_by_their_advantage(tmp_path):
    data = coin_data(3)
    named = {"seed": 100, "learning_rate": 0.02, "policy_kwargs": {"net_arch": [16]}}
    agent = IQL("MlpPolicy", data, expectile=0.5, beta=2.0, tau=0.05, **named).learn(400)
    values = agent.critic.values(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    np.testing.assert_allclose(values.detach(), [[0, 0, 1]] * 2, atol=0.05)
    # Weights exp(2 (Q - V)) of equally frequent actions: the share of the best is 0.786986.
    log_probs = agent.actor(torch.zeros(1, dtype=torch.int64)).detach()
    assert float(log_probs.exp()[0, 2]) == pytest.approx(0.786986, abs=0.05)
    assert agent.predict(np.zeros(4, dtype=np.int64), deterministic=True)[0].tolist() == [2] * 4
    agent.save(tmp_path / "agent")
    loaded = IQL.load(tmp_path / "agent", env=data)
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 402


def test_the_rate_of_the_actor_falls_to_nothing():
    for cosine_decay, expected in ((True, 0.05), (False, 0.1)):
        agent = linear_agent(cosine_decay=cosine_decay).learn(0)
        agent._update_current_progress_remaining(3, 6)
        agent._update_learning_rate(agent.optimizers())
        rates = [each.param_groups[0]["lr"] for each in agent.optimizers()]
        assert rates == pytest.approx([expected, 0.1, 0.1])


def test_spread_is_bounded_and_only_random_predictions_have_it():
    agent = IQL("MlpPolicy", line_data(), seed=0, policy_kwargs=SMALL)
    with torch.no_grad():
        agent.actor.log_std.fill_(-40.0)
    assert agent.actor.clamped_log_std().tolist() == [-5.0]
    places = np.full((200, 1), 3.0, dtype=np.float32)
    means = agent.predict(places, deterministic=True)[0]
    drawn = agent.predict(places, deterministic=False)[0]
    assert (means == means[0]).all()
    assert 0.004 < (drawn - means).std() < 0.01  # exp(-5) = 0.0067
    with torch.no_grad():
        agent.actor.log_std.fill_(40.0)
    assert agent.actor.clamped_log_std().tolist() == [2.0]
    assert (np.abs(agent.predict(places, deterministic=False)[0]) <= 1).all()


def test_it_finds_the_way_that_cloning_misses():
    data = line_data(rows=4000)
    named = {"learning_rate": 2e-3, "batch_size": 128, "policy_kwargs": {"net_arch": [32, 32]}}
    ours = IQL("MlpPolicy", data, seed=100, gamma=0.9, beta=10.0, **named).learn(900)
    clone = BehaviourCloning("MlpPolicy", data, seed=100, **named).learn(400)
    assert (places_after(ours) > 9.9).mean() >= 0.9
    assert (places_after(clone) > 9.9).mean() <= 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expectile": 1.5}, "expectile=1.5 must be a number from 0 to 1"),
        ({"beta": -1.0}, "beta=-1.0 must be a finite number of at least 0"),
        ({"beta": np.inf}, "beta=inf"),
        ({"cosine_decay": "no"}, "cosine_decay='no' must be True or False"),
        ({"gamma": np.nan}, "gamma=nan"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        IQL("MlpPolicy", line_data(), **changes)


@pytest.mark.parametrize("name", ["rewards", "next_observations", "terminations"])
def test_data_that_lack_something_are_refused(name):
    with pytest.raises(ValueError, match=f"the data lack {name}; needed are"):
        IQL("MlpPolicy", line_data(**{name: None}))


def test_numbers_and_actions_that_do_not_fit_are_refused():
    wrong = half_good_steps(200)["rewards"].copy()
    wrong[7] = np.nan
    with pytest.raises(ValueError, match=r"rewards\[7\] = nan is not finite"):
        line_data(rewards=wrong)
    several = gym.spaces.MultiDiscrete([2, 3])
    data = OfflineDataset(
        **half_good_steps(20) | {"actions": np.ones((20, 2), dtype=int)},
        observation_space=PLACE,
        action_space=several,
    )
    with pytest.raises(ValueError, match=r"IQL needs actions in a bounded Box, .* got MultiDiscr"):
        IQL("MlpPolicy", data)
    late = OfflineDataset(
        **half_good_steps(20) | {"actions": np.full(20, 2)},
        observation_space=PLACE,
        action_space=gym.spaces.Discrete(2, start=1),
    )
    with pytest.raises(ValueError, match=r"got Discrete\(2, start=1\)"):
        IQL("MlpPolicy", late)
