"""Policy-guided diffusion: the sampler and the guidance against numbers, and what they make."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.testing import assert_close

from palaestra.agents import PGDIQL, PGDTD3BC
from palaestra.agents.base.nets.edm import (
    Churn,
    denoised,
    denoising_loss,
    generate,
    heun_step,
    noise_levels,
    preconditioning,
)
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.policy_guided_diffusion_data import SyntheticData
from palaestra.agents.offline.policy_guided_diffusion_guidance import (
    Guidance,
    action_gradients,
    guidance_weights,
    unit_gaussian_log_prob,
    unit_length,
)
from palaestra.agents.offline.policy_guided_diffusion_model import (
    TrajectoryDiffusion,
    rows_of,
    transitions,
    warm_cosine,
    window_starts,
)
from palaestra.agents.offline.policy_guided_diffusion_networks import TrajectoryMLP, TrajectoryUNet

SMALL = {"length": 3, "stride": 1, "denoiser": "MLP", "denoiser_kwargs": {"hidden": [16]}}
CLASSES = pytest.mark.parametrize("cls", [PGDTD3BC, PGDIQL])


def nothing(x, noise):
    """A network whose outputs are 0."""
    return torch.zeros_like(x)


def bare(x, level):
    """D(x; s) of that network."""
    return denoised(nothing, x, level)


def steps(n=24, ends=(5, 13, 23), terminal=(13,), seed=0, **changes):
    """Recorded steps whose action is -s / 2 on the average, in [-2, 2]; nowhere else is the end."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n, 1)).astype(np.float32)
    arrays = {
        "observations": seen,
        "actions": (-0.5 * seen + 0.1 * rng.normal(size=(n, 1))).clip(-2, 2).astype(np.float32),
        "rewards": np.arange(n, dtype=float),
        "next_observations": seen,
        "terminations": np.isin(np.arange(n), terminal),
        "truncations": np.isin(np.arange(n), [end for end in ends if end not in terminal]),
        "observation_space": Box(-np.inf, np.inf, (1,)),
        "action_space": Box(-2, 2, (1,)),
    }
    return OfflineDataset(**{**arrays, **changes})


def agent_of(cls, data=None, **arguments):
    data = cls.example.build() if data is None else data
    return cls("MlpPolicy", data, **{**cls.example.kwargs, "seed": 0, "device": "cpu", **arguments})


# -- numbers --------------------------------------------------------------------------------------


def test_worked_example_of_the_noise_levels():
    assert noise_levels(4) == pytest.approx([80, 9.723201, 0.469979, 0.002, 0], abs=1e-6)


def test_worked_example_of_the_preconditioning():
    found = preconditioning(torch.tensor(2.0))
    assert [float(x) for x in found] == pytest.approx([0.2, 0.894427, 0.447214, 0.173287], abs=1e-6)


def test_worked_example_of_the_loss():
    x, noise = torch.tensor([[[1.0, 0.5]]]), torch.tensor([[[0.3, -0.2]]])
    # weight 1.25, D = 0.2 (x + 2 n)
    assert float(denoising_loss(bare, x, noise, torch.tensor(2.0))) == pytest.approx(
        0.433, abs=1e-6
    )


def test_worked_example_of_a_step():
    x = torch.tensor([1.0, -2.0])
    assert_close(heun_step(bare, x, 2.0, 1.0), torch.tensor([0.65, -1.3]))
    # the last step is Euler's: it goes to D itself
    assert_close(heun_step(bare, x, 2.0, 0.0), 0.2 * x)


def test_worked_example_of_the_weights():
    expected = [1.114805, 1.087132, 1.027164, 0.925, 0.777164, 0.587132, 0.364805, 0]
    assert guidance_weights(8, 1.0) == pytest.approx(expected, abs=1e-6)
    assert guidance_weights(8, 2.0) == pytest.approx([2 * each for each in expected], abs=1e-5)


def test_worked_example_of_the_guidance():
    means = torch.tensor([[[0.2], [0.0]]])
    found = action_gradients(
        lambda seen, actions: unit_gaussian_log_prob(means, actions),
        torch.zeros(1, 2, 1),
        torch.tensor([[[0.5], [-1.0]]]),
        torch.tensor([0.1]),
        torch.tensor([2.0]),
    )
    assert_close(found, torch.tensor([[[-0.431400], [0.163727]]]), atol=1e-6, rtol=0)
    expected = torch.tensor([[[-0.934931], [0.354829]]])
    assert_close(unit_length(found), expected, atol=1e-6, rtol=0)


def test_a_gradient_of_zero_stays_zero():
    found = unit_length(torch.zeros(3, 2, 1))
    assert_close(found, torch.zeros(3, 2, 1))


def test_each_trajectory_is_scaled_by_its_own_length():
    found = unit_length(torch.tensor([[[3.0], [4.0]], [[0.0], [-0.1]]]))
    assert_close(found, torch.tensor([[[0.6], [0.8]], [[0.0], [-1.0]]]))


def test_the_learning_rate_rises_and_falls():
    found = [warm_cosine(step, 20, 2.0) for step in (0, 1, 2, 11, 20)]
    assert found == pytest.approx([0.2, 1.1, 2.0, 1.0, 0.0])
    assert warm_cosine(0, 1, 2.0) == 2.0


# -- the sampler ----------------------------------------------------------------------------------


def test_noise_is_added_between_two_levels():
    churn = Churn()
    assert churn.factor(60.0, 64) == churn.factor(0.04, 64) == 0
    assert churn.factor(1.0, 64) == math.sqrt(2) - 1
    assert churn.factor(1.0, 256) == 0.3125


def test_with_the_exact_denoiser_samples_have_the_moments_of_the_data():
    mean, deviation = 0.5, 0.7

    def exact(x, level):
        return mean + deviation**2 / (deviation**2 + level**2) * (x - mean)

    noise = torch.randn(4_000, 2, generator=torch.Generator().manual_seed(0))
    for churn in (None, Churn(scale=1.0)):
        draws = torch.Generator().manual_seed(1)
        found = generate(exact, noise, noise_levels(40), churn, generator=draws)
        assert abs(float(found.mean()) - mean) < 0.03
        assert abs(float(found.std()) - deviation) < 0.03


@pytest.mark.parametrize("wrong", [1, 0, -3])
def test_fewer_than_two_steps_are_refused(wrong):
    with pytest.raises(ValueError, match=f"steps={wrong} must be an integer of at least 2"):
        noise_levels(wrong)


# -- windows and steps ----------------------------------------------------------------------------


def test_windows_keep_within_episodes_and_reach_their_ends():
    ends = np.array([2, 9, 12])  # episodes of 2, 7 and 3 steps
    assert window_starts(ends, 3, 1).tolist() == [2, 3, 4, 5, 6, 9]
    assert window_starts(ends, 3, 3).tolist() == [2, 5, 6, 9]
    assert window_starts(ends, 7, 1).tolist() == [2]
    with pytest.raises(ValueError, match="length=8: the longest episode has 7 steps"):
        window_starts(ends, 8, 1)


def test_rows_hold_actions_before_the_tanh():
    found = rows_of(
        torch.tensor([[2.0], [3.0]]),
        torch.tensor([[0.5], [1.0]]),
        torch.tensor([7.0, 8.0]),
        torch.tensor([0.0, 1.0]),
    )
    expected = torch.tensor([[2.0, math.atanh(0.5), 7.0, 0.0], [3.0, 6.1030, 8.0, 1.0]])
    assert_close(found, expected, atol=2e-3, rtol=0)


def test_rows_give_one_step_fewer_unless_the_last_one_ends_the_task():
    done = torch.tensor([[0.1, 0.2, 0.4], [0.0, -0.3, 0.9]])
    seen = torch.arange(6.0).view(2, 3)
    rows = torch.stack([seen, torch.full((2, 3), 0.5), 10 * seen, done], dim=2)
    found = transitions(rows, 1, 1)
    assert found["observations"].flatten().tolist() == [0, 1, 3, 4, 5]
    assert found["next_observations"].flatten().tolist() == [1, 2, 4, 5, 5]
    assert found["rewards"].tolist() == [0, 10, 30, 40, 50]
    assert found["terminations"].tolist() == [0, 0, 0, 0, 1]
    assert found["truncations"].tolist() == [0, 1, 0, 0, 0]
    assert_close(found["actions"], torch.full((5, 1), math.tanh(0.5)))


def test_what_is_constant_is_not_divided_by_zero():
    model = TrajectoryDiffusion(1, 1, 3, "MLP")
    rows = torch.tensor([[1.0, 0.0, 0.1, 0.0], [3.0, 1.0, 0.1, 0.0]])
    model.measure(rows)
    assert model.deviation.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert_close(model.standardised(rows)[:, 2:], torch.zeros(2, 2))
    assert_close(model.restored(model.standardised(rows)), rows)


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "length", "sizes"),
    [(TrajectoryMLP, 6, [[8]]), (TrajectoryUNet, 6, [8, 3]), (TrajectoryUNet, 5, [8, 1])],
)
def test_networks_take_one_level_for_all_or_one_each(cls, length, sizes):
    net, x = cls(length, 3, *sizes), torch.randn(4, length, 3)
    together, alone = net(x, torch.tensor(0.3)), net(x, torch.full((4, 1, 1), 0.3))
    assert together.shape == x.shape
    assert_close(together, alone)
    other = net(x, torch.tensor([0.3, 0.3, 0.3, -0.5]))
    assert_close(other[:3], together[:3])
    assert (other[3] - together[3]).abs().max() > 1e-4


def test_a_u_net_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="length=3"):
        TrajectoryUNet(3, 2, 8, 3)
    with pytest.raises(ValueError, match="features=12 must be a multiple of 8"):
        TrajectoryUNet(8, 2, 12, 3)


# -- the data tool --------------------------------------------------------------------------------


def pull_up(observations, actions):
    """Likes large actions."""
    return 3 * actions.sum(-1)


def test_guided_actions_are_likelier_and_the_rest_stays_near():
    source = SyntheticData(steps(600, range(5, 600, 6), ()), **SMALL).fit(300, batch_size=64)
    assert source.loss < 1.2
    plain = source.generate(200, steps=16, seed=1)
    guided = source.generate(200, Guidance(pull_up, 0.5), steps=16, seed=1)
    more = source.generate(200, Guidance(pull_up, 0.5, normalize=False), steps=16, seed=1)
    assert guided.actions.mean() > plain.actions.mean() + 0.2
    assert more.actions.mean() > plain.actions.mean() + 0.2
    assert abs(plain.observations.std() - 1) < 0.3
    # two steps each, and a third where one ends the task, of which there is none in the data
    assert 400 <= len(plain) < 500


def test_without_a_coefficient_the_policy_is_not_asked():
    def never(observations, actions):
        raise AssertionError

    source = SyntheticData(steps(), **SMALL).fit(5)
    plain = source.generate(5, steps=4, seed=3)
    guided = source.generate(5, Guidance(never, 0.0), steps=4, seed=3)
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(array, getattr(guided, name))
    with pytest.raises(AssertionError):
        source.generate(5, Guidance(never, 1.0), steps=4, seed=3)


def test_the_guided_policy_sees_observations_in_the_scale_of_the_data():
    seen = []

    def watch(observations, actions):
        seen.append((observations, actions))
        return actions.sum(-1)

    data = steps(observations=1_000 + steps().observations)
    SyntheticData(data, **SMALL).generate(5, Guidance(watch), steps=4)
    assert len(seen) == 3  # not in the last step
    assert all(abs(float(s.median()) - 1_000) < 5 and a.abs().max() <= 1 for s, a in seen)


def test_the_same_seed_makes_the_same_data():
    made = [SyntheticData(steps(), seed=4, **SMALL).fit(20) for _ in range(2)]
    first, second = (source.generate(4, steps=4) for source in made)
    np.testing.assert_array_equal(first.observations, second.observations)
    assert made[0].generate(4, steps=4).observations[0] != first.observations[0]


def test_actions_and_observations_keep_within_their_spaces():
    wide = steps(observation_space=Box(-3, 3, (1,)), observations=steps().observations.clip(-3, 3))
    source = SyntheticData(wide, **SMALL)
    found = source.generate(50, Guidance(pull_up, 50.0, normalize=False), steps=8)
    assert np.abs(found.observations).max() <= 3
    assert np.abs(found.actions).max() <= 2


def test_data_that_do_not_fit_are_refused():
    cart = OfflineDataset.record(gym.make("CartPole-v1"), 20)
    with pytest.raises(ValueError, match="needs actions in a flat Box, got Discrete"):
        SyntheticData(cart)
    with pytest.raises(ValueError, match="actions in a bounded Box"):
        SyntheticData(steps(action_space=Box(-np.inf, np.inf, (1,))))
    with pytest.raises(ValueError, match="length=11: the longest episode has 10 steps"):
        SyntheticData(steps(), **{**SMALL, "length": 11})
    with pytest.raises(ValueError, match="the data lack rewards"):
        SyntheticData(steps(rewards=None))
    with pytest.raises(ValueError, match="denoiser='GAN', allowed are"):
        SyntheticData(steps(), denoiser="GAN")
    with pytest.raises(ValueError, match="coefficient=-1"):
        Guidance(pull_up, -1)


# -- the agents -----------------------------------------------------------------------------------


@CLASSES
def test_first_the_model_learns_and_then_the_learner(cls):
    agent = agent_of(cls)
    actor = [each.clone() for each in agent.actor.parameters()]
    agent.learn(12)
    assert agent.fitted == 12 and agent.learned == 0 and agent.synthetic is None
    assert all(map(torch.equal, agent.actor.parameters(), actor))
    model = [each.clone() for each in agent.diffusion.parameters()]
    agent.learn(5, reset_num_timesteps=False)
    assert agent.fitted == 12 and agent.learned == 5
    assert all(map(torch.equal, agent.diffusion.parameters(), model))
    assert not all(map(torch.equal, agent.actor.parameters(), actor))


@CLASSES
def test_synthetic_steps_are_made_anew_and_only_then_guided(cls, monkeypatch):
    agent = agent_of(cls)
    asked, made = [], []
    monkeypatch.setattr(
        agent, "log_prob_of_actor", lambda s, a: asked.append(agent.learned) or a.sum(-1)
    )
    original = agent.imagine
    monkeypatch.setattr(agent, "imagine", lambda: made.append(agent.learned) or original())
    agent.learn(12 + 20)
    assert made == [0, 8, 16]
    assert asked == [8, 8, 16, 16]  # twice in three steps of the sampler


@CLASSES
def test_a_minibatch_has_recorded_steps_first_and_then_synthetic_ones(cls):
    agent = agent_of(cls)
    agent.learn(13)
    for part in agent.synthetic.values():
        part.fill_(7.0)
    found = agent.mixed()
    assert all(len(part) == 16 for part in found.values())
    assert (found["observations"][4:] == 7).all()
    assert (found["observations"][:4] != 7).all()
    agent.synthetic_batch = 16
    assert (agent.mixed()["rewards"] == 7).all()


def test_a_gaussian_around_the_actor_guides_td3_and_the_actor_itself_iql():
    seen, actions = torch.randn(2, 3, 1), torch.rand(2, 3, 1)
    agent = agent_of(PGDTD3BC)
    means = agent.actor(seen.view(6, 1)).view(2, 3)
    found = agent.log_prob_of_actor(seen, actions)
    assert_close(found, -0.5 * (actions[..., 0] - means).square())
    agent = agent_of(PGDIQL)
    normal = torch.distributions.Normal(agent.actor(seen.view(6, 1)).view(2, 3), 1.0)
    assert_close(agent.log_prob_of_actor(seen, actions), normal.log_prob(actions[..., 0]))


def test_the_learning_rate_of_the_learner_does_not_fall_while_the_model_learns():
    agent = agent_of(PGDIQL, denoiser_steps=30)
    agent.learn(40)
    # the last of ten steps of a cosine
    expected = 3e-4 * 0.5 * (1 + math.cos(math.pi * 0.9))
    assert agent.actor.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_loaded_agent_generates_anew_towards_its_actor(tmp_path):
    agent = agent_of(PGDTD3BC).learn(15)
    agent.save(tmp_path / "agent")
    loaded = PGDTD3BC.load(tmp_path / "agent", env=PGDTD3BC.example.build(), device="cpu")
    assert loaded.fitted == 12 and loaded.learned == 3 and loaded.synthetic is None
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.fitted == 12 and loaded.learned == 4
    assert len(loaded.synthetic["rewards"]) >= 8 * 3


@CLASSES
def test_arguments_and_data_that_do_not_fit_are_refused(cls):
    with pytest.raises(ValueError, match="synthetic_batch=17 must be an integer from 1 to 16"):
        agent_of(cls, synthetic_batch=17)
    with pytest.raises(ValueError, match="sampling_steps=1"):
        agent_of(cls, sampling_steps=1)
    with pytest.raises(ValueError, match="needs actions in a flat Box, got Discrete"):
        agent_of(cls, OfflineDataset.record(gym.make("CartPole-v1"), 20))
    with pytest.raises(ValueError, match="length=40: the longest episode has 10 steps"):
        agent_of(cls, length=40).learn(1)


@CLASSES
@pytest.mark.parametrize("stop", [7, 24])  # while the model learns, and while the learner does
def test_a_run_that_was_stopped_goes_on_exactly(cls, stop, tmp_path):
    whole = agent_of(cls).learn(40)
    agent_of(cls).learn(
        40, callback=lambda found, _: found["self"].num_timesteps < stop, checkpoint=tmp_path
    )
    agent = agent_of(cls)
    agent.learn(40, checkpoint=tmp_path, resume=True)
    assert agent.num_timesteps == 40
    for mine, theirs in zip(agent.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for name, part in whole.synthetic.items():
        assert torch.equal(agent.synthetic[name], part)
