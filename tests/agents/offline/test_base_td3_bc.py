"""TD3+BC: its numbers, its schedule, the scale of observations and actions, errors."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.offline_actor_critic import (
    Followers,
    bellman_targets,
    summed_squared_errors,
)
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.twin_critic_policy import StackedCritic, StackedLinear
from palaestra.agents.offline.base_td3_bc import TD3BC, regularised_loss, smoothed_actions
from palaestra.agents.offline.behaviour_cloning import BehaviourCloning
from palaestra.envs.control.line_world_data import half_good_steps

PLACE = gym.spaces.Box(0.0, 10.0, (1,), np.float32)
MOVE = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
SMALL = {"net_arch": [8]}


def line_data(rows=200, move=MOVE, **changes):
    arrays = half_good_steps(rows, seed=100) | changes
    return OfflineDataset(**arrays, observation_space=PLACE, action_space=move)


def one_step(**changes):
    """s = 2, a = 0.5, r = 1, s' = 3."""
    arrays = {
        "observations": np.float32([[2.0]]),
        "actions": np.float32([[0.5]]),
        "rewards": np.array([1.0]),
        "next_observations": np.float32([[3.0]]),
        "terminations": np.array([False]),
    }
    return OfflineDataset(**arrays | changes, observation_space=PLACE, action_space=MOVE)


def set_linear(network, weight, bias):
    with torch.no_grad():
        network.weight.copy_(torch.tensor(weight).reshape(network.weight.shape))
        network.bias.copy_(torch.tensor(bias).reshape(network.bias.shape))


def linear_agent(cls, data, **changes):
    """Networks without hidden layers and plain gradient steps, with weights that are set."""
    kwargs = {"net_arch": [], "optimizer_class": torch.optim.SGD}
    agent = cls(
        "MlpPolicy",
        data,
        seed=0,
        policy_kwargs=kwargs,
        batch_size=1,
        learning_rate=0.1,
        gamma=0.9,
        tau=0.5,
        normalize_observations=False,
        **changes,
    )
    set_linear(agent.actor.mu[0], [0.5], [0.0])
    for critic in (agent.critic, agent.critic_target):
        set_linear(critic.layers[0], [[0.1, 0.2], [0.3, -0.1]], [0.0, 0.1])
    return agent


def places_after(agent, steps=20):
    """Where 50 starts from 0 to 9 end."""
    places = np.linspace(0.0, 9.0, 50, dtype=np.float32)[:, None]
    for _ in range(steps):
        places = np.clip(places + agent.predict(places, deterministic=True)[0], 0.0, 10.0)
    return places[:, 0]


def test_worked_example_smoothed_actions():
    found = smoothed_actions(torch.tensor([[0.9, -0.2]]), torch.tensor([[1.0, -4.0]]), 0.2, 0.5)
    np.testing.assert_allclose(found, [[1.0, -0.7]], atol=1e-6)


def test_worked_example_targets_and_critic_loss():
    targets = bellman_targets(
        torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0]), 0.9
    )
    np.testing.assert_allclose(targets, [2.8, 0.5], atol=1e-6)
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    # First critic (3.24 + 2.25) / 2, second one (0.04 + 0.25) / 2.
    assert float(summed_squared_errors(values, targets)) == pytest.approx(2.89, abs=1e-5)


def test_worked_example_actor_loss():
    values = torch.tensor([1.0, -3.0], requires_grad=True)
    loss = regularised_loss(values, torch.tensor(0.16), 2.5)
    assert float(loss.detach()) == pytest.approx(1.41, abs=1e-6)
    loss.backward()
    assert values.grad.tolist() == pytest.approx([-0.625, -0.625])  # lambda = 1.25 is a constant
    nothing = torch.zeros(2)
    assert float(regularised_loss(nothing, torch.tensor(0.16), 2.5)) == pytest.approx(0.16)


def test_worked_example_of_a_whole_step():
    agent = linear_agent(TD3BC, one_step(), target_noise=0.0, policy_delay=1)
    set_linear(agent.actor_target.mu[0], [0.5], [0.0])
    agent.learn(1)
    # y = 1 + 0.9 min(0.481030, 0.909485) = 1.432927, Q(s, a) = 0.3 and 0.65.
    assert float(agent.noted["critic_loss"]) == pytest.approx(1.896497, abs=1e-5)
    critic = agent.critic.layers[0]
    np.testing.assert_allclose(
        critic.weight.detach()[..., 0], [[0.553171, 0.313293], [0.613171, -0.021707]], atol=1e-5
    )
    np.testing.assert_allclose(critic.bias.detach().flatten(), [0.226585, 0.256585], atol=1e-5)
    # pi(s) = tanh(1) = 0.761594, Q_1 there with the critics that have learned.
    assert float(agent.noted["actor_loss"]) == pytest.approx(-2.431568, abs=1e-5)
    actor = agent.actor.mu[0]
    assert [actor.weight.item(), actor.bias.item()] == pytest.approx(
        [0.497917, -0.001042], abs=1e-5
    )
    half_way = agent.critic_target.layers[0]
    np.testing.assert_allclose(
        half_way.weight.detach()[..., 0], [[0.326585, 0.256646], [0.456585, -0.060854]], atol=1e-5
    )
    follower = agent.actor_target.mu[0]
    assert [follower.weight.item(), follower.bias.item()] == pytest.approx(
        [0.498958, -0.000521], abs=1e-5
    )


def test_termination_ends_the_value():
    agent = linear_agent(TD3BC, one_step(terminations=np.array([True])), target_noise=0.0)
    agent.learn(1)
    # y = 1: (0.3 - 1)^2 + (0.65 - 1)^2
    assert float(agent.noted["critic_loss"]) == pytest.approx(0.6125, abs=1e-6)


def test_actor_and_targets_wait():
    agent = TD3BC("MlpPolicy", line_data(), seed=0, policy_kwargs=SMALL, policy_delay=3)
    kept = {name: value.clone() for name, value in agent.policy.state_dict().items()}

    def moved(part):
        return any(
            not torch.equal(value, kept[name])
            for name, value in agent.policy.state_dict().items()
            if name.startswith(f"{part}.")
        )

    agent.learn(2)
    assert moved("critic")
    assert not any(moved(part) for part in ("actor", "actor_target", "critic_target"))
    agent.learn(1, reset_num_timesteps=False)
    assert all(moved(part) for part in ("actor", "actor_target", "critic_target"))


def test_the_actor_leaves_no_gradient_in_the_critics():
    agent = TD3BC("MlpPolicy", line_data(), seed=0, policy_kwargs=SMALL, policy_delay=1)
    agent.learn(1)
    kept = [each.grad.clone() for each in agent.critic.parameters()]
    agent.update_actor(agent.tensors.sample(4, agent.generator))
    assert all(map(torch.equal, kept, (each.grad for each in agent.critic.parameters())))


def test_observations_are_standardised_also_where_it_predicts(tmp_path):
    data = line_data(rows=500)
    agent = TD3BC("MlpPolicy", data, seed=0, policy_kwargs=SMALL)
    assert not agent.policy.scaled
    agent.learn(10)
    mean, deviation = data.observations.mean(), data.observations.std() + 1e-3
    assert float(agent.policy.observation_mean) == pytest.approx(mean, abs=1e-5)
    assert float(agent.policy.observation_deviation) == pytest.approx(deviation, abs=1e-5)
    seen = agent.tensors.column("observations")
    np.testing.assert_allclose(seen, (data.observations - mean) / deviation, atol=1e-5)
    places = np.float32([[0.0], [7.0]])
    with torch.no_grad():
        expected = agent.actor(torch.from_numpy((places - mean) / deviation))
    np.testing.assert_allclose(agent.predict(places)[0], expected, atol=1e-5)
    agent.save(tmp_path / "agent")
    loaded = TD3BC.load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.predict(places)[0], agent.predict(places)[0])
    # The scale belongs to the networks: other data do not change it.
    loaded.set_env(line_data(rows=50))
    loaded.learn(1, reset_num_timesteps=False)
    assert float(loaded.policy.observation_mean) == pytest.approx(mean, abs=1e-5)
    plain = TD3BC("MlpPolicy", data, seed=0, policy_kwargs=SMALL, normalize_observations=False)
    plain.learn(1)
    np.testing.assert_array_equal(plain.tensors.column("observations"), data.observations)
    assert not plain.policy.scaled


def test_what_never_changes_is_divided_by_a_thousandth():
    data = line_data(observations=np.full((200, 1), 4.0, dtype=np.float32))
    agent = TD3BC("MlpPolicy", data, seed=0, policy_kwargs=SMALL).learn(2)
    assert float(agent.policy.observation_deviation) == pytest.approx(1e-3)
    assert np.isfinite(agent.predict(np.float32([[4.0]]))[0]).all()


def test_a_resumed_run_keeps_the_scale_of_the_killed_one(tmp_path):
    first, second = line_data(rows=300), line_data(rows=40)
    whole = TD3BC("MlpPolicy", first, seed=0, policy_kwargs=SMALL).learn(3)
    whole.set_env(second)
    whole.learn(4, checkpoint=tmp_path)
    whole.learn(8, reset_num_timesteps=False)
    resumed = TD3BC("MlpPolicy", second, seed=0, policy_kwargs=SMALL)
    resumed.learn(12, checkpoint=tmp_path, resume=True)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name


def test_actions_of_any_bounded_box():
    wide = gym.spaces.Box(np.float32([-2.0]), np.float32([6.0]))
    data = line_data(move=wide, actions=np.linspace(-2, 6, 200, dtype=np.float32)[:, None])
    agent = TD3BC("MlpPolicy", data, seed=0, policy_kwargs=SMALL, alpha=0.0, learning_rate=1e-2)
    agent.learn(400)
    seen = agent.tensors.column("actions")
    assert [float(seen.min()), float(seen.max())] == pytest.approx([-1.0, 1.0])
    # With alpha = 0 it clones: the mean of all actions, 2.
    assert float(agent.predict(np.float32([[5.0]]))[0][0, 0]) == pytest.approx(2.0, abs=1.2)


def test_it_finds_the_way_that_cloning_misses():
    data = line_data(rows=4000)
    named = {"learning_rate": 2e-3, "batch_size": 128, "policy_kwargs": {"net_arch": [32, 32]}}
    ours = TD3BC("MlpPolicy", data, seed=100, gamma=0.9, alpha=5.0, **named).learn(900)
    clone = BehaviourCloning("MlpPolicy", data, seed=100, **named).learn(400)
    assert (places_after(ours) > 9.9).mean() >= 0.9
    assert (places_after(clone) > 9.9).mean() <= 0.1


def test_stacked_critics_are_separate_networks():
    torch.manual_seed(0)
    layer = StackedLinear(2, 3, 4)
    x = torch.randn(2, 5, 3)
    for k in range(2):
        expected = x[k] @ layer.weight[k] + layer.bias[k]
        torch.testing.assert_close(layer(x)[k], expected)
    torch.testing.assert_close(layer.first(x[0]), layer(x)[0])
    agent = TD3BC("MlpPolicy", line_data(), seed=0)
    critic = agent.critic
    assert isinstance(critic, StackedCritic)
    assert [tuple(each.weight.shape) for each in critic.layers] == [
        (2, 2, 256),
        (2, 256, 256),
        (2, 256, 1),
    ]
    places, moves = torch.rand(6, 1), torch.rand(6, 1)
    both = critic.values(places, moves)
    assert both.shape == (2, 6) and not torch.allclose(both[0], both[1])
    torch.testing.assert_close(critic.first(places, moves), both[0])
    first, second = critic(places, moves)
    torch.testing.assert_close(torch.cat([first, second], dim=1).T, both)
    torch.testing.assert_close(critic.q1_forward(places, moves), first)


def test_moments_of_batch_normalization_are_copied():
    source, target = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    source(torch.randn(8, 2) + 3)
    with torch.no_grad():
        source.weight.fill_(2.0)
    Followers([(target, source)]).move(0.25)
    assert target.weight.tolist() == pytest.approx([1.25, 1.25])
    assert torch.equal(target.running_mean, source.running_mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -1}, "alpha=-1 must be a finite number of at least 0"),
        ({"alpha": np.nan}, "alpha=nan must be"),
        ({"policy_delay": 0}, "policy_delay=0 must be an integer of at least 1"),
        ({"target_noise": -0.1}, "target_noise=-0.1"),
        ({"target_noise_clip": np.inf}, "target_noise_clip=inf"),
        ({"gamma": 1.1}, "gamma=1.1 must be a number from 0 to 1"),
        ({"tau": -1}, "tau=-1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"normalize_observations": 2}, "normalize_observations=2 must be True or False"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TD3BC("MlpPolicy", line_data(), **changes)


@pytest.mark.parametrize("name", ["rewards", "next_observations", "terminations"])
def test_data_that_lack_something_are_refused(name):
    with pytest.raises(ValueError, match=f"the data lack {name}; needed are rewards, next_obs"):
        TD3BC("MlpPolicy", line_data(**{name: None}))
    agent = TD3BC("MlpPolicy", line_data(), policy_kwargs=SMALL)
    with pytest.raises(ValueError, match=f"the data lack {name}"):
        agent.set_env(line_data(**{name: None}))


def test_numbers_that_are_not_finite_are_refused():
    for name in ("observations", "actions", "next_observations"):
        wrong = half_good_steps(200)[name].copy()
        wrong[3] = np.nan
        with pytest.raises(ValueError, match=rf"{name}\[3\]"):
            line_data(**{name: wrong})
    anywhere = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    arrays = half_good_steps(200)
    arrays["observations"][5] = np.inf
    data = OfflineDataset(**arrays, observation_space=anywhere, action_space=MOVE)
    with pytest.raises(ValueError, match=r"^observations\[5\] = \[inf\] is not finite"):
        TD3BC("MlpPolicy", data, policy_kwargs=SMALL).learn(1)
    with pytest.raises(ValueError, match="the data set holds no steps"):
        line_data(**{name: array[:0] for name, array in half_good_steps(2).items()})


def test_actions_and_observations_of_other_spaces_are_refused():
    states = gym.make("FiniteMDP-v0")
    with pytest.raises(ValueError, match=r"TD3BC needs actions in a bounded Box, got Discrete"):
        TD3BC("MlpPolicy", OfflineDataset.record(states, 9), normalize_observations=False)
    endless = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    with pytest.raises(ValueError, match="TD3BC needs actions in a bounded Box, got Box"):
        TD3BC("MlpPolicy", line_data(move=endless))
    arrays = half_good_steps(20) | {
        "observations": np.arange(20),
        "next_observations": np.ones(20, int),
    }
    counted = OfflineDataset(**arrays, observation_space=gym.spaces.Discrete(20), action_space=MOVE)
    with pytest.raises(ValueError, match="normalize_observations=True is for observations in a B"):
        TD3BC("MlpPolicy", counted)
    agent = TD3BC(
        "MlpPolicy", counted, seed=0, policy_kwargs=SMALL, normalize_observations=False
    ).learn(4)
    assert agent.predict(np.arange(20))[0].shape == (20, 1)
