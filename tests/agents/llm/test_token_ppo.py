"""PPO on tokens: rewards, advantages and both losses of the worked example, and the agent."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra
from palaestra.agents.base.text.advantages import generalised_advantages, whitened
from palaestra.agents.base.text.losses import clipped_surrogate, kl_k3, ratios, token_mean
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm.token_ppo import token_rewards, value_loss

MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
OLD = torch.tensor([[-0.5, -1, -0.2], [-0.7, -0.3, 0], [-1.2, -0.4, -0.9], [-0.6, 0, 0]]).double()
NEW = OLD + torch.tensor([[0.1, -0.3, 0.4], [0.25, -0.5, 0], [-0.1, 0.3, -0.4], [0.2, 0, 0]])
REFERENCE = OLD + torch.tensor([[-0.1, 0.2, 0], [0.3, 0.1, 0], [0, -0.2, 0.1], [0.1, 0, 0]])
REWARDS = torch.tensor([1, 0, 1, 0.5]).double()
VALUES = torch.tensor([[0.5, 0.6, 0.7], [0.4, 0.2, 0], [0.6, 0.5, 0.8], [0.3, 0, 0]]).double()
ADVANTAGES = [
    [0.45715, 0.397, 0.26],
    [-0.328, -0.14, 0],
    [0.373125, 0.4875, 0.25],
    [0.19, 0, 0],
]
RETURNS = [[0.95715, 0.997, 0.96], [0.072, 0.06, 0], [0.973125, 0.9875, 1.05], [0.49, 0, 0]]
WHITENED = [
    [0.86810643, 0.65129759, 0.15748528],
    [-1.9619428, -1.2843025, 0],
    [0.56524089, 0.97750208, 0.12144058],
    [-0.09482758, 0, 0],
]


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def make(**arguments):
    cls = palaestra.agents.TokenPPO
    changed = {**cls.example.kwargs, **arguments}
    return cls("TextPolicy", cls.example.build(), seed=0, device="cpu", **changed)


def worked_batch(**more):
    tokens = torch.zeros_like(MASK).long()
    arrays = (tokens[:, :1], MASK[:, :1], tokens, MASK)
    return TokenBatch(*arrays, rewards=REWARDS, **more)


def test_worked_example_of_token_rewards():
    found = token_rewards(REWARDS, MASK, NEW, REFERENCE, 0.1)
    close(found, [[-0.02, 0.05, 0.96], [0.005, 0.06, 0], [0.01, -0.05, 1.05], [0.49, 0, 0]])
    close(token_rewards(REWARDS, MASK), [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0.5, 0, 0]])


def test_worked_example_of_advantages_and_returns():
    rewards = token_rewards(REWARDS, MASK, NEW, REFERENCE, 0.1)
    advantages = generalised_advantages(rewards, VALUES, MASK)
    close(advantages, ADVANTAGES)
    close(advantages + VALUES, RETURNS)
    close(whitened(advantages, MASK), WHITENED)


def test_worked_example_of_both_losses():
    advantages = torch.tensor(WHITENED, dtype=torch.float64)
    surrogate = clipped_surrogate(ratios(NEW, OLD), advantages)
    close(token_mean(surrogate, MASK), 0.02952333)
    returns = torch.tensor(RETURNS, dtype=torch.float64)
    close(value_loss(VALUES + 0.3, VALUES, returns, MASK), 0.04576376)


def test_worked_example_in_the_agent(monkeypatch):
    """The stages of the agent, the log-probabilities that sampled and that learn being the same."""
    agent = make(kl_coef=0.1, value_coef=0.5)
    monkeypatch.setattr(agent.policy, "values", lambda batch: VALUES)
    batch = worked_batch(old_log_probs=NEW, reference_log_probs=REFERENCE)
    batch.advantages = agent.advantage(batch)
    close(batch.advantages, WHITENED)
    close(batch.extra["returns"], RETURNS)
    batch.old_log_probs, batch.log_probs, batch.values = OLD, NEW, VALUES + 0.3
    close(agent.loss(batch), 0.02952333 + 0.5 * 0.04576376)  # no KL term besides


def test_a_value_that_has_moved_too_far_has_no_gradient():
    values = torch.tensor([[0.5, -0.5, 0.1, 1.5]]).requires_grad_()
    returns, mask = torch.tensor([[1.0, 1, 1, 1]]), torch.ones(1, 4).bool()
    value_loss(values, torch.zeros(1, 4), returns, mask).backward()
    # Moved towards the return by 0.5: stopped. Away from it, or by little: as without a clip.
    close(values.grad, [[0, -1.5 / 4, -0.9 / 4, 0]])
    values.grad = None
    value_loss(values, torch.zeros(1, 4), returns, mask, clip=None).backward()
    close(values.grad, [[-0.5 / 4, -1.5 / 4, -0.9 / 4, 0.5 / 4]])


def test_without_a_discount_and_with_a_full_trace_returns_are_the_rewards_to_go():
    rewards = token_rewards(REWARDS, MASK, NEW, REFERENCE, 0.1)
    found = generalised_advantages(rewards, VALUES, MASK, trace=1.0) + VALUES
    to_go = rewards.flip(1).cumsum(1).flip(1)
    close(found * MASK, to_go * MASK)


def test_the_kl_stands_in_the_rewards_and_not_in_the_loss():
    with_kl, without = make(kl_coef=0.5), make(kl_coef=0.0)
    for agent in (with_kl, without):
        agent.learn(0)
    assert without.reference is None and with_kl.reference is not None
    with torch.no_grad():  # a reference that is somewhere else
        for parameter in with_kl.reference.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    seen = []
    plain = with_kl.token_rewards

    def spied(batch):
        seen.append((batch, plain(batch)))
        return seen[-1][1]

    with_kl.token_rewards = spied
    found = with_kl.update()
    [(batch, rewards)] = seen
    gap = batch.old_log_probs - batch.reference_log_probs
    ends = token_rewards(batch.rewards, batch.mask)
    close((ends - rewards)[batch.mask], 0.5 * gap[batch.mask])
    k3 = token_mean(kl_k3(batch.old_log_probs, batch.reference_log_probs), batch.mask)
    assert found["train/kl_reference"] == pytest.approx(float(k3), rel=1e-5)
    assert float(gap.abs().sum()) > 0
    assert "train/kl_reference" not in without.update()


def test_values_learn_what_replies_are_worth():
    class Half(palaestra.agents.TokenPPO):
        """Pays 0.5 for any reply."""

        def reward(self, rollouts):
            return torch.full((len(rollouts.texts),), 0.5)

    cls = palaestra.agents.TokenPPO
    agent = Half(
        "TextPolicy",
        cls.example.build(),
        seed=0,
        **{**cls.example.kwargs, "kl_coef": 0.0, "value_coef": 1.0, "learning_rate": 0.01},
    )
    agent.learn(16 * 25)
    batch = agent.sample().batch
    with torch.no_grad():
        values = agent.policy.values(batch)[batch.mask]
    assert float((values - 0.5).abs().mean()) < 0.1


def test_values_are_learned_even_where_all_advantages_are_zero():
    agent = make(kl_coef=0.0)
    batch = worked_batch()
    batch.advantages = torch.zeros(4, 3)
    batch.extra = {"returns": VALUES, "old_values": VALUES}
    assert agent.nothing_to_learn(batch)
    batch.extra["returns"] = VALUES + 0.1 * MASK
    assert not agent.nothing_to_learn(batch)


def test_a_batch_without_reward_and_kl_changes_nothing():
    agent = make(kl_coef=0.0)
    agent.learn(0)
    agent.reward = lambda rollouts: torch.zeros(len(rollouts.texts))
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    assert agent.update()["train/skipped"] == 1
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_single_token_has_no_spread_to_whiten_by():
    one = torch.tensor([[0.7]])
    close(whitened(one, torch.ones(1, 1).bool()), [[0.0]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 0.0}, "gamma is above 0"),
        ({"gae_lambda": 1.5}, "gae_lambda from 0 to 1"),
        ({"value_coef": -1.0}, "value_coef is at least 0"),
        ({"clip_value": 0.0}, "clip_value above 0 or None"),
        ({"clip_low": math.inf}, "clip_low is from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
