"""VaGraM: the worked example, value gradients, the agent's edge cases, and the linear plant."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents import MBPO, VaGraM
from palaestra.agents.base.dynamics import squared_error_loss
from palaestra.agents.base.imagined import recorded
from palaestra.agents.control.vagram import clipped, taylor_loss, vagram_loss, value_gradients
from palaestra.agents.control.vagram_trials import (
    FULL_RANK,
    GAIN,
    cost_to_go,
    fit_linear,
    gains,
    linear_costs,
    mean_return,
    on_the_pendulum,
    record,
    true_cost,
)
from palaestra.envs.control.lqr import LQR


def make(env=None, **arguments):
    env = gym.make("TorquePendulum-v0", max_steps=10) if env is None else env
    chosen = {**VaGraM.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return VaGraM("MlpPolicy", env, **chosen)


# -- the worked example ---------------------------------------------------------------------------

ERRORS = torch.tensor([[1.0, 2.0], [0.0, -1.0]]) - torch.tensor([[0.5, 2.5], [0.2, -1.5]])
REWARD_ERRORS = torch.tensor([0.5, 1.0]) - torch.tensor([0.4, 1.2])
GRADIENTS = torch.tensor([[[2.0, 0.1], [1.0, -0.3]], [[1.0, 0.0], [3.0, 0.2]]])  # [B, M, D]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (vagram_loss(ERRORS, REWARD_ERRORS, GRADIENTS), 0.235625),
        (taylor_loss(ERRORS, REWARD_ERRORS, GRADIENTS), 0.428750),
        (squared_error_loss(ERRORS, REWARD_ERRORS), 0.222500),
    ],
    ids=["VaGraM", "Taylor", "squared error"],
)
def test_worked_example_losses(loss, expected):
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_worked_example_clipping():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 1.0], [1.0, 0.0]])
    expected = torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(clipped(rows, 0.75), expected, atol=1e-6)


# -- the losses -----------------------------------------------------------------------------------


def test_members_have_losses_of_their_own():
    members = torch.stack([ERRORS, 2 * ERRORS]), torch.stack([REWARD_ERRORS, 2 * REWARD_ERRORS])
    for loss in (vagram_loss, taylor_loss):
        found = loss(*members, GRADIENTS)
        single = loss(ERRORS, REWARD_ERRORS, GRADIENTS)
        assert torch.allclose(found, torch.stack([single, 4 * single]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_the_bound_holds_and_units_do_not_matter(rows, size, functions, seed):
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    gradients = torch.randn(rows, functions, size, generator=generator, dtype=torch.float64)
    none = torch.zeros(rows, dtype=torch.float64)
    weighted = vagram_loss(errors, none, gradients)
    assert taylor_loss(errors, none, gradients) <= size**2 * weighted * (1 + 1e-9)
    units = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    for loss in (vagram_loss, taylor_loss):
        same = loss(errors / units, none, gradients * units)
        assert torch.allclose(same, loss(errors, none, gradients))
    ones = torch.ones_like(gradients)
    assert torch.allclose(vagram_loss(errors, none, ones), squared_error_loss(errors, none))


def test_each_value_function_is_clipped_at_its_own_quantile():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 1.0], [1.0, 0.0]])
    both = torch.stack([rows, 100 * rows], dim=1)
    expected = clipped(rows, 0.75)
    assert torch.allclose(clipped(both, 0.75), torch.stack([expected, 100 * expected], dim=1))


def test_nothing_is_clipped_at_one_or_without_a_quantile():
    rows = torch.randn(5, 2, 3)
    assert torch.equal(clipped(rows, None), rows)
    assert torch.equal(clipped(rows, 1.0), rows)


@pytest.mark.parametrize("quantile", [0, -0.1, 1.01, float("nan")])
def test_a_quantile_out_of_range_is_an_error(quantile):
    with pytest.raises(ValueError, match="clip_quantile"):
        clipped(torch.zeros(3, 2), quantile)
    with pytest.raises(ValueError, match="clip_quantile"):
        make(clip_quantile=quantile)


# -- value gradients ------------------------------------------------------------------------------


def test_gradients_of_quadratic_values():
    states, P = torch.randn(5, 3), torch.randn(3, 3)
    found = value_gradients(lambda x: [(x @ P * x).sum(1), 2 * x.sum(1, keepdim=True)], states)
    assert found.shape == (5, 2, 3)
    assert torch.allclose(found[:, 0], states @ (P + P.T), atol=1e-5)
    assert torch.equal(found[:, 1], torch.full((5, 3), 2.0))


def test_with_discrete_actions_the_maximiser_is_differentiated():
    slopes = torch.tensor([[1.0, 0.0], [-2.0, 3.0]])  # of two actions
    states = torch.tensor([[1.0, 0.1], [-1.0, 0.5]])
    found = value_gradients(lambda x: [(x @ slopes.T).max(1).values], states)
    assert torch.equal(found[:, 0], slopes)


def test_a_gradient_that_is_not_finite_is_an_error():
    states = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match="value function 1 in row 1"):
        value_gradients(lambda x: [x, x.sqrt()], states)


def test_the_agent_differentiates_critics_and_targets_with_the_action_held():
    agent = make()
    for each in agent.critic_target.parameters():
        each.data.mul_(1.5)
    states = torch.randn(6, 3)
    found = agent.value_gradients(states)
    assert found.shape == (6, 4, 3)
    with torch.no_grad():
        actions = agent.actor(states, deterministic=True)
        for dimension in range(3):
            step = torch.zeros(3)
            step[dimension] = 1e-2
            sides = [
                torch.cat([*agent.critic(at, actions), *agent.critic_target(at, actions)], dim=1)
                for at in (states + step, states - step)
            ]
            slope = (sides[0] - sides[1]) / 2e-2
            assert torch.allclose(found[..., dimension], slope, atol=2e-3, rtol=2e-2)
    assert all(each.grad is None for each in agent.policy.parameters())


# -- the agent ------------------------------------------------------------------------------------


def test_weights_are_gradients_at_the_next_observations_also_of_ends():
    agent = make(clip_quantile=None).learn(30)
    data = recorded(agent.replay_buffer)
    data.ends[:] = 1.0
    expected = agent.value_gradients(data.next_observations)
    assert torch.allclose(agent.context(data).context, expected)


def test_the_loss_is_the_one_of_the_paper():
    agent = make(standardise_targets=True).learn(30)
    steps = agent.context(recorded(agent.replay_buffer))
    found = agent.dynamics(steps.observations, steps.actions)
    expected = [
        vagram_loss(
            found.differences[member] - steps.differences,
            found.rewards[member] - steps.rewards,
            steps.context,
        )
        for member in range(3)
    ]
    assert torch.allclose(agent.model_losses(found, steps), torch.stack(expected))


def test_without_value_gradients_only_the_reward_is_fitted_and_that_is_said_once():
    agent = make(learning_rate=0.0, model_learning_rate=0.05)
    for critic in (agent.critic, agent.critic_target):
        for each in critic.parameters():
            each.data.zero_()
    with pytest.warns(UserWarning, match="all value gradients are 0"):
        agent.learn(30)
    last = agent.dynamics.layers[-1]
    before = last.weight.detach().clone()
    agent.dynamics_optimizer.param_groups[0]["weight_decay"] = 0.0
    agent.dynamics_optimizer.state.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(30, reset_num_timesteps=False)
    moved = (last.weight - before).detach().abs().sum((0, 1))
    assert torch.equal(moved[:3], torch.zeros(3))
    assert moved[3] > 0  # of the reward


def test_critics_that_are_not_numbers_are_an_error():
    agent = make()
    agent.critic.qf0[0].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="gradient of value function 0"):
        agent.learn(30)


def test_gaussian_members_have_variance_one():
    with pytest.warns(UserWarning, match="variance 1"):
        agent = make(stochastic=True)
    assert agent.dynamics.highest is None
    agent.learn(60)
    plain = make().learn(60)
    for name, each in plain.dynamics.state_dict().items():
        assert torch.equal(each, agent.dynamics.state_dict()[name]), name


def test_discrete_actions_are_an_error():
    with pytest.raises(ValueError, match="VaGraM needs actions in a flat Box"):
        make(gym.make("CartPole-v1"))


def test_a_shared_features_extractor_is_an_error():
    with pytest.raises(ValueError, match="share_features_extractor"):
        make(policy_kwargs={"net_arch": [16], "share_features_extractor": True})


def test_only_the_loss_of_the_model_is_another_than_in_mbpo(monkeypatch):
    monkeypatch.setattr(
        VaGraM, "value_gradients", lambda self, states: torch.ones(len(states), 4, 3)
    )
    chosen = {"model_batch_size": 32, "actor_learning_rate": None, "stochastic": False}
    weighted = make(**chosen).learn(60)
    env = gym.make("TorquePendulum-v0", max_steps=10)
    plain = MBPO("MlpPolicy", env, **{**MBPO.example.kwargs, **chosen}, seed=0, device="cpu")
    plain.learn(60)
    for name, each in plain.policy.state_dict().items():
        assert torch.allclose(each, weighted.policy.state_dict()[name], atol=1e-4), name


# -- the claim's parts ----------------------------------------------------------------------------


def test_the_cost_to_go_is_that_of_the_recording_policy():
    core = LQR(distractors=2)
    P, gain = cost_to_go(core), np.array([GAIN])
    assert not P[2:].any()
    x = np.array([0.3, -1.2])
    total, at = 0.0, x
    for _ in range(2_000):
        control = -gain @ at
        total += float(at @ at + 0.1 * control @ control)
        at = core.A @ at + core.B @ control
    assert x @ P[:2, :2] @ x == pytest.approx(total, rel=1e-6)


def test_the_fit_by_squared_error_is_reduced_rank_regression():
    columns = [torch.as_tensor(each) for each in record(LQR(distractors=6), 100, 3)]
    states, controls, following = columns
    inputs, targets = torch.cat([states, controls], 1), following - states
    full = torch.linalg.lstsq(inputs, targets).solution
    axes = torch.linalg.svd(inputs @ full, full_matrices=False).Vh
    for rank in (2, 4):
        best = (full @ axes[:rank].T @ axes[:rank]).T
        found = fit_linear(
            *columns, states[:, None], rank, lambda e, r, _: squared_error_loss(e, r), 0
        )
        assert torch.linalg.matrix_rank(found, atol=1e-9) == rank
        assert torch.allclose(found, best, atol=1e-3)


def test_the_best_plan_for_the_plant_is_riccatis():
    core = LQR(distractors=6)
    A = np.eye(8)
    A[:2, :2] = core.A
    B = np.concatenate([core.B, np.zeros((6, 1))])
    plan = gains(A, B, np.diag([1.0, 1.0, *[0.0] * 6]), 0.1 * np.eye(1), core.horizon)
    assert plan[0][0, :2] == pytest.approx([2.585307, 3.574717], abs=1e-4)
    assert not plan[0][0, 2:].any()
    assert true_cost(core, plan) == pytest.approx(18.8, abs=2.0)


def test_rows_that_no_gradient_weighs_stay_at_zero():
    columns = [torch.as_tensor(each) for each in record(LQR(distractors=6), 100, 3)]
    gradients = torch.zeros(len(columns[0]), 1, 8, dtype=torch.float64)
    gradients[..., :2] = 1.0
    found = fit_linear(*columns, gradients, 8, vagram_loss, 0)
    assert not found[2:].any()
    expected = torch.zeros(2, 9, dtype=torch.float64)
    expected[0, 1] = expected[1, 8] = 0.1  # of the plant
    assert torch.allclose(found[:2], expected, atol=5e-3)


def test_small_models_drive_the_plant_only_with_value_gradients():
    weighted = linear_costs(lambda e, r, g: vagram_loss(e, r, clipped(g, 0.95)), 100, 0.2)
    squared = linear_costs(lambda e, r, _: squared_error_loss(e, r), 100, 0.2)
    assert weighted["cost, rank 2"] < 25 < 100 < squared["cost, rank 2"]
    assert weighted[FULL_RANK] < 1.1 * squared[FULL_RANK]


def test_the_pendulum_is_played_ten_times_on_the_way():
    steps, curve = on_the_pendulum(VaGraM, 100, 0.01)
    assert steps == [10.0 * point for point in range(1, 11)]
    assert len(set(curve)) == 1  # nothing is learned before the first fit
    assert -2_000 < curve[0] < -500


def test_evaluation_episodes_are_the_same_for_all():
    env = gym.make("TorquePendulum-v0")

    class Still:
        def predict(self, seen, deterministic):
            assert seen.shape == (20, 13)
            return np.zeros((len(seen), *env.action_space.shape)), None

    assert mean_return(Still()) == mean_return(Still())
