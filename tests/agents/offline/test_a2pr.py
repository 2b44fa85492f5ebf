"""A2PR: the worked example, what learns from what, edge cases, and the running agent."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from palaestra.agents import A2PR
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline import a2pr
from palaestra.agents.offline.a2pr import advantage_guide, autoencoder_loss, guided_distance
from palaestra.agents.offline.a2pr_networks import Reconstruction
from palaestra.agents.offline.base_td3_bc import random_play, regularised_loss
from palaestra.envs.control.line_world_data import mostly_bad_steps


def column(*numbers):
    return torch.tensor(numbers)[:, None]


def made(data=None, **arguments):
    if data is None:
        data = random_play(gym.make("LineWorld-v0", max_steps=10))
    chosen = {**A2PR.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return A2PR("MlpPolicy", data, **chosen)


def judged_batch(agent, size=16):
    """A minibatch with values by which about half of the actions are better than usual."""
    agent._setup_learn(1)
    batch = agent.tensors.sample(size, np.random.default_rng(0))
    with torch.no_grad():
        found = agent.critic.first(batch["observations"], batch["actions"])
    return batch | {"recorded_values": found, "state_values": found.median().expand(size)}


# -- the worked example ---------------------------------------------------------------------------

ACTIONS = column(0.5, 0.9, 0.0)
VALUES = torch.tensor([1.8, -0.2, 1.0])
PROPOSED, RECORDED = column(0.8, -0.2, 0.3), column(0.1, 0.4, -0.6)
PROPOSED_VALUES, RECORDED_VALUES = torch.tensor([2.0, 0.5, 0.1]), torch.tensor([1.0, 1.2, 0.3])
STATE_VALUES = torch.tensor([1.5, 1.0, 0.5])
GUIDE = column(0.8, 0.4, -0.6)


def test_worked_example_guide():
    guide, applies, chosen = advantage_guide(
        PROPOSED, RECORDED, PROPOSED_VALUES, RECORDED_VALUES, STATE_VALUES
    )
    assert_close(guide, GUIDE)
    assert applies.tolist() == [True, True, False]
    assert chosen.tolist() == [True, False, False]


def test_worked_example_actor():
    constraint = 0.4 * guided_distance(ACTIONS, GUIDE, torch.tensor([True, True, False]))
    assert float(constraint) == pytest.approx(0.0453333, abs=1e-6)
    assert float(regularised_loss(VALUES, constraint, 2.5)) == pytest.approx(-2.121333, abs=1e-5)
    values = float(regularised_loss(VALUES, torch.tensor(0.0), 2.5))
    assert values == pytest.approx(-2.166667, abs=1e-5)


def test_worked_example_actor_of_the_agent(monkeypatch):
    agent = made(alpha=2.5, constraint_weight=0.4)
    found = iter([VALUES, PROPOSED_VALUES])
    monkeypatch.setattr(agent, "actor", lambda observations: ACTIONS)
    monkeypatch.setattr(agent.critic, "first", lambda observations, actions: next(found))
    proposal = Reconstruction(PROPOSED, torch.zeros(3, 2), torch.zeros(3, 2))
    monkeypatch.setattr(agent, "reconstruct", lambda batch, actions: proposal)
    batch = {
        "observations": torch.zeros(3, 1),
        "actions": RECORDED,
        "recorded_values": RECORDED_VALUES,
        "state_values": STATE_VALUES,
    }
    assert float(agent.actor_loss(batch)) == pytest.approx(-2.121333, abs=1e-5)
    assert float(agent.noted["constrained"]) == pytest.approx(2 / 3)
    assert float(agent.noted["proposed"]) == pytest.approx(1 / 3)


def test_worked_example_value_targets(monkeypatch):
    agent = made(gamma=0.9)
    batch = {
        "next_observations": torch.zeros(2, 1),
        "rewards": torch.tensor([1.0, 0.0]),
        "terminations": torch.tensor([0.0, 1.0]),
    }
    for critic, values in (
        (agent.critic_target, [[2.5, 5.0], [1.0, 5.0]]),
        (agent.critic, [[2.0, 5.0], [3.0, 5.0]]),
    ):
        monkeypatch.setattr(critic, "values", lambda seen, actions, v=values: torch.tensor(v))
    actions = torch.zeros(2, 1)
    targets = agent.critic_targets(batch, actions)
    assert_close(targets, torch.tensor([1.9, 0.0]))
    assert_close(agent.value_targets(batch, actions, targets), torch.tensor([1.9, 0.0]))
    # Of higher targets the online critics' 1 + 0.9 * 2 is the least.
    assert_close(agent.value_targets(batch, actions, targets + 9), torch.tensor([2.8, 0.0]))


def test_worked_example_autoencoder():
    std = torch.tensor([[1.0, 0.5], [2.0, 1.0]])
    mean = torch.tensor([[0.3, 0.0], [0.0, 0.4]])
    found = Reconstruction(column(0.5, 0.2), mean, std.log())
    better = torch.tensor([1.0, 0.5]) > torch.tensor([0.5, 1.0])
    actions = column(0.1, -0.2)
    loss = autoencoder_loss(found, actions, better, 1.5)
    divergence = autoencoder_loss(found, actions, torch.zeros(2), 1.5)
    assert float(loss) == pytest.approx(0.27625, abs=1e-5)
    assert float(loss - divergence) == pytest.approx(0.12, abs=1e-5)
    assert float(divergence) == pytest.approx(0.5 * 0.3125, abs=1e-5)


# -- what learns from what ------------------------------------------------------------------------


def test_equal_advantages_choose_the_proposal():
    ones = torch.ones(3)
    guide, applies, chosen = advantage_guide(PROPOSED, RECORDED, ones, ones, ones)
    assert_close(guide, PROPOSED)
    assert applies.all() and chosen.all()  # a proposal as good as usual is followed


def test_recorded_actions_as_good_as_usual_are_not_followed():
    zeros = torch.zeros(3)
    _, applies, _ = advantage_guide(PROPOSED, RECORDED, zeros - 1, zeros, zeros)
    assert not applies.any()


def test_where_nothing_is_better_there_is_no_constraint():
    agent = made()
    batch = judged_batch(agent)
    batch["state_values"] = torch.full((16,), 1e3)
    constraint = agent.regulariser(batch, agent.actor(batch["observations"]))
    assert float(constraint.detach()) == 0.0


def test_actions_as_good_as_usual_are_not_learned(monkeypatch):
    agent = made()
    batch = judged_batch(agent)
    gates = []
    monkeypatch.setattr(
        a2pr, "autoencoder_loss", lambda found, actions, better, weight: gates.append(better)
    )
    monkeypatch.setattr(a2pr, "descend", lambda optimizer, loss: None)
    monkeypatch.setattr(agent, "note", lambda **scalars: None)
    agent.update_autoencoder(batch)
    agent.update_autoencoder(batch | {"state_values": batch["recorded_values"]})
    assert gates[0].tolist() == (batch["recorded_values"] > batch["state_values"]).tolist()
    assert not gates[1].any()


def test_values_of_zero_leave_the_loss_finite():
    assert float(regularised_loss(torch.zeros(4), torch.tensor(0.5), 2.5)) == 0.5


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_goes_through_the_proposal_unless_it_is_detached(detached, monkeypatch):
    agent = made(detach_guide=detached)
    batch = judged_batch(agent)
    best = batch | {"recorded_values": torch.full((16,), -9e3), "state_values": torch.zeros(16)}
    monkeypatch.setattr(
        agent.critic, "first", lambda observations, actions: torch.ones(len(actions))
    )
    actions = batch["actions"].clone().requires_grad_()
    torch.manual_seed(0)
    agent.regulariser(best, actions).backward()
    torch.manual_seed(0)
    proposed = agent.reconstruct(batch, batch["actions"]).actions.detach()
    alone = 2 * (batch["actions"] - proposed) / 16
    assert torch.allclose(actions.grad, alone, atol=1e-6) == detached


def test_a_step_of_the_actor_changes_nothing_else():
    agent = made()
    batch = judged_batch(agent)
    before = {name: each.clone() for name, each in agent.policy.state_dict().items()}
    agent.update_actor(batch)
    changed = {
        name.split(".")[0]
        for name, each in agent.policy.state_dict().items()
        if not torch.equal(each, before[name])
    }
    assert changed == {"actor"}


def test_the_value_of_before_its_step_judges():
    agent = made()
    batch = judged_batch(agent)
    before = agent.value(batch["observations"]).detach().clone()
    found = agent.update_value(batch, torch.full((16,), 5.0))
    assert torch.equal(found, before)
    assert float((agent.value(batch["observations"]).detach() - before).abs().max()) > 0


def test_codes_and_reconstructions_have_their_widths_and_bounds():
    agent = made()
    batch = judged_batch(agent)
    agent.autoencoder.encoder[-1].bias.data += torch.tensor([0.0, 0.0, -50.0, 50.0])
    found = agent.reconstruct(batch, batch["actions"])
    assert found.mean.shape == found.log_std.shape == (16, 2)
    assert found.log_std.unique().tolist() == [-4.0, 15.0]
    assert found.actions.shape == (16, 1) and float(found.actions.detach().abs().max()) <= 1


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_constraint_is_weighted(weight):
    found = []
    for each in (weight, 1.0):
        agent = made(constraint_weight=each)
        batch = judged_batch(agent)
        torch.manual_seed(0)
        found.append(float(agent.regulariser(batch, batch["actions"] * 0).detach()))
    assert found[1] > 0
    assert found[0] == pytest.approx(weight * found[1])


# -- edge cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("constraint_weight", -1),
        ("autoencoder_weight", np.nan),
        ("autoencoder_rate", -1e-3),
        ("detach_guide", "yes"),
    ],
)
def test_arguments_out_of_range_are_errors(name, given):
    with pytest.raises(ValueError, match=name):
        made(**{name: given})


def test_widths_of_the_autoencoder_are_checked():
    with pytest.raises(ValueError, match="autoencoder_arch"):
        made(policy_kwargs={"autoencoder_arch": [0]})


def test_discrete_actions_are_an_error():
    with pytest.raises(ValueError, match="Discrete"):
        A2PR("MlpPolicy", gym.make("Garnet-v0"))


@pytest.mark.parametrize("name", ["observations", "next_observations", "actions", "rewards"])
def test_numbers_that_are_not_finite_are_errors(name):
    columns = mostly_bad_steps(rows=8)
    columns[name] = columns[name].copy()
    columns[name][3] = np.nan
    with pytest.raises(ValueError, match=rf"{name}\[3\]"):
        made(OfflineDataset(**columns, env=gym.make("LineWorld-v0"))).learn(1)


def test_no_steps_are_an_error():
    columns = {name: array[:0] for name, array in mostly_bad_steps(rows=1).items()}
    with pytest.raises(ValueError, match="no steps"):
        OfflineDataset(**columns, env=gym.make("LineWorld-v0"))


# -- the running agent ----------------------------------------------------------------------------


def test_a_policy_can_be_saved_alone(tmp_path):
    policy = made().policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    assert loaded.autoencoder_arch == [16]
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_it_learns_to_go_right_where_most_actions_go_left():
    data = a2pr.line_data(mostly_bad_steps(rows=1_000, seed=100))
    kwargs = {"net_arch": [32, 32], "autoencoder_arch": [32, 32]}
    agent = A2PR("MlpPolicy", data, seed=100, policy_kwargs=kwargs, **a2pr.TUNING).learn(300)
    shares = a2pr.guide_shares(agent)
    assert 0 < shares["constrained"] <= 1 and 0 < shares["proposed"] <= 1
    assert a2pr.learned_on_the_line(agent, 10).metrics["reached"] == 1.0
