"""The reference definitions of group-based learning, with the numbers of one worked example."""

from __future__ import annotations

import pytest
import torch

import palaestra
from palaestra.agents.base.text import advantages as adv
from palaestra.agents.base.text import losses
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm.baselines import sequence_ratios
from palaestra.agents.llm.dapo import overlong_penalty, teaches

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
OLD = torch.tensor([[-0.5, -1, -0.2], [-0.7, -0.3, 0], [-1.2, -0.4, -0.9], [-0.6, 0, 0]]).double()
NEW = OLD + torch.tensor([[0.1, -0.3, 0.4], [0.25, -0.5, 0], [-0.1, 0.3, -0.4], [0.2, 0, 0]])
REFERENCE = OLD + torch.tensor([[-0.1, 0.2, 0], [0.3, 0.1, 0], [0, -0.2, 0.1], [0.1, 0, 0]])
REWARDS = torch.tensor([1, 0, 1, 0.5]).double()
GROUPS = torch.tensor([0, 0, 1, 1])


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def batch(**more):
    tokens = torch.zeros_like(MASK).long()
    return TokenBatch(
        *(tokens[:, :1], MASK[:, :1], tokens, MASK),
        old_log_probs=OLD,
        rewards=REWARDS,
        groups=GROUPS,
        **more,
    )


def learned(name, **arguments):
    """Advantages and loss that an agent computes of the worked example, and the gradient."""
    cls = getattr(palaestra.agents, name)
    agent = cls("TextPolicy", cls.example.build(), **{**cls.example.kwargs, **arguments})
    agent.policy.max_tokens = 3
    log_probs = NEW.clone().requires_grad_()
    given = batch(log_probs=log_probs)
    if agent.kl_coef:
        given.reference_log_probs = REFERENCE
    found = agent.advantage(given)
    given.advantages = found[:, None]
    loss = agent.loss(given)
    loss.backward()
    return found, loss, log_probs.grad


def test_worked_example_of_ratios_and_kl_estimators():
    close(
        losses.ratios(NEW, OLD) * MASK,
        [
            [1.1051709, 0.74081822, 1.4918247],
            [1.2840254, 0.60653066, 0],
            [0.90483742, 1.3498588, 0.67032005],
            [1.2214028, 0, 0],
        ],
    )
    for estimator, expected, mean in (
        (
            losses.kl_k1,
            [[0.2, -0.5, 0.4], [-0.05, -0.6, 0], [-0.1, 0.5, -0.5], [0.1, 0, 0]],
            -0.06111111,
        ),
        (
            losses.kl_k2,
            [[0.02, 0.125, 0.08], [0.00125, 0.18, 0], [0.005, 0.125, 0.125], [0.005, 0, 0]],
            0.07402778,
        ),
        (
            losses.kl_k3,
            [
                [0.01873075, 0.14872127, 0.07032005],
                [0.0012711, 0.2221188, 0],
                [0.00517092, 0.10653066, 0.14872127],
                [0.00483742, 0, 0],
            ],
            0.08071358,
        ),
    ):
        found = estimator(NEW, REFERENCE)
        close(found * MASK, expected)
        close(losses.token_mean(found, MASK), mean)


@pytest.mark.parametrize(
    ("name", "advantages", "loss"),
    [
        ("TextReinforce", [0.375, -0.625, 0.375, -0.125], 0.1859375),
        ("RLOO", [1, -1, 0.5, -0.5], 0.35),
        ("GRPO", [0.70710578, -0.70710578, 0.70710478, -0.70710478], 0.0571046),
        ("DAPO", [0.70710578, -0.70710578, 0.70710478, -0.70710478], -0.21022382),
        ("DrGRPO", [0.5, -0.5, 0.25, -0.25], -0.07245171),
        ("GSPO", [0.70710578, -0.70710578, 0.70710478, -0.70710478], 0.05041582),
    ],
)
def test_worked_example_of_advantages_and_losses(name, advantages, loss):
    found, total, _ = learned(name)
    close(found, advantages)
    close(total, loss)


def test_worked_example_of_grpo_token_by_token():
    advantages = adv.standardised(REWARDS, GROUPS)[:, None]
    log_probs = NEW.clone().requires_grad_()
    found = losses.clipped_surrogate(losses.ratios(log_probs, OLD), advantages)
    close(
        found * MASK,
        [
            [-0.78147275, -0.52383685, -0.84852694],
            [0.9079418, 0.56568462, 0],
            [-0.63981486, -0.84852574, -0.47398651],
            [0.86365973, 0, 0],
        ],
    )
    (found * MASK).sum().backward()
    close(
        log_probs.grad,
        [
            [-0.78147275, -0.52383685, 0],
            [0.9079418, 0, 0],
            [-0.63981486, 0, -0.47398651],
            [0.86365973, 0, 0],
        ],
    )


def test_worked_example_of_grpo_with_a_reference():
    close(learned("GRPO", kl_coef=0.04)[1], 0.05993057)


def test_worked_example_of_sequence_ratios():
    close(sequence_ratios(NEW, OLD, MASK), [1.0689391, 0.8824969, 0.93550699, 1.2214028])


def test_worked_example_of_the_overlong_penalty():
    close(overlong_penalty(torch.tensor([10, 12, 14, 16, 20]), 16, 4), [0, 0, -0.5, -1, -1])


def test_a_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    ratio, advantage = torch.tensor([5.0, 5.0]), torch.tensor([-1.0, 1.0])
    close(losses.clipped_surrogate(ratio, advantage), [5, -1.2])
    close(losses.clipped_surrogate(ratio, advantage, dual=3.0), [3, -1.2])


def test_clipped_tokens_are_those_without_a_gradient():
    ratio = torch.tensor([0.5, 0.9, 1.5, 0.5, 1.1, 1.5]).requires_grad_()
    advantage = torch.tensor([1.0, 1, 1, -1, -1, -1])
    losses.clipped_surrogate(ratio, advantage).sum().backward()
    cut = losses.clipped(ratio, advantage)
    assert cut.tolist() == [False, False, True, True, False, False]
    assert ((ratio.grad == 0) == cut).all()


def test_ratios_are_cut_and_never_infinite():
    far = torch.tensor([1000.0, -1000.0])
    close(losses.ratios(far, torch.zeros(2)).log(), [20, -20], 1e-4)


def test_equal_rewards_give_an_advantage_of_exactly_zero():
    rewards, groups = torch.tensor([0.1] * 7 + [0.3]), torch.tensor([0] * 7 + [1])
    for function in (adv.centred, adv.standardised):
        assert (function(rewards, groups)[:7] == 0).all()
    close(adv.standardised(rewards, groups)[7], 0.3, 1e-6)  # alone: mean 0, std 1
    close(adv.no_signal(rewards, groups), 1.0)


def test_groups_may_be_of_any_size_and_order():
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0])
    groups = torch.tensor([7, 3, 7, 3, 7, 9])
    close(adv.centred(rewards, groups), [1 / 3, -0.5, 1 / 3, 0.5, -2 / 3, 0])
    with pytest.raises(ValueError, match="groups of at least 2, group 9 has 1"):
        adv.leave_one_out(rewards, groups)
    close(adv.leave_one_out(rewards[:5], groups[:5]), [0.5, -1, 0.5, 1, -1])
    assert teaches(rewards, groups).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("GRPO", {"clip_low": 2.0}, "clip_low is from 0 to 1"),
        ("GRPO", {"dual_clip": 0.5}, "dual_clip above 1"),
        ("GRPO", {"group_size": 0}, "group_size must be at least 1, got 0"),
        ("GRPO", {"kl_coef": -1.0}, "kl_coef must be at least 0"),
        ("GRPO", {"temperature": 0.0}, "temperature and max_grad_norm are above 0"),
        ("GRPO", {"demonstrations": -1}, "demonstrations is at least 0"),
        ("DAPO", {"max_rounds": 0}, "max_rounds is at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(name, wrong, message):
    cls = getattr(palaestra.agents, name)
    with pytest.raises(ValueError, match=message):
        cls("TextPolicy", cls.example.build(), **{**cls.example.kwargs, **wrong})
