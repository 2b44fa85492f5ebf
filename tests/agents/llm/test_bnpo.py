"""BNPO: the fitted density, its advantages, and the variance that it minimises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from palaestra.agents import BNPO, GRPO
from palaestra.agents.base.text.advantages import centred, standardised
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm import bnpo

CORRECT = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).flatten().double()
FORMAT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).flatten().double()
GROUPS = torch.arange(3).repeat_interleave(4)


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def doubles(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def agent(cls=BNPO, **changes):
    return cls("TextPolicy", cls.example.build(), seed=0, **{**cls.example.kwargs, **changes})


def replies(new=None, old=None, mask=None, n=2, **more):
    """A batch of replies of two tokens."""
    mask = torch.ones(n, 2).bool() if mask is None else mask
    tokens = torch.zeros_like(mask).long()
    return TokenBatch(
        *(tokens[:, :1], mask[:, :1], tokens, mask), old_log_probs=old, log_probs=new, **more
    )


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_the_fit():
    rates = bnpo.success_rates(CORRECT, GROUPS)
    close(rates, [0.25, 0.5, 0.75])
    mean, variance = bnpo.moments(rates)
    close([mean, variance], [0.5, 0.0625])
    close(bnpo.beta_fit(mean, variance), [1.5, 1.5])
    close(bnpo.fitted(CORRECT, GROUPS), [0.5, 0.0625, 1.5, 1.5])
    close(bnpo.beta_density(rates, *doubles(1.5, 1.5)), [1.102658, 1.273240, 1.102658])


def test_worked_example_of_the_advantages():
    found = bnpo.bnpo_advantages(CORRECT, GROUPS).reshape(3, 4)
    close(found[0], [0.680175, -0.226725, -0.226725, -0.226725])
    close(found[1], [0.392699, 0.392699, -0.392699, -0.392699])
    close(found[2], -found[0].flip(0))


def test_worked_example_of_two_rewards():
    found = bnpo.decomposed_advantages([CORRECT, FORMAT], GROUPS)
    close(found[:4], [0.465087, 0.011638, 0.011638, -0.488362])


@pytest.mark.parametrize(
    ("alpha", "beta", "variance"), [(5 / 3, 2, 0.136688), (1, 1, 0.2), (1.5, 1.5, 0.154213)]
)
def test_worked_example_of_the_variance(alpha, beta, variance):
    close(bnpo.estimator_variance(*doubles(2, 3, alpha, beta)), variance)
    density = stats.beta(alpha, beta)
    expectation = integrate.quad(
        lambda p: stats.beta.pdf(p, 2, 3) * p * (1 - p) / density.pdf(p) ** 2, 0, 1
    )
    close(expectation[0], variance)


@pytest.mark.parametrize("cls", [BNPO, bnpo.GroupMeanReinforce])
def test_worked_example_of_the_loss(cls):
    new = torch.tensor([[0.5, 0.4], [0.3, 0.6]]).log()
    old = torch.tensor([[0.4, 0.4], [0.4, 0.5]]).log()
    mask = torch.tensor([[1, 1], [1, 0]]).bool()
    batch = replies(new, old, mask, advantages=torch.tensor([[0.6], [-0.4]]))
    close(agent(cls).loss(batch), -0.515)


# -- special cases ---------------------------------------------------------------------------------


def test_a_flat_density_is_reinforce_and_that_of_three_halves_is_grpo():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(2, (80,), generator=generator).double()
    groups = torch.arange(10).repeat_interleave(8)[torch.randperm(80, generator=generator)]
    close(bnpo.normalised(scores, groups, *doubles(1, 1)), centred(scores, groups), 1e-12)
    # f = 8 / pi sqrt(p (1 - p)), and the standard deviation with n - 1 is sqrt(8 / 7 p (1 - p)).
    halves = bnpo.normalised(scores, groups, *doubles(1.5, 1.5))
    close(halves, standardised(scores, groups, 0.0) * math.pi / 8 * math.sqrt(8 / 7), 1e-12)


def test_prompts_that_are_all_equally_hard_have_a_flat_density():
    scores = torch.tensor([1, 0, 0, 1.0, 0, 0]).double()
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    close(bnpo.fitted(scores, groups), [1 / 3, 0, 1, 1])
    close(bnpo.bnpo_advantages(scores, groups), [2 / 3, -1 / 3, -1 / 3] * 2)


def test_rates_that_differ_by_rounding_alone_are_equal():
    scores = torch.tensor([0.1, 0.2, 0.7, 0.7, 0.2, 0.1]).double()
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    scores[3:] += 1e-15
    assert bnpo.success_rates(scores, groups).unique().numel() == 2
    found = bnpo.fitted(scores, groups)
    close([found.alpha, found.beta], [1, 1], 0)


def test_a_single_prompt_has_a_flat_density():
    close(bnpo.fitted(CORRECT[:4], GROUPS[:4]), [0, 1, 1, 1])
    close(bnpo.bnpo_advantages(CORRECT[:4], GROUPS[:4]), [0.75, -0.25, -0.25, -0.25])


def test_rates_further_apart_than_any_density_allows_leave_it_flat():
    scores = torch.tensor([1, 1, 0, 0]).double()
    mean, variance = bnpo.moments(bnpo.success_rates(scores, torch.tensor([0, 0, 1, 1])))
    assert variance > mean * (1 - mean)
    a, b = bnpo.beta_fit(mean, variance)
    assert a < 0
    assert b < 0
    close(bnpo.norm_params(a, b), [1, 1], 0)


def test_groups_that_are_all_right_or_all_wrong_have_no_advantage():
    scores = torch.cat([CORRECT, torch.zeros(4), torch.ones(4), torch.full((4,), 0.3)]).double()
    groups = torch.arange(6).repeat_interleave(4)
    found = bnpo.fitted(scores, groups)
    assert min(found.alpha, found.beta) > 1  # 1 / f(0) and 1 / f(1) are infinite
    advantages = bnpo.bnpo_advantages(scores, groups)
    assert (advantages[12:] == 0).all()
    assert (advantages[:12] != 0).all()


def test_the_weight_is_capped():
    scores, groups = torch.tensor([1.0] + [0.0] * 99).double(), torch.zeros(100).long()
    found = bnpo.normalised(scores, groups, *doubles(20, 20))
    assert bnpo.beta_density(torch.tensor(0.01).double(), *doubles(20, 20)) < 1e-6
    close(found[0], 0.99e6, 1e-3)


def test_a_reply_alone_in_its_group_has_no_baseline():
    scores = torch.tensor([1.0, 0, 0.5]).double()
    found = bnpo.bnpo_advantages(scores, torch.arange(3))
    close(found, scores)


def test_the_density_and_its_ends():
    rates = np.linspace(0, 1, 21)
    for alpha, beta in ((1, 1), (1, 2.5), (3, 1.2), (40, 7)):
        found = bnpo.beta_density(torch.as_tensor(rates), *doubles(alpha, beta))
        np.testing.assert_allclose(found, stats.beta.pdf(rates, alpha, beta), rtol=1e-10)


def test_the_variance_is_finite_below_its_bounds_only():
    for alpha, beta, finite in ((2.49, 2.99, True), (2.5, 2.0, False), (2.0, 3.0, False)):
        found = bnpo.estimator_variance(*doubles(2, 3, alpha, beta))
        assert bool(found.isfinite()) is finite
        assert found > 0.136688


def test_the_claim_about_the_variance():
    found = bnpo.variance_arm(seed=50, scale=1.0).metrics
    assert found["optimum beaten"] == 0
    assert 0 < found["Monte Carlo error"] < 0.05


def test_the_variation_of_norms_leaves_skipped_updates_out():
    close(bnpo.variation(np.array([1.0, np.nan, 3.0])), 0.5)


# -- the agent -------------------------------------------------------------------------------------


def test_rewards_are_scaled_by_their_bounds():
    one, other = agent(components=None), agent(components=None, bounds=(-1.0, 3.0))
    rewards = CORRECT.float()
    expected = one.advantage(replies(n=12, rewards=rewards, groups=GROUPS))
    found = other.advantage(replies(n=12, rewards=4 * rewards - 1, groups=GROUPS))
    close(found, expected)
    close(found[0], 0.680175)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("wrong", [1.5, -0.5])
def test_a_reward_outside_of_its_bounds_is_refused(wrong):
    rewards = torch.tensor([0.0, 1.0, wrong])
    with pytest.raises(ValueError, match=f"reward {wrong} of reply 2 is outside .*0.0, 1.0"):
        agent(components=None).advantage(replies(n=3, rewards=rewards))
    with pytest.raises(ValueError, match="reward nan of reply 0"):
        bnpo.scaled(torch.tensor([torch.nan]), 0, 1)


def test_every_component_has_its_own_density():
    one = agent()
    one.begin()
    batch = one.sample().batch
    values = {name: batch.extra[f"verdict/{name}"] for name in ("correct", "format")}
    assert torch.equal(values["correct"], batch.extra["correct"])
    close(batch.rewards, (values["correct"] + values["format"]) / 2)
    batch.extra |= {
        "verdict/correct": torch.tensor([1.0, 0, 0, 0] * 4),
        "verdict/format": torch.tensor([0, 1.0, 1, 0] * 2 + [0.0, 0, 0, 1] * 2),
    }
    parts = [batch.extra[f"verdict/{name}"].double() for name in one.components]
    close(one.advantage(batch), bnpo.decomposed_advantages(parts, batch.groups))
    close(one._notes["rate_mean_correct"], [0.25])
    close(one._notes["rate_mean_format"], [0.375])
    close(one._notes["rate_variance_format"], [1 / 48])
    close(one._notes["alpha_correct"], [1.0])
    total = 0.375 * 0.625 * 48 - 1
    close(one._notes["alpha_format"], [1 + 0.375 * total / 3], 1e-5)
    close(one._notes["beta_format"], [1 + 0.625 * total / 3], 1e-5)


def test_learning_logs_the_density():
    one = agent(components={"format": (0, 1)})
    one.learn(16, log_interval=None)
    found = [one._metrics[f"train/{name}_format"] for name in bnpo.Density._fields]
    assert found[0] == pytest.approx(one._metrics["rollout/reward"])
    assert 0 < found[0] < 1
    expected = bnpo.norm_params(*bnpo.beta_fit(*doubles(*found[:2])))
    close(found[2:], torch.stack(expected), 1e-5)


def test_components_survive_a_checkpoint(tmp_path):
    one = agent(components={"correct": (0, 1), "length": (0, 8)})
    one.learn(32, log_interval=None)
    one.save(tmp_path / "agent")
    loaded = BNPO.load(tmp_path / "agent", env=BNPO.example.build())
    assert list(loaded.components) == ["correct", "length"]
    loaded.learn(16, reset_num_timesteps=False, log_interval=None)
    assert 0 < loaded._metrics["train/rate_mean_length"] <= 1


def test_a_component_must_be_a_number_of_the_verdict():
    for name in ("honesty", "slot"):
        one = agent(components={name: (0, 1)})
        with pytest.raises(ValueError, match=f"got '{name}'; it has .*'correct'.*'format'"):
            one.learn(16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bounds": (1.0, 1.0)}, "lowest and its highest value, got bounds="),
        ({"bounds": (0.0, 1.0, 2.0)}, "lowest and its highest value, got bounds="),
        ({"components": {"format": (1, 0)}}, "lowest and its highest value, got format="),
        ({"components": {}}, "at least one number of the verdict"),
        ({"dual_clip": 0.5}, "dual_clip above 1"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        agent(**wrong)


def test_the_baseline_differs_by_the_density_alone():
    baseline = agent(bnpo.GroupMeanReinforce)
    found = baseline.advantage(replies(n=12, rewards=CORRECT.float(), groups=GROUPS))
    close(found, centred(CORRECT, GROUPS))
    one, grpo = agent(), agent(GRPO)
    for name in ("clip_low", "clip_high", "dual_clip"):
        assert getattr(baseline, name) == getattr(one, name)
    assert (one.clip_low, one.clip_high, one.dual_clip) == (0.2, 0.28, 10.0)
    assert grpo.dual_clip is None
