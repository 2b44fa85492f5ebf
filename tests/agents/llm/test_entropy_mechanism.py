"""Clip-Cov and KL-Cov: the worked example, the edge cases, and what holds in a running agent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.text.losses import clipped, clipped_surrogate, ratios, token_mean
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm.entropy_mechanism import (
    CovarianceGRPO,
    clip_cov_loss,
    clip_cov_tokens,
    fit_entropy_law,
    kl_cov_loss,
    kl_cov_tokens,
    predicted_entropy_change,
    rank_correlation,
    token_covariances,
)

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
OLD = torch.tensor([[-0.1, -2, -0.05], [-3, -0.2, 0]]).double()
NEW = OLD + torch.tensor([[0.05, 0.2, -0.02], [0.3, -0.1, 0]]).double()
ADVANTAGES = torch.tensor([[1.0], [-1.0]]).double()
COVARIANCES = [[0.7472, -0.6528, 0.7312], [2.0592, -0.8208, 0]]
NONE = torch.zeros_like(MASK)


def close(found, expected, tolerance=1e-7):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def places(chosen):
    return chosen.flatten().nonzero()[:, 0].tolist()


def entropy(logits):
    log_pi = logits.log_softmax(-1)
    return -(log_pi.exp() * log_pi).sum(-1)


def small(cls, **arguments):
    """An agent on one-digit sums, with a tiny model that has imitated nothing."""
    return cls(
        "TextPolicy", cls.example.build(), device="cpu", **{**cls.example.kwargs, **arguments}
    )


def loss_of(cls, **arguments):
    """Loss of the worked example in an agent, and five times its gradient."""
    agent = small(cls, **arguments)
    log_probs = NEW.clone().requires_grad_()
    tokens = torch.zeros_like(MASK).long()
    batch = TokenBatch(tokens[:, :1], MASK[:, :1], tokens, MASK, OLD, log_probs)
    batch.advantages = ADVANTAGES
    loss = agent.loss(batch)
    loss.backward()
    return loss, 5 * log_probs.grad


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_token_covariances():
    found = token_covariances(NEW, ADVANTAGES, MASK)
    close(found, COVARIANCES)
    advantages = ADVANTAGES.expand_as(NEW)[MASK]
    close(
        token_mean(found, MASK), torch.cov(torch.stack([NEW[MASK], advantages]), correction=0)[0, 1]
    )


def test_worked_example_of_clip_cov():
    log_probs = NEW.clone().requires_grad_()
    ratio = ratios(log_probs, OLD)
    cut = clipped(ratio, ADVANTAGES, 1.0, 1.0)
    window = {"low": 0.5, "high": 3.0}
    covariances = token_covariances(log_probs, ADVANTAGES, MASK)
    assert places(clip_cov_tokens(covariances, MASK, cut, share=1.0, **window)) == [0, 2, 3]
    chosen = clip_cov_tokens(covariances, MASK, cut, share=0.4, **window)
    assert places(chosen) == [0, 2]
    losses = clip_cov_loss(clipped_surrogate(ratio, ADVANTAGES, 1.0, 1.0), chosen)
    loss = token_mean(losses, MASK)
    close(loss, 0.20665869)
    loss.backward()
    close(5 * log_probs.grad, [[0, -1.2214028, 0], [1.3498588, 0.90483742, 0]])


def test_worked_example_of_kl_cov():
    chosen = kl_cov_tokens(token_covariances(NEW, ADVANTAGES, MASK), MASK, 0.4)
    assert places(chosen) == [0, 3]
    log_probs = NEW.clone().requires_grad_()
    losses = -ratios(log_probs, OLD) * ADVANTAGES
    loss = token_mean(kl_cov_loss(losses, log_probs, OLD, chosen, 1.0), MASK)
    close(loss, -0.12963526)
    loss.backward()
    close(5 * log_probs.grad, [[-0.0512711, -1.2214028, -0.98019867], [2.3498588, 0.90483742, 0]])


def test_worked_example_in_the_agents():
    loss, gradient = loss_of(palaestra.agents.KLCov, share=0.4)
    close(loss, -0.12963526)
    close(gradient, [[-0.0512711, -1.2214028, -0.98019867], [2.3498588, 0.90483742, 0]])
    # With one candidate there is no chance in the draw: token 3 is above 1.
    loss, gradient = loss_of(palaestra.agents.ClipCov, share=0.4, cov_low=1.0)
    close(gradient, [[-1.0512711, -1.2214028, -0.98019867], [0, 0.90483742, 0]])
    close(loss, (-1.05127110 - 1.22140276 - 0.98019867 + 0.90483742) / 5)


def test_worked_example_of_the_predicted_entropy_change():
    logits = torch.tensor([2.0, 0, -1]).double()
    advantages, rate = torch.tensor([1.0, 0.5, -0.5]).double(), 0.1
    pi = logits.softmax(-1)
    natural = rate * advantages
    gradient = rate * pi * (advantages - (pi * advantages).sum())
    for step, exact, predicted in (
        (natural, -0.02543691, -0.02606701),
        (gradient, -0.00448163, -0.00449045),
    ):
        close(entropy(logits + step) - entropy(logits), exact)
        close(predicted_entropy_change(logits, step), predicted)


def test_worked_example_of_the_entropy_law():
    law = fit_entropy_law([1.0, 0.6, 0.3, 0.1], [0.10, 0.28, 0.38, 0.42])
    close(law, [0.20051081, 0.64566484, 0.44515404])
    close(law.accuracy(0.0), law.ceiling)


# -- edge cases ------------------------------------------------------------------------------------


def test_the_predicted_entropy_change_is_the_slope_of_the_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, delta = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    slope = (entropy(logits + 1e-6 * delta) - entropy(logits - 1e-6 * delta)) / 2e-6
    close(predicted_entropy_change(logits, delta), slope, 1e-8)


def test_without_a_candidate_clip_cov_is_the_plain_loss():
    chosen = clip_cov_tokens(torch.tensor(COVARIANCES), MASK, NONE, share=0.4, low=5.0, high=6.0)
    assert not chosen.any()
    losses = clipped_surrogate(ratios(NEW, OLD), ADVANTAGES)
    assert torch.equal(clip_cov_loss(losses, chosen), losses)
    plain = loss_of(CovarianceGRPO)
    found = loss_of(
        palaestra.agents.ClipCov, cov_low=5.0, cov_high=6.0, clip_low=0.2, clip_high=0.2
    )
    assert all(torch.equal(*pair) for pair in zip(found, plain, strict=True))


def test_tokens_that_the_clip_cut_are_no_candidates():
    cut = NONE.clone()
    cut[0, 0] = True
    given = {"share": 1.0, "low": 0.5, "high": 3.0}
    assert places(clip_cov_tokens(torch.tensor(COVARIANCES), MASK, cut, **given)) == [2, 3]


def test_candidates_are_drawn_uniformly_from_the_generator():
    covariances, generator = torch.tensor(COVARIANCES), torch.Generator().manual_seed(0)
    given = {"share": 0.2, "low": 0.5, "high": 3.0}
    drawn = [
        places(clip_cov_tokens(covariances, MASK, NONE, generator=generator, **given))
        for _ in range(600)
    ]
    assert all(len(each) == 1 for each in drawn)
    counts = [sum(each == [place] for each in drawn) for place in (0, 2, 3)]
    assert sum(counts) == 600 and min(counts) > 160  # 200 each; three standard deviations are 35
    generator.manual_seed(0)
    assert drawn[0] == places(
        clip_cov_tokens(covariances, MASK, NONE, generator=generator, **given)
    )


def test_at_least_one_token_is_held_back_and_never_padding():
    covariances = torch.tensor(COVARIANCES)
    assert places(kl_cov_tokens(covariances, MASK, 1e-6)) == [3]
    assert places(kl_cov_tokens(covariances, MASK, 1.0)) == [0, 1, 2, 3, 4]
    assert places(kl_cov_tokens(covariances - 10, MASK, 0.79)) == [0, 2, 3]


def test_a_single_token_has_no_covariance():
    one = torch.zeros_like(MASK)
    one[0, 1] = True
    assert not token_covariances(NEW, ADVANTAGES, one).any()


def test_equal_advantages_have_no_covariance_and_kl_cov_takes_the_first_tokens():
    mask, log_probs = torch.ones(2, 4).bool(), -torch.rand(2, 4)
    advantages = torch.full((2, 1), 0.1)
    assert token_mean(advantages.expand(2, 4), mask) != advantages[0, 0]  # by rounding, in float32
    found = token_covariances(log_probs, advantages, mask)
    assert not found.any()
    assert places(kl_cov_tokens(found, mask, 0.5)) == [0, 1, 2, 3]


def test_the_penalty_does_not_see_rounding():
    log_probs = (OLD + 7e-6).requires_grad_()
    kl_cov_loss(torch.zeros_like(OLD), log_probs, OLD, MASK).sum().backward()
    assert not log_probs.grad.any()


def test_covariances_carry_no_gradient():
    log_probs = NEW.clone().requires_grad_()
    assert not token_covariances(log_probs, ADVANTAGES, MASK).requires_grad


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("KLCov", {"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ("KLCov", {"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ("KLCov", {"cov_coef": -1.0}, "cov_coef must be at least 0, got -1.0"),
        ("ClipCov", {"share": math.nan}, "share must be above 0"),
        ("ClipCov", {"cov_low": 5.0}, "cov_low must be below cov_high, got 5.0 and 5.0"),
    ],
)
def test_arguments_out_of_range_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        small(getattr(palaestra.agents, name), **wrong)


def test_functions_refuse_shares_and_windows_out_of_range():
    covariances = torch.tensor(COVARIANCES)
    with pytest.raises(ValueError, match="share must be above 0"):
        kl_cov_tokens(covariances, MASK, 0.0)
    with pytest.raises(ValueError, match="share must be above 0"):
        clip_cov_tokens(covariances, MASK, NONE, share=2.0, low=0.5, high=3.0)
    with pytest.raises(ValueError, match="cov_low must be below cov_high, got 3.0 and 0.5"):
        clip_cov_tokens(covariances, MASK, NONE, share=0.4, low=3.0, high=0.5)


@pytest.mark.parametrize(
    ("entropies", "accuracies"), [([0.5, 0.5], [0.1, 0.2]), ([0.5], [0.1]), ([0.5, 0.6], [0.1])]
)
def test_the_law_needs_two_different_entropies(entropies, accuracies):
    with pytest.raises(ValueError, match="as many accuracies as entropies, two of which differ"):
        fit_entropy_law(entropies, accuracies)


def test_the_rank_correlation_leaves_out_what_was_not_logged():
    x, y = np.array([1.0, 2, np.nan, 4, 5]), np.array([1.0, 8, 9, np.nan, 27])
    close(rank_correlation(x, y), 1.0)


# -- in a running agent ----------------------------------------------------------------------------


def learned(cls, **arguments):
    """What an agent logs of one update in which half of the replies are good, and the agent."""
    agent = small(cls, seed=3, learning_rate=1e-2, demonstrations=0, **arguments)
    agent.advantage = lambda batch: 1.0 - 2.0 * (torch.arange(len(batch)) % 2)
    agent.learn(16)
    return agent._metrics, agent


def same(left, right):
    pairs = zip(left.policy.parameters(), right.policy.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


WHOLE = {"minibatch_size": None}


def test_kl_cov_has_no_penalty_in_the_first_step_on_a_batch():
    unclipped = {"clip_low": 1.0, "clip_high": math.inf, **WHOLE}
    for epochs in (1, 3):
        plain = learned(CovarianceGRPO, epochs=epochs, **unclipped)[1]
        held = learned(palaestra.agents.KLCov, epochs=epochs, share=0.5)[1]
        assert same(plain, held) == (epochs == 1)


def test_a_penalty_keeps_the_tokens_held_back_where_they_were():
    free, held = (
        learned(palaestra.agents.KLCov, epochs=6, share=0.5, cov_coef=coef)[0]
        for coef in (0.0, 5.0)
    )
    assert 0 < held["train/moved"] < free["train/moved"]


def test_clip_cov_leaves_out_its_share_of_the_tokens():
    window = {"cov_low": -99.0, "cov_high": 99.0}
    logged, agent = learned(palaestra.agents.ClipCov, epochs=2, share=0.1, **window)
    assert 0.05 < logged["train/held_back"] <= 0.1
    again = learned(palaestra.agents.ClipCov, epochs=2, share=0.1, **window)[1]
    assert same(agent, again)  # the same seed draws the same tokens


def test_the_change_of_entropy_is_that_of_the_same_tokens():
    once = learned(CovarianceGRPO, epochs=1, **WHOLE)[0]
    twice = learned(CovarianceGRPO, epochs=2, **WHOLE)[0]
    assert "train/entropy_change" not in once
    # The mean over two epochs is half the change away from the first.
    change = 2 * (twice["train/entropy"] - once["train/entropy"])
    assert abs(change) > 1e-3
    close(twice["train/entropy_change"], change, 1e-5)


def test_the_covariance_that_is_logged_is_that_of_log_probability_and_advantage():
    seen = {}

    class Watched(CovarianceGRPO):
        def track(self, batch):
            advantages = batch.advantages.expand_as(batch.log_probs)
            pairs = torch.stack([batch.log_probs.detach()[batch.mask], advantages[batch.mask]])
            seen["covariance"] = torch.cov(pairs, correction=0)[0, 1]

    logged = learned(Watched, epochs=1, **WHOLE)[0]
    close(logged["train/covariance"], seen["covariance"], 1e-6)
