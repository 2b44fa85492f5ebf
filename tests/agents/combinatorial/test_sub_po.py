"""SubPO and MODPO: the worked example, the claim's arms, edge cases."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from palaestra.agents import MODPO, PPO, SubPO
from palaestra.agents.base.episodic import policy_gradient_loss, returns_to_go
from palaestra.agents.combinatorial import sub_po
from palaestra.agents.combinatorial.sub_po import gains_to_go, marginal_gains
from palaestra.envs.coverage.submodular_coverage import SubmodularCoverage
from palaestra.lab.statistics import judge
from palaestra.wrappers.sb3 import make_sb3

WALK = np.array([[1, 2, 0, 3]])  # from cell 0 of a 3 x 3 grid: 0, 1, 4, 4, 3


def coverage(rows=3, cols=3, horizon=4, **arguments):
    return gym.make(
        "SubmodularCoverage-v0", rows=rows, cols=cols, horizon=horizon, start=0, **arguments
    )


def walk():
    """Observations [4, 1, D], F [5, 1] and F of single cells [5, 1] along the example's walk."""
    core = SubmodularCoverage(3, 3, horizon=4)
    observations, values = sub_po.follow(core, WALK)
    state = core.initial(core.tapes(1, 0))
    singles = [core.info(state)["additive_reward"]]
    for action in WALK.T:
        state = core.transition(state, action, {})
        singles.append(core.info(state)["additive_reward"])
    return observations, values, torch.as_tensor(np.stack(singles))


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_gains_and_what_is_to_go():
    _, values, singles = walk()
    assert values[:, 0].tolist() == [4.0, 6.0, 8.0, 8.0, 9.0]
    assert marginal_gains(values)[:, 0].tolist() == [2.0, 2.0, 0.0, 1.0]
    assert gains_to_go(values)[:, 0].tolist() == [5.0, 3.0, 1.0, 1.0]
    assert returns_to_go(singles[1:])[:, 0].tolist() == [16.0, 12.0, 8.0, 4.0]


def test_worked_example_gradient():
    observations, values, _ = walk()
    policy = SubPO("TabularPolicy", coverage(), seed=0).policy
    log_probs, _ = policy.evaluate(observations, torch.as_tensor(WALK.T))
    to_go = gains_to_go(values)
    (-4 * policy_gradient_loss(log_probs, to_go, torch.ones_like(to_go))).backward()
    gradient = policy.logits.grad
    expected = torch.zeros_like(gradient)
    expected[0, 0] = torch.tensor([-1.0, 4.0, -1.0, -1.0, -1.0])
    expected[1, 1] = torch.tensor([-0.6, -0.6, 2.4, -0.6, -0.6])
    expected[2, 4] = torch.tensor([0.8, -0.2, -0.2, -0.2, -0.2])
    expected[3, 4] = torch.tensor([-0.2, -0.2, -0.2, 0.8, -0.2])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4))
def test_gains_to_go_are_what_the_rest_adds_to_f(seed, steps, n):
    values = torch.as_tensor(np.random.default_rng(seed).standard_normal((steps + 1, n)).cumsum(0))
    torch.testing.assert_close(gains_to_go(values), values[-1] - values[:-1])


# -- the agents -----------------------------------------------------------------------------------


def test_sub_po_learns_from_gains_and_modpo_from_additive_rewards():
    for rewards in ("gain", "additive"):
        env = coverage(reward=rewards)
        submodular, additive = (
            agent("TabularPolicy", env, seed=1, episodes=6) for agent in (SubPO, MODPO)
        )
        episodes = additive.play(6)
        gains = marginal_gains(episodes.info["set_value"])
        assert (submodular.step_rewards(episodes) == gains).all()
        assert (additive.step_rewards(episodes) == episodes.info["additive_reward"][1:]).all()
        pays = submodular if rewards == "gain" else additive
        assert (pays.step_rewards(episodes) == episodes.rewards).all()


def test_one_update_moves_the_logits_along_the_gradient():
    """Adam's first step has the learning rate as its length in every coordinate that moves."""
    agent = SubPO("TabularPolicy", coverage(), seed=0, episodes=50)
    episodes = agent.play(50)
    values = episodes.info["set_value"]
    to_go = (values[-1] - values[:-1]).numpy()
    advantages = to_go - to_go.mean(axis=1, keepdims=True)
    gradient = np.zeros((4, 9, 5))
    places = episodes.observations[..., :9].argmax(-1).numpy()
    for step, episode in np.ndindex(4, 50):
        vector = np.full(5, -0.2)
        vector[int(episodes.actions[step, episode])] += 1
        gradient[step, places[step, episode]] += advantages[step, episode] * vector
    loss, metrics = agent.loss(episodes)
    loss.backward()
    np.testing.assert_allclose(
        agent.policy.logits.grad.numpy(), -gradient / (4 * 50) / (2 * 5), rtol=1e-4, atol=1e-7
    )
    assert metrics["rollout/return"] == pytest.approx(to_go[0].mean())
    agent.learn(1)
    moved = agent.policy.logits.detach().abs()
    assert moved[moved > 0].numpy() == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("policy", "arguments", "learning_rate"),
    [
        ("TabularPolicy", {}, None),
        ("MlpPolicy", {}, 0.02),
        ("MlpPolicy", {"observation": "history"}, 0.02),
        ("HistoryPolicy", {}, 0.02),
    ],
)
def test_every_policy_learns_to_cover_a_small_map(policy, arguments, learning_rate):
    env = coverage(4, 4, horizon=5, **arguments)
    agent = SubPO(policy, env, seed=0, learning_rate=learning_rate, episodes=50)
    before = float(agent.play(100).final("set_value").mean())
    agent.learn(50 * 5 * 60)
    after = float(agent.play(100).final("set_value").mean())
    assert before < 9
    assert after > 11.5
    returned, _ = evaluate_policy(agent, Monitor(env), n_eval_episodes=1)
    assert returned + 4 > 11.5  # F of the start is 4


def test_a_robot_with_continuous_actions_learns_in_its_own_time():
    pytest.importorskip("mujoco")
    env = gym.make("AntCoverage-v0", horizon=6, extent=2.0, cells=10)
    agent = SubPO("MlpPolicy", env, seed=0, episodes=3)
    assert (agent.core, agent.horizon) == (None, 6)
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(20)
    assert agent.num_timesteps >= 20
    assert any(
        (old != new).any() for old, new in zip(before, agent.policy.parameters(), strict=True)
    )
    episodes = agent.play(2)
    paid = (episodes.rewards.sum(0) + episodes.info["set_value"][0]).tolist()
    assert paid == pytest.approx(episodes.final("set_value").tolist())


def test_a_policy_of_the_history_predicts_in_a_loop_as_it_learned():
    env = coverage(3, 3, horizon=5)
    agent = SubPO("HistoryPolicy", env, seed=2, learning_rate=0.02, episodes=40).learn(40 * 5 * 40)
    batch = agent.play(2, deterministic=True)
    observation, _ = env.reset()
    state, start = None, np.ones(1, dtype=bool)
    for step in range(5):
        action, state = agent.predict(observation, state, start, deterministic=True)
        assert action == batch.actions[step, 0]
        observation, _, _, _, info = env.step(action)
        start = np.zeros(1, dtype=bool)
    assert info["set_value"] == batch.final("set_value")[0]


def test_actor_critic_is_ppo_on_the_gains():
    arguments = {"rows": 4, "cols": 4, "horizon": 5}
    vector = make_sb3("SubmodularCoverage-v0", 20, seed=0, **arguments)
    agent = PPO("MlpPolicy", vector, seed=0, gamma=1.0, n_steps=10, batch_size=100, n_epochs=5)
    agent.learn(6_000)
    returned, _ = evaluate_policy(agent, Monitor(coverage(**arguments)), n_eval_episodes=10)
    assert returned + 4 > 10


# -- the claim ------------------------------------------------------------------------------------


def test_a_trial_of_the_claim_gives_what_its_criteria_read():
    outcomes = {name: arm(0, 0.02) for name, arm in SubPO.claim.arms.items()}
    assert outcomes["gradient"].metrics["gradient error"] < 1e-8
    for name in ("SubPO", "MODPO"):
        assert 0 < outcomes[name].metrics["coverage"] < 1
        steps, curve = outcomes[name].curves["coverage"]
        assert steps == [4000.0 * i for i in range(11)]
        assert len(curve) == 11
    # The same map and the same first episodes.
    assert outcomes["SubPO"].curves["coverage"][1][0] == outcomes["MODPO"].curves["coverage"][1][0]


@pytest.mark.parametrize(("gap", "holds"), [(0.2, False), (0.3, True)])
def test_the_second_criterion_asks_for_a_quarter_more(gap, holds):
    low = np.array([0.2, 0.25, 0.3, 0.22, 0.28])
    values = {"SubPO": {"coverage": low + gap}, "MODPO": {"coverage": low}}
    criterion = SubPO.claim.criteria[1]
    assert judge(criterion, values).holds == holds


# -- edge cases -----------------------------------------------------------------------------------


def test_a_map_that_weighs_nothing_teaches_nothing():
    agent = SubPO("TabularPolicy", coverage(weights=np.zeros((3, 3))), seed=0, episodes=8)
    agent.learn(100)
    assert (agent.policy.logits == 0).all()
    assert agent._metrics["train/loss"] == 0.0


def test_a_negative_gain_warns_once():
    weights = np.ones((3, 3))
    weights[0, 2] = weights[2, 0] = -2.0
    with pytest.warns(UserWarning, match="not monotone"):
        env = coverage(weights=weights)
    agent = SubPO("TabularPolicy", env, seed=0, episodes=40)
    with pytest.warns(
        UserWarning, match="lowered the set value by [12]: .*guarantees are void"
    ) as met:
        agent.learn(3 * 40 * 4)
    assert len(met) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SubPO("TabularPolicy", coverage(weights="sparse"), seed=0, episodes=40).learn(500)


def test_no_steps_no_agent():
    with pytest.raises(ValueError, match="horizon=0 must be an integer of at least 1"):
        SubPO("TabularPolicy", coverage(horizon=0))
    with pytest.raises(ValueError, match=r"lacks \['set_value'\]"):
        SubPO("MlpPolicy", gym.make("CartPole-v1"), episodes=2).learn(1)
    with pytest.raises(TypeError, match="baseline"):
        SubPO("TabularPolicy", coverage(), baseline=lambda episode: episode[-1])
