"""Dichotomy of control: the terms of its loss, the bandit, and what tables refuse."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents import SequenceDoC, TabularDoC
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.dichotomy_of_control import (
    conditional_information,
    joint_table,
    tabular_parts,
)
from palaestra.agents.offline.dichotomy_of_control_policies import best_latents
from palaestra.agents.offline.dichotomy_of_control_sequence import (
    gaussian_kl,
    gaussian_nll,
    information_bound,
)
from palaestra.agents.offline.dichotomy_of_control_trials import conditioned, expected, record

# Rows are arms, columns are returns 0 and 1; a posterior is [A, R, Z].
JOINT = torch.tensor([[0.01, 0.09], [0.81, 0.09]], dtype=torch.float64)
OF_ARM = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
OF_RETURN = torch.eye(2, dtype=torch.float64)[None].expand(2, 2, 2)
SMALL = {
    "context": 1,
    "future": 0,
    "horizon": 2,
    "latent": 2,
    "draws": 50,
    "learning_rate": 2e-3,
    "warmup_steps": 20,
    "policy_kwargs": {"width": 16, "layers": 1, "dropout": 0.0},
}


def logs(chances):
    return torch.as_tensor(chances, dtype=torch.float64).log()


def bandit(actions, rewards, /, **changes):
    """One-step episodes of a bandit."""
    n = len(actions)
    arrays = {
        "observations": np.zeros(n, int),
        "actions": np.array(actions),
        "rewards": np.array(rewards, dtype=float),
        "terminations": np.ones(n, bool),
    }
    return OfflineDataset(**{**arrays, **changes}, env=gym.make("BernoulliBandit-v0"))


# -- worked examples ------------------------------------------------------------------------------


def test_worked_example_of_the_conditioned_law():
    rows = [(0, 0)] * 1 + [(0, 1)] * 9 + [(1, 0)] * 81 + [(1, 1)] * 9
    data = bandit(*zip(*rows, strict=True))
    assert conditioned(data, 1.0).tolist() == [0.5, 0.5]
    assert expected(0.1, conditioned(data, 1.0)) == pytest.approx(0.5)
    assert conditioned(data, None).tolist() == pytest.approx([0.1, 0.9])
    with pytest.raises(ValueError, match="no step of the data paid 2.0"):
        conditioned(data, 2.0)


@pytest.mark.parametrize(
    ("posterior", "nats"),
    [(OF_ARM, 0.0), (OF_RETURN, 0.325083), (0.5 * OF_ARM + 0.5 * OF_RETURN, 0.0643064)],
)
def test_worked_example_of_the_information(posterior, nats):
    assert float(conditional_information(JOINT, logs(posterior))) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize(("posterior", "bound"), [(OF_ARM, 0.146310), (OF_RETURN, 0.471393)])
def test_worked_example_of_the_best_scores(posterior, bound):
    """With f = log p(r | a, z) / rho(r) on 100 steps that have the shares of the table."""
    together = JOINT[..., None] * posterior
    law = together / together.sum(dim=1, keepdim=True).clamp(min=1e-300)  # p(r | a, z)
    reference = JOINT.sum(dim=0)
    score = (law / reference[None, :, None]).log()
    a, r, z = (torch.tensor(x) for x in np.nonzero((together > 0).numpy()))
    repeats = (100 * together[a, r, z]).round().long()
    a, r, z = (x.repeat_interleave(repeats) for x in (a, r, z))
    found = information_bound(score[a, r, z], score[a, :, z], reference.log())
    assert len(a) == 100 and float(found) == pytest.approx(bound, abs=1e-6)


def test_worked_example_of_the_table_losses():
    actions = logs([[[0.9, 0.1], [0.2, 0.8]]])
    values = logs([[[0.1, 0.9], [0.9, 0.1]]])
    parts = tabular_parts(JOINT[None], logs(OF_ARM)[None], actions, values, logs([[0.1, 0.9]]))
    assert float(parts.action) == pytest.approx(0.211365, abs=1e-6)
    assert float(parts.value) == pytest.approx(0.325083, abs=1e-6)
    assert float(parts.information) == pytest.approx(0.0, abs=1e-12)
    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert float(parts.prior_kl) == pytest.approx(entropy)  # z tells the arm, and the prior fits
    assert float(parts.prior) == pytest.approx(entropy)


def test_worked_example_of_the_gaussians():
    mean, log_variance = torch.tensor([0.5, 0.0]), torch.tensor([0.0, -1.0])
    zero = torch.zeros(2)
    assert float(gaussian_kl(mean, log_variance, zero, zero)) == pytest.approx(0.308940, abs=1e-6)
    assert float(gaussian_kl(mean, log_variance, mean, log_variance)) == pytest.approx(0.0)
    law = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    value = torch.tensor([0.3, -2.0])
    expected_nll = -law.log_prob(value).sum()
    torch.testing.assert_close(gaussian_nll(value, mean, log_variance), expected_nll)


def test_worked_example_of_info_nce():
    scores = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    bound = information_bound(scores.diagonal(), scores, torch.full((2,), -math.log(2)))
    assert math.log(2) - float(bound) == pytest.approx(0.410038, abs=1e-6)


# -- edges ----------------------------------------------------------------------------------------


def test_what_never_happens_counts_nothing():
    """A level that is never seen, and an arm that is never played."""
    wide = torch.zeros(3, 3, dtype=torch.float64)
    wide[:2, :2] = JOINT
    logits = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    log_posterior = logits.log_softmax(-1)
    whole = conditional_information(wide, log_posterior)
    part = conditional_information(JOINT, log_posterior[:2, :2])
    torch.testing.assert_close(whole, part)
    whole.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[2].abs().max() == 0 == logits.grad[:, 2].abs().max()
    scores = torch.tensor([[0.3, -0.2, 9.0], [0.1, 0.4, 7.0]])
    found = information_bound(scores[:, 0], scores, torch.tensor([0.5, 0.5, 0.0]).log())
    dropped = information_bound(scores[:, 0], scores[:, :2], torch.tensor([0.5, 0.5]).log())
    torch.testing.assert_close(found, dropped)


def test_unlikely_latents_are_not_asked_for():
    prior = torch.tensor([[0.005, 0.595, 0.4], [0.5, 0.3, 0.2]])
    chances = torch.tensor([[1.0, 0.2, 0.6], [0.1, 0.3, 0.2]])
    assert best_latents(prior, chances).tolist() == [2, 1]
    flat = torch.full((1, 200), 0.005)
    flat[0, 7] = 0.0051
    assert best_latents(flat, torch.linspace(0, 1, 200)[None]).tolist() == [7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "no rewards"),
        ({"terminations": np.array([True, False, True])}, "have one of 2: SequenceDoC"),
        ({"terminations": None}, "no terminations and no truncations"),
    ],
)
def test_tables_refuse_other_data(changes, message):
    with pytest.raises(ValueError, match=message):
        TabularDoC("LatentTables", bandit([0, 1, 1], [0, 1, 0], **changes))


def test_tables_refuse_one_episode_many_returns_and_new_ones():
    with pytest.raises(ValueError, match="one episode, at least two"):
        TabularDoC("LatentTables", bandit([0], [1]))
    with pytest.raises(ValueError, match="101 different returns, a table tells up to 100"):
        TabularDoC("LatentTables", bandit([0] * 101, np.linspace(0, 1, 101)))
    agent = TabularDoC("LatentTables", bandit([0, 1], [0, 1]))
    with pytest.raises(ValueError, match=r"have the return 0.5, the agent knows \[0.0, 1.0\]"):
        agent.set_env(bandit([0, 1], [0, 0.5]))
    with pytest.raises(ValueError, match="target_return=0.5 is not a return of the data"):
        TabularDoC("LatentTables", bandit([0, 1], [0, 1]), target_return=0.5)
    with pytest.raises(ValueError, match="no data that says which returns"):
        TabularDoC("LatentTables", gym.make("BernoulliBandit-v0"))
    with pytest.raises(ValueError, match="information_weight=-1"):
        TabularDoC("LatentTables", bandit([0, 1], [0, 1]), information_weight=-1)


def test_sequences_refuse_one_episode_and_a_target():
    data = bandit([0, 1], [0, 1], next_observations=np.zeros(2, int))
    with pytest.raises(ValueError, match="asks for the latent of the highest value"):
        SequenceDoC("MlpPolicy", data, **SMALL, target_return=1.0)
    agent = SequenceDoC("MlpPolicy", data, **SMALL)
    with pytest.raises(ValueError, match="asks for the latent of the highest value"):
        agent.predict(np.zeros(1, int), target_return=1.0)
    alone = bandit([0], [1], next_observations=np.zeros(1, int))
    with pytest.raises(ValueError, match="one episode, at least two"):
        SequenceDoC("MlpPolicy", alone, **SMALL)


# -- properties -----------------------------------------------------------------------------------


def test_it_takes_the_better_arm_where_conditioning_does_not():
    data = record(0.1, 100)
    agent = TabularDoC("LatentTables", data, seed=100).learn(700)
    assert expected(0.1, agent.policy.laws()[0].numpy()) > 0.88
    assert float(agent.parts().information.detach()) < 0.01
    assert expected(0.1, conditioned(data, 1.0)) < 0.55
    assert (agent.predict(np.zeros(3, int), deterministic=True)[0] == 0).all()
    worst = TabularDoC("LatentTables", data, seed=100, target_return=0.0).learn(700)
    assert expected(0.1, worst.policy.laws()[0].numpy()) < 0.12


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_without_luck_the_constraint_changes_nothing(weight):
    rng = np.random.default_rng(0)
    arms = rng.integers(2, size=200)
    agent = TabularDoC("LatentTables", bandit(arms, 1 - arms), information_weight=weight, seed=0)
    agent.learn(500)
    assert expected(0.0, agent.policy.laws()[0].numpy()) > 0.97
    assert float(agent.parts().information.detach()) < 1e-6


def test_states_have_tables_of_their_own():
    """Arm 0 pays more in state 0, arm 1 in state 1; state 2 is never seen."""
    rng = np.random.default_rng(1)
    states, arms = rng.integers(2, size=2_000), rng.integers(2, size=2_000)
    paid = (rng.random(2_000) < np.where(states == arms, 0.8, 0.2)).astype(float)
    data = OfflineDataset(
        observations=states,
        actions=arms,
        rewards=paid,
        terminations=np.ones(2_000, bool),
        observation_space=gym.spaces.Discrete(3),
        action_space=gym.spaces.Discrete(2),
    )
    agent = TabularDoC("LatentTables", data, seed=0).learn(800)
    laws = agent.policy.laws()
    assert laws[0, 0] > 0.97 and laws[1, 1] > 0.97
    assert laws[2].tolist() == [0.5, 0.5]
    table = joint_table(states, arms, paid.astype(int), (3, 2, 2))
    assert table.sum() == pytest.approx(1.0) and table[2].sum() == 0


def test_a_sequence_of_one_step_takes_the_better_arm():
    data = record(0.1, 100)
    agent = SequenceDoC(
        "MlpPolicy", data, **SMALL, information_weight=5.0, prior_weight=0.1, seed=100, device="cpu"
    )
    agent.learn(500)
    arms, _ = agent.predict(np.zeros(500, int))
    assert (arms == 0).mean() > 0.4  # they are 1 in 10 in the data
    assert float(agent.noted["information"]) < 0.05
    first, _ = agent.predict(np.zeros(5, int), deterministic=True)
    again, _ = agent.predict(np.zeros(1, int), deterministic=True)
    assert set(first) == set(again)  # the same draws, whatever the batch


def test_what_lies_beyond_the_episode_does_not_matter():
    """Windows that end sooner are read up to their last step."""
    env = gym.make("TorquePendulum-v0", max_steps=5)
    data = OfflineDataset.record(env, 40)
    agent = SequenceDoC("MlpPolicy", data, context=3, future=4, horizon=5, latent=2, draws=4)
    agent.learn(1)
    agent.policy.set_training_mode(False)
    batch = agent.draw()
    assert batch["mask"].shape == (64, 7)
    assert (batch["scored"] < batch["mask"][:, :3].sum(1)).all()
    mean, _ = agent.policy.infer(batch)
    spoiled = dict(batch)
    for name in ("rewards", "actions", "observations"):
        outside = ~batch["mask"].reshape(64, 7, *[1] * (batch[name].ndim - 2))
        spoiled[name] = torch.where(outside, batch[name] + 3.0, batch[name])
    torch.testing.assert_close(agent.policy.infer(spoiled)[0], mean)
