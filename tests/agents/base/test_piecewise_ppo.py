"""PPO in pieces: its losses against numbers, and against Stable-Baselines3's PPO."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.on_policy import PPO
from palaestra.agents.base.piecewise_ppo import (
    PiecewisePPO,
    clipped_surrogate,
    clipped_value_loss,
)

COMMON = {
    **{"n_steps": 32, "batch_size": 16, "n_epochs": 2, "learning_rate": 1e-2, "seed": 0},
    **{"ent_coef": 0.005, "policy_kwargs": {"net_arch": [8]}, "device": "cpu"},
}


def trained(cls=PiecewisePPO, env=("FiniteMDP-v0", {"observation": "onehot"}), **arguments):
    """An agent after two rollouts."""
    made = gym.make(env[0], **env[1])
    return cls("MlpPolicy", made, **{**COMMON, **arguments}).learn(64)


def test_surrogate_is_that_of_ppo():
    # r = 1.5, A = 1: clipped to 1.1. r = 1.5, A = -1: not clipped. r = .5, A = -1: clipped to .9.
    log_ratio = torch.tensor([1.5, 1.5, 0.5]).log()
    found = clipped_surrogate(log_ratio, torch.tensor([1.0, -1.0, -1.0]), 0.1)
    assert found.tolist() == pytest.approx([-1.1, 1.5, 0.9], abs=1e-6)


def test_value_loss_is_the_larger_error_and_keeps_its_gradient_outside_the_range():
    """The clipped error alone, SB3's, has the gradient 0 as soon as the value leaves the range."""
    values = torch.tensor([0.5, 0.5], requires_grad=True)
    old, returns = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    found = clipped_value_loss(values, old, returns, 0.1)
    assert found.tolist() == pytest.approx([0.81 / 2, 0.25 / 2])
    found.sum().backward()
    assert values.grad.tolist() == pytest.approx([0.0, 0.5])
    assert clipped_value_loss(values, old, returns, None).tolist() == pytest.approx([0.125, 0.125])


@pytest.mark.parametrize(
    "env",
    [
        ("FiniteMDP-v0", {"observation": "onehot"}),
        ("InventoryNet-v0", {"setting": "one_store_backlogged", "periods": 20, "ignore": 0}),
    ],
)
def test_without_value_clipping_and_kl_it_is_ppo(env):
    """Its value loss is half the squared error, SB3's the whole."""
    ours = trained(env=env, clip_range_vf=None, target_kl=None, vf_coef=0.02)
    theirs = trained(PPO, env=env, vf_coef=0.01)
    np.testing.assert_allclose(
        *(agent.policy.parameters_to_vector() for agent in (ours, theirs)), rtol=1e-4, atol=1e-5
    )


def test_pieces_of_a_batch_give_the_gradient_of_the_whole():
    whole, pieces = (trained(micro_batch_size=size, clip_range_vf=0.1) for size in (None, 5))
    first, second = (agent.policy.parameters_to_vector() for agent in (whole, pieces))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
    # A smaller batch is something else.
    other = trained(batch_size=8, clip_range_vf=0.1).policy.parameters_to_vector()
    assert np.abs(first - other).max() > 1e-3


def test_an_update_ends_after_the_epoch_in_which_the_policy_moved_too_far():
    class Counting(PiecewisePPO):
        calls = 0

        def _step(self, batch):
            self.calls += 1
            return super()._step(batch)

    # Two rollouts with two batches per epoch: one epoch each, or all five.
    assert trained(Counting, n_epochs=5, target_kl=1e-12).calls == 4
    assert trained(Counting, n_epochs=5, target_kl=None).calls == 20


def test_an_annealed_rate_is_read_at_the_beginning_of_the_rollout():
    rates = []

    class Noting(PiecewisePPO):
        def _step(self, batch):
            rates.append(self.policy.optimizer.param_groups[0]["lr"])
            return super()._step(batch)

    trained(Noting, learning_rate=lambda left: left, n_epochs=1)
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.5])


def test_pieces_have_at_least_one_step():
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1, got 0"):
        trained(micro_batch_size=0)
