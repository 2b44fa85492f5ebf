"""Decision transformer: what it reads, what it remembers, and what it does when it is asked."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn
from torch.testing import assert_close

from palaestra.agents import DecisionTransformer
from palaestra.agents.base.nets.trajectory import TrajectoryTransformer
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.base_decision_policy import History
from palaestra.agents.offline.base_decision_transformer import RewardsSeen, masked_mean

UNIT = Box(-1.0, 1.0, (1,))
SMALL = {"width": 16, "layers": 2, "heads": 2}
TOUR = {"observation_space": Discrete(3), "action_space": Discrete(2)}


def made(data, **arguments):
    common = {"context": 3, "horizon": 10, "batch_size": 16, "policy_kwargs": SMALL}
    common |= {"seed": 100, "device": "cpu", "warmup_steps": 0, "learning_rate": 1e-3}
    return DecisionTransformer("MlpPolicy", data, **{**common, **arguments})


def tour(**arguments):
    """Two episodes with rewards 1, 0, 2 and 4, -1."""
    data = OfflineDataset(
        observations=[0, 1, 2, 0, 2],
        actions=[0, 1, 1, 1, 0],
        rewards=[1.0, 0.0, 2.0, 4.0, -1.0],
        truncations=[False, False, True, False, True],
        **TOUR,
    )
    return made(data, **arguments)


def walks(episodes=300, steps=6, seed=100):
    """Walks along the line, each with one speed that is drawn at its start."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 10, episodes), rng.uniform(-1, 1, episodes)
    places = np.empty((episodes, steps + 1))
    for step in range(steps + 1):
        places[:, step] = place
        place = np.clip(place + speed, 0, 10)
    ends = np.zeros((episodes, steps), bool)
    ends[:, -1] = True
    return OfflineDataset(
        places[:, :-1].reshape(-1, 1).astype(np.float32),
        np.repeat(speed, steps)[:, None].astype(np.float32),
        np.diff(places, axis=1).ravel(),
        truncations=ends.ravel(),
        env=gym.make("LineWorld-v0", max_steps=steps),
    )


# -- numbers --------------------------------------------------------------------------------------


def test_worked_example_of_the_mean_over_real_steps():
    losses = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert float(masked_mean(losses, mask)) == pytest.approx(2.0)


def test_worked_example_of_the_losses():
    agent = tour().learn(0)
    agent.policy.head.layer.weight.data.zero_()
    agent.policy.head.layer.bias.data = torch.tensor([0.0, 1.0])
    batch = agent.draw()
    # -log softmax([0, 1]) of the recorded action
    cost = torch.where(batch["actions"] == 1, 0.313262, 1.313262)
    expected = cost[batch["mask"]].mean()
    assert float(agent.loss(batch).detach()) == pytest.approx(float(expected), abs=1e-5)

    moving = made(walks(20)).learn(0)
    moving.policy.head.layer.weight.data.zero_()
    moving.policy.head.layer.bias.data.fill_(0.5)
    batch = moving.draw()
    squares = (batch["actions"] - 0.462117).square()[batch["mask"]]  # tanh(1/2)
    assert float(moving.loss(batch).detach()) == pytest.approx(float(squares.mean()), abs=1e-5)


def test_returns_to_go_are_asked_for_and_scales_come_from_the_first_data():
    agent = tour().learn(0)
    assert agent.tensors.column("returns_to_go").tolist() == [3.0, 2.0, 2.0, 3.0, -1.0]
    policy = agent.policy
    assert float(policy.return_scale) == 3.0 and float(policy.best_return) == 3.0
    batch = agent.draw()
    assert_close(agent.conditions(batch)[..., 0], batch["returns_to_go"])
    assert_close(policy.scaled(torch.tensor([[[6.0]]])), torch.tensor([[[2.0]]]))

    moving = made(walks(50)).learn(0)
    features = moving.policy.features(moving.tensors.column("observations")[None])
    assert float(features.mean()) == pytest.approx(0, abs=1e-4)
    assert float(features.std()) == pytest.approx(1, abs=0.01)
    before = moving.policy.return_scale.clone(), moving.policy.mean.clone()
    moving.set_env(walks(5, seed=101))
    moving.learn(1, reset_num_timesteps=False)
    assert (before[0], before[1]) == (moving.policy.return_scale, moving.policy.mean)


def test_rewards_of_zero_have_a_scale():
    data = OfflineDataset([0, 1], [0, 1], [0.0, 0.0], truncations=[False, True], **TOUR)
    agent = made(data).learn(2)
    assert float(agent.policy.return_scale) == 1.0
    assert torch.isfinite(agent.noted["loss"])


# -- the network ----------------------------------------------------------------------------------


def test_a_token_knows_what_came_before_and_nothing_after():
    torch.manual_seed(0)
    net = TrajectoryTransformer(1, 2, 3, width=16, layers=2, heads=2, horizon=9, dropout=0.0)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    parts = [torch.randn(1, 4, width) for width in (1, 2, 3)]
    times = torch.arange(2, 6)[None]
    whole = net(*parts, times)
    assert whole.shape == (1, 4, 16)
    for kind in range(3):
        changed = [part.clone() for part in parts]
        changed[kind][0, 2] += 1
        moved = (net(*changed, times) - whole).abs().amax(dim=2)[0] > 1e-6
        # An action is done after it was read off; the rest is seen before.
        assert moved.tolist() == [False, False, kind < 2, True]
    assert not torch.allclose(net(*parts, times + 1), whole)
    place = torch.tensor([2])
    assert_close(net(*parts, times, place), whole[:, 2])


def test_dropout_is_there_while_learning_only():
    agent = tour(policy_kwargs={**SMALL, "dropout": 0.5}).learn(1)
    batch = agent.draw()
    agent.policy.set_training_mode(True)
    assert agent.loss(batch) != agent.loss(batch)
    agent.policy.set_training_mode(False)
    assert agent.loss(batch) == agent.loss(batch)


# -- what is remembered ---------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 3])
def test_step_by_step_it_acts_as_along_the_window(context):
    agent = made(walks(30), context=context).learn(20)
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 10, (6, 2, 1)).astype(np.float32)
    rewards = rng.uniform(-1, 1, (6, 2))
    state, actions = None, []
    for step in range(6):
        paid = None if step == 0 else rewards[step - 1]
        found, state = agent.predict(
            *(places[step], state), deterministic=True, rewards=paid, target_return=[2.0, -1.0]
        )
        actions.append(found)
        first = max(step + 1 - context, 0)
        taken = np.vstack([np.zeros((1, 2)), np.cumsum(rewards, axis=0)])[: step + 1]
        asked = np.array([2.0, -1.0]) - taken
        known = [*actions[:-1], np.zeros((2, 1), np.float32)]
        window = [
            torch.as_tensor(np.stack(part[first : step + 1], axis=1))
            for part in (asked[..., None], places, known)
        ]
        times = torch.arange(first, step + 1).expand(2, -1)
        with torch.no_grad():
            hidden = agent.policy.hidden(*window, times)
            expected = agent.policy.head.act(hidden[:, -1], True)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_what_was_earned_is_taken_off_where_it_is_told():
    agent = tour(target_return=5.0).learn(0)
    state = None
    asked = []
    for reward in (None, 1.0, None, 2.5):
        _, state = agent.predict(1, state, rewards=reward)
        memory = History(*state)
        asked.append(float(memory.conditions[0, memory.lengths[0] - 1, 0]))
    assert asked == [5.0, 4.0, 4.0, 1.5]
    assert float(History(*agent.predict(1)[1]).conditions[0, 0, 0]) == 5.0
    agent.target_return = None
    assert float(History(*agent.predict(1)[1]).conditions[0, 0, 0]) == 3.0  # the best of the data


def test_an_episode_that_starts_forgets_its_own_past_only():
    agent = tour(target_return=5.0).learn(0)
    _, state = agent.predict(np.array([1, 2]))
    before = [array.copy() for array in state]
    _, after = agent.predict(
        *(np.array([0, 0]), state), episode_start=np.array([True, False]), rewards=[1.0, 1.0]
    )
    for old, kept in zip(before, state, strict=True):
        np.testing.assert_array_equal(old, kept)  # the caller's state is not touched
    memory = History(*after)
    assert memory.lengths.tolist() == [1, 2] and memory.timesteps.tolist() == [0, 1]
    assert memory.conditions[0, 0, 0] == 5.0 and memory.conditions[1, :2, 0].tolist() == [5.0, 4.0]


def test_discrete_actions_are_drawn_unless_the_most_probable_are_wanted():
    agent = tour().learn(0)
    agent.policy.head.layer.weight.data.zero_()
    agent.policy.head.layer.bias.data = torch.log(torch.tensor([0.3, 0.7]))
    seen = np.zeros(2_000, int)
    assert agent.predict(seen, deterministic=True)[0].tolist() == [1] * 2_000
    assert agent.predict(seen)[0].mean() == pytest.approx(0.7, abs=0.05)


def test_continuous_actions_are_scaled():
    space = Box(np.float32([0.0, -3.0]), np.float32([4.0, 3.0]))
    data = OfflineDataset(
        np.zeros((4, 1), np.float32),
        np.float32([[1, 3]] * 4),
        np.zeros(4),
        truncations=[True] * 4,
        observation_space=UNIT,
        action_space=space,
    )
    agent = made(data).learn(0)
    assert_close(agent.tensors.column("actions")[0], torch.tensor([-0.5, 1.0]))
    agent.policy.head.layer.weight.data.zero_()
    agent.policy.head.layer.bias.data = torch.tensor([-0.549306, 20.0])  # tanh: -0.5, 1
    found, _ = agent.predict(np.zeros(1, np.float32))
    np.testing.assert_allclose(found, [1.0, 3.0], atol=1e-5)


# -- refused ---------------------------------------------------------------------------------------


def test_what_cannot_be_remembered_is_refused():
    agent = tour(horizon=3).learn(0)
    _, state = agent.predict(np.array([0, 1]))
    with pytest.raises(ValueError, match="1 observations, but a state of 2 episodes"):
        agent.predict(np.array([0]), state)
    with pytest.raises(ValueError, match="1 entries of episode_start"):
        agent.predict(np.array([0, 1]), state, episode_start=[True])
    for wrong in (np.nan, [1.0, 2.0, 3.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="rewards="):
            agent.predict(np.array([0, 1]), state, rewards=wrong)
        with pytest.raises(ValueError, match="target_return="):
            agent.predict(np.array([0, 1]), state, target_return=wrong)
    for _ in range(2):
        _, state = agent.predict(np.array([0, 1]), state)
    with pytest.raises(ValueError, match="an episode has 4 steps, .* horizon=3"):
        agent.predict(np.array([0, 1]), state)
    agent.predict(np.array([0, 1]), state, episode_start=[True, True])  # new episodes may begin


def test_data_without_returns_are_refused():
    rows = {"observations": [0, 1], "actions": [0, 1], **TOUR}
    with pytest.raises(ValueError, match="lack rewards"):
        made(OfflineDataset(**rows, truncations=[False, True]))
    with pytest.raises(ValueError, match="no episodes are known"):
        made(OfflineDataset(**rows, rewards=[0.0, 1.0]))
    whole = OfflineDataset(**rows, rewards=[0.0, 1.0], truncations=[False, True])
    with pytest.raises(ValueError, match="has 2 steps, horizon=1"):
        made(whole, horizon=1)
    with pytest.raises(ValueError, match="no episodes are known"):
        made(whole).set_env(OfflineDataset(**rows, rewards=[0.0, 1.0]))


def test_numbers_beyond_float32_are_refused():
    ends = {"truncations": [False, True], **TOUR}
    agent = made(OfflineDataset([0, 1], [0, 1], [0.0, 1e300], **ends))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="1. = inf is not finite"):
        agent.learn(1)


def test_wrong_spaces_and_arguments_are_refused():
    for space, actions in (
        (MultiBinary(1), [[0], [1]]),
        (Box(-np.inf, np.inf, (1,)), [[0.0], [1.0]]),
    ):
        data = OfflineDataset(
            *([0, 1], actions, [0.0, 1.0]),
            truncations=[False, True],
            observation_space=Discrete(2),
            action_space=space,
        )
        with pytest.raises(ValueError, match="DecisionTransformer needs actions in a bounded Box"):
            made(data)
    for name, value in (
        ("context", 0),
        ("horizon", 0),
        ("warmup_steps", -1),
        ("target_return", np.nan),
        ("max_grad_norm", -1),
    ):
        with pytest.raises(ValueError, match=name):
            tour(**{name: value})
    with pytest.raises(ValueError, match="multiple of heads"):
        tour(policy_kwargs={"width": 5, "heads": 2})


# -- the agent -------------------------------------------------------------------------------------


def test_the_learning_rate_rises_to_its_schedule():
    agent = tour(warmup_steps=4, learning_rate=1e-3)
    rates = []
    agent.learn(
        6, callback=lambda *_: rates.append(agent.policy.optimizer.param_groups[0]["lr"]) or True
    )
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_asked_for_more_it_earns_more():
    agent = made(walks(), context=4, batch_size=64, learning_rate=2e-3).learn(250)
    earned = []
    for target in (-3.0, 0.0, 3.0):
        asked = agent.asked(gym.make("LineWorld-v0", max_steps=6), target_return=target)
        asked.env.seed(100)
        earned.append(evaluate_policy(asked, asked.env, n_eval_episodes=15, warn=False)[0])
    assert earned[0] < -1.5 < earned[1] < 1.5 < earned[2]


def test_asked_in_a_finite_world_it_does_what_pays_that_much():
    rng = np.random.default_rng(100)
    kind = np.repeat(rng.integers(2, size=100), 4)  # episodes of one action; 1 pays 1, 0 nothing
    data = OfflineDataset(
        np.zeros(400, int),
        kind,
        kind.astype(float),
        truncations=np.arange(400) % 4 == 3,
        observation_space=Discrete(1),
        action_space=Discrete(2),
    )
    agent = made(data, learning_rate=1e-2, policy_kwargs={**SMALL, "dropout": 0.0}).learn(60)
    for target, action in ((4.0, 1), (0.0, 0)):
        found, state = agent.predict(0, deterministic=True, target_return=target)
        assert found == action
        assert agent.predict(0, state, deterministic=True, rewards=float(action))[0] == action


def test_rewards_are_seen_by_an_agent_that_is_asked_in_an_environment():
    agent = made(walks(10), target_return=2.0).learn(0)
    env = RewardsSeen(agent._wrap_env(gym.make("LineWorld-v0", max_steps=6)))
    assert env.rewards.tolist() == [0.0]
    env.seed(3)
    before = env.reset()
    after, rewards, *_ = env.step(np.array([[0.5]], np.float32))
    assert (
        env.rewards.tolist() == rewards.tolist() == pytest.approx([float((after - before)[0, 0])])
    )
    env.reset()
    assert env.rewards.tolist() == [0.0]
    asked = agent.asked(gym.make("LineWorld-v0", max_steps=6))
    observation = asked.env.reset()
    action, state = asked.predict(observation)
    observation, rewards, *_ = asked.env.step(action)
    _, state = asked.predict(observation, state)
    assert History(*state).conditions[0, 1, 0] == pytest.approx(2.0 - rewards[0])


def test_a_loaded_agent_asks_for_the_same(tmp_path):
    agent = tour(policy_kwargs={**SMALL, "activation": nn.GELU}).learn(3)
    agent.save(tmp_path / "agent")
    loaded = DecisionTransformer.load(tmp_path / "agent")
    assert float(loaded.policy.best_return) == 3.0 and bool(loaded.policy.fitted)
    state, other = None, None
    for _ in range(5):
        found, state = agent.predict(1, state, rewards=0.5, deterministic=True)
        again, other = loaded.predict(1, other, rewards=0.5, deterministic=True)
        assert found == again
    for left, right in zip(state, other, strict=True):
        np.testing.assert_array_equal(left, right)
