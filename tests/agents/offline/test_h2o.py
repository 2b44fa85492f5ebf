"""H2O: the worked example, what each kind of steps does to the critics, edge cases."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.testing import assert_close

from palaestra.agents import H2O
from palaestra.agents.base.sac import SampledActions
from palaestra.agents.offline.h2o import (
    discriminator_loss,
    dynamics_gap,
    dynamics_ratio,
    h2o_arm,
    hybrid_critic_loss,
    log_dynamics_ratio,
    log_gap_weights,
    random_steps,
)
from palaestra.agents.offline.h2o_networks import step_rows
from palaestra.agents.offline.h2o_trials import (
    IN_SIMULATOR,
    arrivals,
    data_arm,
    mixed_arm,
    real_steps,
    simulator,
    tuning,
)
from palaestra.wrappers.physics_shift import PhysicsShift

PAIR = torch.tensor([[0.2, -0.1], [0.0, 0.5]])
STEP = torch.tensor([[0.4, -0.6], [-1.0, 1.0]])
UNREAL = torch.tensor([-9.0, 9.0])


def pendulum():
    return gym.make("TorquePendulum-v0", max_steps=10)


def made(env=None, **arguments):
    chosen = {**H2O.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return H2O("MlpPolicy", random_steps(pendulum()) if env is None else env, **chosen)


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_probabilities_and_ratio():
    first, second = PAIR.softmax(dim=1), (PAIR + STEP).softmax(dim=1)
    assert_close(first[:, 0], torch.tensor([0.574443, 0.377541]), atol=1e-6, rtol=0)
    assert_close(second[:, 0], torch.tensor([0.785835, 0.075858]), atol=1e-6, rtol=0)
    # What is computed from the logits of the step alone is the ratio of all four.
    ratio = second[:, 0] * first[:, 1] / (second[:, 1] * first[:, 0])
    assert_close(log_dynamics_ratio(STEP).exp(), ratio)
    assert_close(ratio, torch.tensor([2.718282, 0.135335]), atol=1e-5, rtol=0)
    assert_close(dynamics_ratio(STEP), torch.tensor([1.0, 0.135335]), atol=1e-6, rtol=0)


def test_worked_example_gap():
    found = dynamics_gap(STEP[:, None])
    assert found[0].item() == pytest.approx(1e-45, rel=1e-6)
    assert found[1].item() == pytest.approx(2.0, abs=1e-6)


def test_worked_example_critic_loss():
    found = hybrid_critic_loss(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([1.5, 1.0]),
        torch.tensor([[3.0, 0.5]]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([1.0, 0.2]),
        log_gap_weights(torch.tensor([0.5, 1.5])),
        0.01,
    )
    assert found.item() == pytest.approx(2.653338, abs=1e-5)


def test_the_critics_add_up():
    values = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    common = torch.zeros(2), values, torch.zeros(2), torch.ones(2), torch.full((2,), -math.log(2))
    both = hybrid_critic_loss(values, *common, 0.3)
    targets, _, sim_targets, ratios, weights = common
    one = hybrid_critic_loss(values[:1], targets, values[:1], sim_targets, ratios, weights, 0.3)
    assert both.item() == pytest.approx(2 * one.item())


def test_the_loss_of_the_discriminators():
    found = discriminator_loss(PAIR, STEP, torch.tensor([0, 1]))
    first, second = PAIR.softmax(dim=1), (PAIR + STEP).softmax(dim=1)
    expected = -sum(probs[0, 0].log() + probs[1, 1].log() for probs in (first, second))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


# -- numbers at their limits ----------------------------------------------------------------------


def test_the_gap_is_that_of_the_mean_over_neighbours_within_its_limits():
    logits = torch.tensor([[[0.0, 1.0], [0.0, 3.0]], [[0.0, 40.0], [0.0, 0.0]]])
    assert dynamics_gap(logits).tolist() == [2.0, 10.0]
    assert dynamics_ratio(torch.tensor([[-20.0, 20.0]])).item() == pytest.approx(1e-5)


def test_weights_are_equal_where_there_is_no_gap_and_sum_to_one():
    for gaps in (torch.zeros(4), torch.full((4,), 1e-45, dtype=torch.float64)):
        assert_close(log_gap_weights(gaps), torch.full((4,), -math.log(4), dtype=torch.float64))
    found = log_gap_weights(torch.tensor([0.0, 3.0, 1.0]))
    assert torch.isfinite(found).all()
    assert_close(found.exp(), torch.tensor([0.0, 0.75, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(("value", "expected"), [(5_000.0, 1_000.0), (-5_000.0, -1_000.0)])
def test_the_difference_is_limited(value, expected):
    found = hybrid_critic_loss(
        *(torch.zeros(1, 1), torch.zeros(1), torch.full((1, 1), value), torch.full((1,), value)),
        *(torch.ones(1), torch.zeros(1), 1.0),
    )
    assert found.item() == expected


# -- the agent ------------------------------------------------------------------------------------


def test_steps_that_the_simulator_gets_wrong_are_known():
    arguments = {**tuning(), **IN_SIMULATOR, "discriminator_arch": [64, 64]}
    agent = H2O("MlpPolicy", real_steps(100), seed=100, **arguments).learn(300)
    agent.metrics = defaultdict(list)
    for _ in range(250):
        agent.update_discriminators()
    losses = torch.stack(agent.metrics["discriminator_loss"])
    assert losses[-50:].mean() < 0.8 * losses[:20].mean()
    places = torch.linspace(6.5, 8.5, 20)[:, None]
    actions = torch.full_like(places, 0.8)
    real, wrong = (torch.cat([places, actions, places + d * actions], dim=1) for d in (1, -1))
    with torch.no_grad():
        found = [
            dynamics_ratio(agent.discriminators.step_logits(each)).mean() for each in (real, wrong)
        ]
    assert found[0] > 2 * found[1]


def test_targets_have_no_entropy_unless_it_is_asked_for(monkeypatch):
    following = SampledActions(torch.zeros(16, 1), torch.full((16, 1), -3.0))
    found = []
    for flag in (False, True):
        agent = made(entropy_backup=flag, gamma=0.5).learn(30)
        batch = agent.sample(16)
        monkeypatch.setattr(agent, "next_actions", lambda _: following)
        monkeypatch.setattr(agent, "critic_target", lambda s, a: (torch.ones(16, 1),) * 2)
        y = agent.target_values(batch, torch.tensor([2.0]))
        found.append((y - batch.rewards) / (1 - batch.dones))
    assert_close(found[0], torch.full((16, 1), 0.5), atol=1e-5, rtol=0)
    assert_close(found[1], torch.full((16, 1), 0.5 * (1 + 6)), atol=1e-5, rtol=0)


def test_simulated_steps_come_first_in_the_loss(monkeypatch):
    agent = made(conservatism=0.0).learn(30)
    agent.metrics = defaultdict(list)
    batch, targets = agent.sample(16), torch.zeros(16, 1)
    values = torch.arange(16.0)[:, None]
    monkeypatch.setattr(agent, "critic", lambda s, a: (values, values))
    monkeypatch.setattr(
        agent.discriminators,
        "step_logits",
        lambda x: UNREAL.expand(*x.shape[:-1], 2),
    )
    # Nothing that is simulated is believed: the loss is that of the last eight rows.
    found = agent.critic_loss(batch, targets)
    assert found.item() == pytest.approx(2 * (torch.arange(8.0, 16) ** 2).mean().item(), rel=1e-3)


def test_neighbours_keep_state_and_action(monkeypatch):
    agent, seen = made(n_neighbours=4_000).learn(22), []
    rows = step_rows(agent.sample(16))[:2]

    def noting(steps):
        seen.append(steps)
        return torch.zeros(*steps.shape[:-1], 2)

    monkeypatch.setattr(
        agent.discriminators,
        "step_logits",
        noting,
    )
    agent.gaps(rows)
    assert torch.equal(seen[0][..., :4], rows[:, None, :4].expand(-1, 4_000, -1))
    spread = (seen[0][..., 4:] - rows[:, None, 4:]).std(dim=1)
    assert_close(spread, agent.deviations.expand(2, -1), rtol=0.05, atol=0)


def test_discriminators_learn_and_are_saved(tmp_path):
    agent = made()
    before = [each.clone() for each in agent.discriminators.parameters()]
    agent.learn(60)
    after = list(agent.discriminators.parameters())
    assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert 0 < agent.logger.name_to_value["train/dynamics_ratio"] <= 1
    agent.save(tmp_path / "agent")
    loaded = H2O.load(tmp_path / "agent")
    for ours, theirs in zip(after, loaded.discriminators.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_simulator_may_be_shifted_physics():
    agent = made(random_steps(PhysicsShift(pendulum(), gravity=2.0))).learn(40)
    assert agent._n_updates > 0


# -- edge cases -----------------------------------------------------------------------------------


def test_ten_times_as_many_simulated_steps_are_kept():
    assert made().replay_buffer.buffer_size == 600
    assert made(buffer_size=70).replay_buffer.buffer_size == 70


def test_a_single_real_step_is_enough():
    data = random_steps(pendulum())
    single = {name: array[:1] for name, array in data.arrays().items()}
    agent = made(replace(data, **single))
    assert_close(agent.deviations, torch.full((3,), 1e-3))
    agent.learn(30)
    assert all(torch.isfinite(each).all() for each in agent.policy.parameters())


def test_without_real_steps_it_does_not_learn():
    with pytest.raises(ValueError, match="no real steps"):
        made(pendulum()).learn(30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_share": 0.0}, "0 real steps; there must be some of each kind"),
        ({"prior_share": 1.0}, "16 real steps; there must be some of each kind"),
        ({"conservatism": -1}, "conservatism=-1"),
        ({"n_neighbours": 0}, "n_neighbours=0"),
        ({"discriminator_arch": [0]}, "discriminator_arch=0"),
        ({"buffer_size": 0}, "buffer_size=0"),
        ({"n_steps": 3}, "n_steps=3 must be 1"),
        ({"entropy_backup": 1}, "entropy_backup=1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


class Numbered(gym.Env):
    """Continuous actions, but observations that are numbers of states."""

    observation_space, action_space = gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (1,))


def test_spaces_and_observations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"[Ss]paces"):
        made(replace(random_steps(pendulum()), env=simulator()))
    with pytest.raises(AssertionError, match="Discrete"):
        made(random_steps(gym.make("Garnet-v0")))
    with pytest.raises(ValueError, match="vectors"):
        made(Numbered())
    with pytest.raises(ValueError, match="VecNormalize"):
        made(replace(random_steps(pendulum()), env=VecNormalize(DummyVecEnv([pendulum])))).learn(30)


# -- the claim ------------------------------------------------------------------------------------


def test_where_the_real_line_ends():
    class Guide:
        def __init__(self, turn):
            self.turn = turn

        def predict(self, places, deterministic):
            return np.where(places < self.turn, -1.0, 1.0), None

    assert arrivals(Guide(5.0)) == 1.0
    assert arrivals(Guide(0.0)) == pytest.approx(0.48, abs=0.03)  # those that start on the right
    assert arrivals(Guide(99.0)) == 0.0  # to where the simulator's end is


def test_the_arms_learn():
    for arm in (h2o_arm, mixed_arm, data_arm):
        found = arm(100, 0.0034)
        updates, success = found.curves["success"]
        assert updates == [float(n) for n in range(1, 11)]
        assert found.metrics["success"] == success[-1]
