"""MDPO: the worked examples, what the steps move, the old policy, and edge cases."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from torch.distributions import Categorical, Normal, kl_divergence

from palaestra.agents import OffPolicyMDPO, OnPolicyMDPO
from palaestra.agents.base.sac import SoftActorCritic
from palaestra.agents.control.mdpo import (
    ascend,
    exact_step,
    gap_after,
    kl_per_state,
    mirror_objective,
    standardize,
    step_size,
    tsallis_log,
)
from palaestra.agents.control.mdpo_off_policy import off_policy_loss, off_policy_minimiser

OLD, ADVANTAGES = (0.5, 0.3, 0.2), (1.0, -0.5, 0.25)
ON = {
    **{"n_steps": 32, "batch_size": 16, "n_epochs": 2, "mirror_steps": 4, "seed": 0},
    **{"policy_kwargs": {"net_arch": [8]}, "device": "cpu"},
}
OFF = {
    **{"learning_starts": 10, "batch_size": 8, "buffer_size": 50, "learning_rate": 3e-3},
    **{"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0},
}


def floats(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def column(*numbers):
    return floats(*numbers)[:, None]


def pendulum():
    return gym.make("TorquePendulum-v0", max_steps=10)


def garnet(**arguments):
    return gym.make("Garnet-v0", max_steps=10, observation="onehot", **arguments)


def on_policy(env=None, **arguments):
    return OnPolicyMDPO("MlpPolicy", pendulum() if env is None else env, **{**ON, **arguments})


def off_policy(**arguments):
    return OffPolicyMDPO("MlpPolicy", pendulum(), **{**OFF, **arguments})


class Watch(BaseCallback):
    """The parameters of the policy at the beginning of every rollout, and at the end."""

    def __init__(self):
        super().__init__()
        self.states = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        state = self.model.policy.state_dict()
        self.states.append({name: value.clone() for name, value in state.items()})

    _on_training_end = _on_rollout_start


# -- worked examples ------------------------------------------------------------------------------


def test_worked_example_of_the_exact_step() -> None:
    old = floats(*OLD)
    new = exact_step(old.log(), floats(*ADVANTAGES), 0.8)
    assert_allclose(new, [0.714163, 0.129061, 0.156776], atol=1e-6)
    assert_allclose(kl_per_state(Categorical(new), Categorical(old)), 0.107564, atol=1e-6)


def test_worked_example_of_the_off_policy_minimiser() -> None:
    found = off_policy_minimiser(floats(*OLD).log(), floats(*ADVANTAGES), 1.0, 0.2)
    assert_allclose(found, [0.727153, 0.107821, 0.165026], atol=1e-6)


def test_worked_example_of_the_divergence_of_gaussians() -> None:
    new = Normal(floats(0.1, 0.0)[None], floats(0.5, 0.8)[None])
    old = Normal(floats(0.0, 0.2)[None], floats(0.6, 0.7)[None])
    assert_allclose(kl_per_state(new, old), [0.103779], atol=1e-6)


def test_worked_example_of_the_objective() -> None:
    log_ratio = floats(-1, -0.5, -2) - floats(-1.2, -0.5, -1.5)
    found = mirror_objective(log_ratio, floats(1, -0.5, 0.8), floats(0.02, 0.05, 0.01), 0.5)
    assert_allclose(found, 0.348876, atol=1e-6)


def test_worked_example_of_the_off_policy_loss() -> None:
    arguments = column(-1, 0.5), column(-1.5, 0.2), column(2, 1)
    assert_allclose(off_policy_loss(*arguments, kl_coef=1.0, ent_coef=0.2), -1.23, atol=1e-6)


def test_worked_example_of_the_step_sizes() -> None:
    assert_allclose([step_size(1.0, k, 4) for k in (1, 2, 3, 4)], [1, 0.75, 0.5, 0.25])


# -- the functions --------------------------------------------------------------------------------


def test_the_exact_step_maximises_the_penalised_objective_and_the_ascent_finds_it():
    old, gains = floats(*OLD), floats(*ADVANTAGES)
    logits = ascend(old.log(), gains, 0.8, rate=0.5, steps=400)
    assert_allclose(logits.softmax(-1), exact_step(old.log(), gains, 0.8), atol=1e-6)


def test_the_ascent_follows_the_gradient_of_the_penalised_objective():
    old, gains = floats(*OLD).log(), floats(*ADVANTAGES)
    first = ascend(old, gains, 0.8, rate=0.1, steps=1)
    logits = first.clone().requires_grad_()
    now = logits.log_softmax(-1)
    (gradient,) = torch.autograd.grad((now.exp() * (gains - (now - old) / 0.8)).sum(), logits)
    assert_allclose(ascend(old, gains, 0.8, rate=0.1, steps=2), first + 0.1 * gradient, atol=1e-12)


def test_the_minimiser_is_that_of_the_loss_and_its_fixed_point_that_of_sac():
    values, law = floats(*ADVANTAGES), floats(*OLD)
    for _ in range(200):
        law = off_policy_minimiser(law.log(), values, 1.0, 0.2)
    assert_allclose(law, (values / 0.2).softmax(-1), atol=1e-6)
    assert_allclose(off_policy_minimiser(floats(*OLD).log(), values, 0.2, 0.2), law, atol=1e-6)

    def loss(p):
        return (p * (p.log() - 0.8 * floats(*OLD).log() - values)).sum()

    best = off_policy_minimiser(floats(*OLD).log(), values, 1.0, 0.2)
    for change in floats(1, -1, 0), floats(0, 1, -1):
        assert loss(best + 1e-3 * change) > loss(best) < loss(best - 1e-3 * change)


def test_tsallis_log_is_what_its_formula_says_and_natural_at_one():
    x = floats(0.2, 1.0, 3.0)
    assert_allclose(tsallis_log(x.log(), 0.5), 2 * (x.sqrt() - 1))
    assert_allclose(tsallis_log(x.log(), 2.0), 1 - 1 / x)
    assert_allclose(tsallis_log(x.log(), 1.0), x.log())
    assert_allclose(tsallis_log(x.log(), 1 + 1e-7), x.log(), atol=1e-6)


def test_advantages_that_are_all_the_same_become_zero():
    assert_allclose(standardize(torch.full((7,), 0.1)), np.zeros(7), atol=1e-7)
    assert_allclose(standardize(floats(3.0)), [0.0])
    found = standardize(floats(1, 2, 4))
    assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-12)


def test_the_divergence_of_several_choices_is_the_sum():
    torch.manual_seed(0)
    new, old = ([Categorical(logits=torch.randn(5, k)) for k in (2, 3)] for _ in range(2))
    parts = [kl_divergence(first, second) for first, second in zip(new, old, strict=True)]
    assert_allclose(kl_per_state(new, old), parts[0] + parts[1])


def test_more_steps_leave_a_smaller_gap():
    gaps = [gap_after(steps, seed=100, scale=1.0) for steps in (1, 10)]
    assert gaps[1] < gaps[0] / 2


# -- on-policy ------------------------------------------------------------------------------------


def changed(before, after, part):
    return any(not torch.equal(before[name], after[name]) for name in before if part in name)


def test_without_a_step_the_iteration_is_skipped_and_the_values_learn():
    watch = Watch()
    on_policy(step_size=0.0).learn(32, watch)
    first, last = watch.states
    assert changed(first, last, "value_net")
    assert not changed(first, last, "action_net")
    assert not changed(first, last, "policy_net")
    assert not changed(first, last, "log_std")


def test_the_epochs_on_the_values_leave_the_policy_alone():
    ends = [Watch() for _ in range(2)]
    for epochs, watch in zip((1, 3), ends, strict=True):
        on_policy(n_epochs=epochs).learn(32, watch)
    one, three = (watch.states[-1] for watch in ends)
    assert changed(one, three, "value_net")
    assert not changed(one, three, "action_net")
    assert changed(ends[0].states[0], one, "action_net")


def test_step_sizes_and_the_learning_rate_are_annealed_from_their_first_to_above_zero():
    steps = []

    class Noted(OnPolicyMDPO):
        def record(self):
            super().record()
            steps.append((self.present_step, self.policy.optimizer.param_groups[0]["lr"]))

    agent = Noted("MlpPolicy", pendulum(), **ON, learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    agent.learn(128)
    assert_allclose([step for step, _ in steps], [1, 0.75, 0.5, 0.25])
    assert_allclose([rate for _, rate in steps], [1e-3, 7.5e-4, 5e-4, 2.5e-4])
    agent.learn(64)
    assert_allclose([step for step, _ in steps[4:]], [1, 0.5])


def test_a_small_step_size_keeps_the_policy_near_the_old_one():
    moved = []
    for step in (1.0, 1e-3):
        agent = on_policy(step_size=step, mirror_steps=40, learning_rate=1e-2)
        agent.learn(32)
        with torch.no_grad():
            now = agent.evaluate(agent.prepare(next(iter(agent.rollout_buffer.get()))))
        moved.append(float(kl_per_state(now.distribution, agent.old).mean()))
    assert 0 <= moved[1] < moved[0] / 5


def test_the_divergence_before_the_first_step_is_zero_and_is_logged():
    agent = on_policy(mirror_steps=2).learn(32)
    kls = agent.metrics["kl"]
    assert len(kls) == 2
    assert_allclose(float(kls[0]), 0.0, atol=1e-7)
    assert float(kls[1]) > 0


@pytest.mark.parametrize("q", [1.0, 0.5])
def test_discrete_actions_learn(q):
    watch = Watch()
    on_policy(garnet(states=4, branching=2), tsallis_q=q).learn(64, watch)
    assert changed(watch.states[0], watch.states[-1], "action_net")
    assert all(value.isfinite().all() for value in watch.states[-1].values())


def test_one_step_is_warned_of():
    with pytest.warns(UserWarning, match="no trust region"):
        on_policy(mirror_steps=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mirror_steps": 0}, "mirror_steps"),
        ({"step_size": -1.0}, "step_size"),
        ({"tsallis_q": float("nan")}, "tsallis_q"),
        ({"target_kl": 0.1}, "target_kl"),
    ],
)
def test_on_policy_arguments_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        on_policy(**wrong)


# -- off-policy -----------------------------------------------------------------------------------


def test_with_equal_coefficients_and_one_critic_it_is_sac():
    one = {"policy_kwargs": {"net_arch": [8], "n_critics": 1}}
    ours = off_policy(kl_coef=0.2, regularizer=0.0, refresh_every=7, **one).learn(28)
    theirs = SoftActorCritic("MlpPolicy", pendulum(), ent_coef=0.2, **{**OFF, **one}).learn(28)
    expected = theirs.policy.state_dict()
    for name, value in ours.policy.state_dict().items():
        assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


def test_the_old_policy_is_the_present_one_of_the_last_refresh():
    agent, kept = off_policy(refresh_every=6), []

    class Keep(BaseCallback):
        def _on_step(self):
            kept.append((agent._n_updates, agent.actor.mu.weight.clone()))
            return True

    agent.learn(26, Keep())  # 16 updates: at 6 and at 12 the policy becomes the old one
    assert agent._n_updates == 16
    assert agent.since_refresh == 4
    assert torch.equal(agent.old_actor.mu.weight, dict(kept)[12])
    assert not torch.equal(agent.old_actor.mu.weight, agent.actor.mu.weight)


def test_the_gradient_goes_through_the_actions_and_not_into_the_old_policy():
    agent = off_policy().learn(20)
    batch = agent.sample(8)
    sampled = agent.sample_actions(batch.observations)
    found = agent.old_log_prob(batch.observations, sampled)
    found.sum().backward()
    assert agent.actor.mu.weight.grad.abs().max() > 0
    assert all(each.grad is None for each in agent.old_actor.parameters())
    # A policy that has just become the old one has the same densities.
    agent.old_actor.load_state_dict(agent.actor.state_dict())
    assert_allclose(
        agent.old_log_prob(batch.observations, sampled).detach(),
        sampled.log_prob.detach(),
        atol=1e-5,
    )


def test_the_regularizer_pulls_means_and_deviations_to_their_middle():
    agent = off_policy(regularizer=0.5).learn(12)
    batch = agent.sample(8)
    sampled, alpha = agent.sample_actions(batch.observations), torch.tensor(0.2)
    whole = agent.actor_loss(batch, sampled, alpha)
    agent.regularizer = 0.0
    mean, log_std, _ = agent.actor.get_action_dist_params(batch.observations)
    expected = 0.5 * ((mean**2).mean() + (log_std**2).mean())
    found = whole - agent.actor_loss(batch, sampled, alpha)
    assert_allclose(found.detach(), expected.detach(), rtol=1e-4)


def test_tsallis_divergences_learn():
    agent = off_policy(tsallis_q=0.7).learn(20)
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())


def test_the_old_policy_is_saved(tmp_path):
    agent = off_policy(refresh_every=6).learn(26)
    agent.save(tmp_path / "agent.zip")
    again = OffPolicyMDPO.load(tmp_path / "agent.zip")
    assert again.since_refresh == 4
    assert torch.equal(again.old_actor.mu.weight, agent.old_actor.mu.weight)


def test_a_divergence_weaker_than_the_entropy_is_warned_of():
    with pytest.warns(UserWarning, match="exponent of the old policy"):
        off_policy(kl_coef=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off_policy(kl_coef=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kl_coef": 0.0}, "kl_coef"),
        ({"kl_coef": -1.0}, "kl_coef"),
        ({"ent_coef": -0.1}, "ent_coef"),
        ({"ent_coef": "auto"}, "ent_coef"),
        ({"refresh_every": 0}, "refresh_every"),
        ({"regularizer": -1e-3}, "regularizer"),
        ({"use_sde": True}, "use_sde"),
    ],
)
def test_off_policy_arguments_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        off_policy(**wrong)
