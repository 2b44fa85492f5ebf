"""BPO and GBPO: the exact bounded step, the losses, and what the agents do with them."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from stable_baselines3.common.utils import LinearSchedule

from palaestra.agents import BPO, GBPO
from palaestra.agents.base.text.losses import token_mean
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.control import bounded_ratio as br
from palaestra.agents.control import bounded_ratio_trials, bounded_step

OLD, Q = torch.tensor([[0.4, 0.3, 0.2, 0.1], [1.0, 3.0, 2.0, 0.0]], dtype=torch.float64)


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    found = torch.as_tensor(found).detach().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def agent(**changes):
    env = gym.make(BPO.example.env, **BPO.example.env_kwargs)
    arguments = {**BPO.example.kwargs, "seed": 0, "device": "cpu", **changes}
    return BPO("MlpPolicy", env, **arguments)


def language_agent(**changes):
    return GBPO("TextPolicy", GBPO.example.build(), seed=0, **{**GBPO.example.kwargs, **changes})


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_exact_step():
    close(bounded_step.hard_ratio(OLD, Q, 0.2, 0.2), [0.8, 1.2, 1.2, 0.8])
    close(bounded_step.soft_ratio(OLD, Q, 0.5, 0.2, 0.2), [0.883669, 1.174095, 1.064608, 0.813824])
    close(bounded_step.soft_threshold(OLD, Q, 0.5, 0.2, 0.2), 1.664962)


def test_worked_example_of_the_losses_of_bpo():
    q, values, medians = torch.tensor([[2.0, -1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 0.2, 0.5]]).double()
    targets = bounded_step.target_ratio((q - medians) / 0.001, 0.3, 0.3)
    close(targets, [1.3, 0.7, 1.0])
    distance = br.ratio_distance(torch.tensor([1.1, 0.9, 1.0]).double(), targets, q - values)
    close(distance.mean(), 0.133333)
    close(br.median_loss(q - medians), 0.835948)


def test_worked_example_of_gbpo():
    scores, groups = torch.tensor([1.0, 0.0, 0.0, 0.5]).double(), torch.zeros(4).long()
    learner = language_agent(clip_low=0.2, clip_high=0.3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]).bool()
    ratio = torch.tensor([[1, 1.1, 9], [1, 9, 9], [0.9, 9, 9], [1, 1.2, 1]]).double()
    tokens = torch.zeros_like(mask).long()
    batch = TokenBatch(
        *(tokens, mask, tokens, mask),
        old_log_probs=torch.zeros_like(ratio),
        log_probs=ratio.log(),
        rewards=scores,
        groups=groups,
    )
    advantages = learner.advantage(batch)
    close(advantages, [1.305580, -0.783348, -0.783348, 0.261116], 2e-6)
    close(batch.extra["target"], [1.213656, 0.986165, 0.986165, 1.113835])
    batch.advantages = advantages[:, None]
    close(learner.loss(batch), 0.083945)


# -- the exact step -------------------------------------------------------------------------------

PROBLEM = st.tuples(
    st.integers(0, 2**31), st.integers(2, 7), st.floats(0.02, 1.0), st.floats(0.02, 3.0)
)


def problem(seed, actions):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(actions)), rng.standard_normal(actions)


@settings(max_examples=40, deadline=None)
@given(PROBLEM)
def test_the_hard_ratio_solves_the_linear_programme(drawn):
    seed, actions, low, high = drawn
    law, values = problem(seed, actions)
    found = bounded_step.hard_ratio(
        torch.as_tensor(law), torch.as_tensor(values), low, high
    ).numpy()
    assert found.min() >= 1 - low - 1e-12
    assert found.max() <= 1 + high + 1e-12
    assert law @ found == pytest.approx(1.0, abs=1e-12)
    between = (found > 1 - low + 1e-9) & (found < 1 + high - 1e-9)
    assert between.sum() <= 1
    best = linprog(
        -law * values, A_eq=law[None], b_eq=[1.0], bounds=(1 - low, 1 + high), method="highs"
    )
    assert (law * found) @ values == pytest.approx(-best.fun, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(PROBLEM, st.floats(-3, 1))
def test_the_soft_ratio_improves_and_lies_below_the_hard_one(drawn, logarithm):
    seed, actions, low, high = drawn
    law, values = map(torch.as_tensor, problem(seed, actions))
    hard = bounded_step.hard_ratio(law, values, low, high)
    soft = bounded_step.soft_ratio(law, values, 10**logarithm, low, high)
    close((law * soft).sum(), 1.0, 1e-9)
    before, middle, after = ((law * rho * values).sum() for rho in (1.0, soft, hard))
    assert before - 1e-9 <= middle <= after + 1e-9


def test_a_vanishing_lam_gives_the_hard_ratio():
    law, values = torch.tensor([0.3, 0.3, 0.4]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    hard = bounded_step.hard_ratio(law, values, 0.5, 0.5)
    close(hard, [0.5, 0.5 + 1 / 3, 1.5], 1e-7)
    close(bounded_step.soft_ratio(law, values, 1e-9, 0.5, 0.5), hard, 1e-5)


def test_a_lower_bound_of_zero_probability_is_the_cross_entropy_method():
    elite = bounded_step.hard_ratio(torch.full((8,), 1 / 8), torch.arange(8.0), 1.0, 3.0)
    close(elite, [0, 0, 0, 0, 0, 0, 4, 4])


def test_equal_values_change_nothing_softly_and_impossible_actions_take_no_share():
    same = torch.ones(4).double()
    close(bounded_step.soft_ratio(OLD, same, 0.1, 0.2, 0.5), [1.0] * 4, 1e-9)
    close(bounded_step.soft_threshold(OLD, same, 0.1, 0.2, 0.2), 1.0)
    law, values = torch.tensor([0.5, 0.0, 0.5]).double(), torch.tensor([1.0, 9.0, 0.0]).double()
    close(bounded_step.hard_ratio(law, values, 0.2, 0.2)[[0, 2]], [1.2, 0.8])
    close(bounded_step.soft_threshold(law, values, 0.5, 0.2, 0.2), 0.5)


def test_steps_are_batched():
    law, values = torch.stack([OLD, OLD.flip(0)]), torch.stack([Q, Q.flip(0)])
    found = bounded_step.hard_ratio(law, values, 0.2, 0.2)
    close(found[1], found[0].flip(0))
    found = bounded_step.soft_threshold(law, values, 0.5, 0.2, 0.3)
    close(found[0], found[1])


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (1.01, 0.2), (0.2, 0.0), (0.2, math.inf)])
def test_bounds_are_checked(low, high):
    for step in (
        lambda: bounded_step.hard_ratio(OLD, Q, low, high),
        lambda: bounded_step.soft_ratio(OLD, Q, 0.5, low, high),
        lambda: language_agent(clip_low=low, clip_high=high),
    ):
        with pytest.raises(ValueError, match=rf"low={low}, high={high}"):
            step()


@pytest.mark.parametrize("lam", [0.0, -1.0, math.nan])
def test_lam_is_above_0(lam):
    with pytest.raises(ValueError, match="lam="):
        bounded_step.soft_threshold(OLD, Q, lam)
    with pytest.raises(ValueError, match="lam="):
        agent(lam=lam)
    with pytest.raises(ValueError, match="softness="):
        language_agent(softness=lam)


# -- the losses -----------------------------------------------------------------------------------


def test_a_return_at_the_threshold_has_the_target_1_and_far_ones_are_finite():
    excess = torch.tensor([0.0, 1e30, -1e30])
    close(bounded_step.target_ratio(excess, 0.3, 0.3), [1.0, 1.3, 0.7])
    assert br.median_loss(excess / 1e10).isfinite()
    close(bounded_step.target_ratio(excess, 0.0, 0.0), [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"low=1\.5"):
        bounded_step.target_ratio(excess, 1.5, 1.0)


def test_beyond_the_target_the_gradient_turns_back_where_that_of_ppo_is_zero():
    log_ratio = torch.tensor([1.1, 1.5]).log().requires_grad_()
    target, advantages = torch.tensor([1.3, 1.3]), torch.tensor([2.0, 2.0])
    (ours,) = torch.autograd.grad(
        br.ratio_distance(log_ratio.exp(), target, advantages).sum(), log_ratio
    )
    (theirs,) = torch.autograd.grad(
        br.clipped_surrogate(log_ratio, advantages, 0.3).sum(), log_ratio
    )
    close(ours, [-2.2, 3.0], 1e-5)
    close(theirs, [-2.2, 0.0], 1e-5)


def test_the_loss_of_medians_is_stationary_at_the_soft_threshold():
    found = bounded_step.soft_threshold(OLD, Q, 1.0).requires_grad_()
    loss = sum(p * br.median_loss((q - found)[None]) for p, q in zip(OLD, Q, strict=True))
    (slope,) = torch.autograd.grad(loss, found)
    close(slope, 0.0, 1e-12)


def test_medians_of_groups_of_any_size_in_any_order():
    scores = torch.tensor([3.0, 1.0, 7.0, 2.0, 5.0, 4.0])
    groups = torch.tensor([4, 9, 4, 9, 4, 1])
    close(br.group_medians(scores, groups), [5.0, 1.5, 5.0, 1.5, 5.0, 0.0])


def test_a_group_of_one_stands_against_0_and_a_group_of_equals_has_the_target_1():
    scores, groups = torch.tensor([2.0, 0.5, 0.5]), torch.tensor([0, 1, 1])
    found = br.group_targets(scores, groups, 0.2, 0.2, temperature=2.0)
    close(found, [0.8 + 0.4 * torch.sigmoid(torch.tensor(1.0)), 1.0, 1.0], 1e-5)
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        br.group_targets(scores, groups, 0.2, 0.2, temperature=0.0)


# -- the agents -----------------------------------------------------------------------------------


def test_the_loss_of_bpo_is_that_of_the_paper():
    learner = agent(ent_coef=0.01, median_coef=0.25)
    learner.learn(64)
    learner.clip = 0.3
    batch = next(learner.minibatches())
    now = learner.evaluate(batch)
    features = learner.policy.mlp_extractor.forward_critic(batch.observations)
    close(now.medians, learner.policy.median_net(features).flatten())
    q, u, v = batch.returns, now.medians, now.values
    target = 0.7 + 0.6 * torch.sigmoid((q - u) / 0.001)
    policy_loss = ((now.log_prob - batch.old_log_prob).exp() - target).abs() * (q - v).abs()
    expected = policy_loss.mean() - 0.01 * now.entropy.mean() + 0.5 * ((q - v) ** 2).mean()
    expected = expected + 0.25 * br.median_loss(q - u)
    learner.metrics.clear()
    close(learner.loss(now, batch), expected, 1e-3)


def test_the_policy_loss_does_not_reach_the_heads():
    learner = agent()
    learner.learn(64)
    learner.clip = 0.3
    batch = next(learner.minibatches())
    learner.policy.optimizer.zero_grad()
    learner.policy_loss(learner.evaluate(batch), batch).backward()
    assert learner.policy.action_net.weight.grad.any()
    for head in (learner.policy.value_net, learner.policy.median_net):
        assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_without_medians_the_threshold_is_the_value_and_there_is_no_second_head():
    learner = agent(use_median=False)
    learner.learn(64)
    assert not hasattr(learner.policy, "median_net")
    now = learner.evaluate(next(learner.minibatches()))
    assert torch.equal(now.medians, now.values)
    assert "train/median_loss" not in learner.logger.name_to_value


def test_the_head_learns_the_median_of_the_returns():
    learner = agent(learning_rate=0.02, n_epochs=20, clip_range=0.01)
    before = learner.policy.median_net.weight.detach().clone()
    learner.learn(320)
    assert not torch.equal(learner.policy.median_net.weight, before)
    batch = next(learner.rollout_buffer.get())
    with torch.no_grad():
        above = torch.sigmoid(batch.returns - learner.evaluate(batch).medians).mean()
    assert 0.35 < float(above) < 0.65


def test_a_ratio_that_overflows_has_a_finite_loss():
    learner = agent()
    learner.learn(64)
    learner.clip = 0.3
    batch = next(learner.minibatches())
    far = batch._replace(old_log_prob=batch.old_log_prob - 1e4)
    assert learner.policy_loss(learner.evaluate(far), far).isfinite()


def test_a_schedule_may_take_the_bound_to_0():
    learner = agent(clip_range=LinearSchedule(0.3, 0.0, 1.0)).learn(128)
    assert learner.clip == 0
    assert all(p.isfinite().all() for p in learner.policy.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_range": 1.2}, "low=1.2"),
        ({"clip_range": 0.0}, "low=0.0"),
        ({"median_coef": -1.0}, "median_coef"),
        ({"normalize_advantage": True}, "normalize_advantage"),
    ],
)
def test_arguments_of_bpo_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        agent(**changes)


def test_gbpo_pulls_ratios_towards_the_target_of_their_reply():
    learner = language_agent(clip_low=0.3, clip_high=0.4, minibatch_size=None, epochs=1)
    learner.learn(16)
    batch = learner.gather().batch
    batch.rewards = (torch.arange(len(batch)) % 4 == 0).float()  # one good reply of four
    learner.assess(batch)

    def distance():
        with torch.no_grad():
            batch.log_probs = learner.policy(batch, learner.temperature).log_probs
            return float(token_mean(learner.token_losses(batch), batch.mask))

    before, learner.epochs = distance(), 20
    learner.improve(batch)
    assert distance() < 0.8 * before


# -- the claim ------------------------------------------------------------------------------------


def test_the_exact_arm_finds_no_error():
    found = br.exact_arm(123, 0.05).metrics
    assert found["error of the exact step"] < 1e-7
    assert found["soft steps that lose"] == 0


def test_the_arms_tell_the_same_metrics(monkeypatch):
    short = {"batch_size": 2048, "n_epochs": 1}
    monkeypatch.setattr(bounded_ratio_trials, "PENDULUM", bounded_ratio_trials.PENDULUM | short)
    names = [set(arm(123, 0.0).metrics) for arm in (br.bpo_arm, br.ppo_arm)]
    assert names[0] == names[1]
    judged = {each.metric for each in BPO.claim.criteria if each.arm == "BPO"}
    assert judged <= names[0]
