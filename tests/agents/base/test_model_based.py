"""Model-based agents: how an ensemble is fitted, what it imagines, MBPO and its bad input."""

from __future__ import annotations

import math
from collections import defaultdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from palaestra.agents import MBPO
from palaestra.agents.base.dynamics import (
    DynamicsEnsemble,
    Steps,
    fit_ensemble,
    gaussian_loss,
    squared_error_loss,
)
from palaestra.agents.base.imagined import ModelBuffer, recorded, scheduled_length
from palaestra.wrappers.sb3 import make_sb3


def make(env=None, **arguments):
    env = gym.make("TorquePendulum-v0", max_steps=10) if env is None else env
    return MBPO("MlpPolicy", env, **{**MBPO.example.kwargs, "seed": 0, "device": "cpu"} | arguments)


def linear_steps(size=400, noise=0.0):
    """s' = s + (-.1 s_0, .5 a), rewards s_0 + a; the task ends where s_1 > .5."""
    torch.manual_seed(1)
    states, actions = torch.randn(size, 2), torch.rand(size, 1) * 2 - 1
    moved = torch.stack([-0.1 * states[:, 0], 0.5 * actions[:, 0]], dim=1)
    following = states + moved + noise * torch.randn(size, 2)
    ends = (states[:, 1] > 0.5).float()
    return Steps(states, actions, following, states[:, 0] + actions[:, 0], ends)


def fitted(data, hidden=(), rate=0.05, losses=None, **changes):
    torch.manual_seed(0)
    kinds = {
        name: changes.pop(name) for name in {"stochastic", "standardise_targets"} & changes.keys()
    }
    dynamics = DynamicsEnsemble(2, 1, hidden, 4, 2, **kinds)
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=rate)

    def squared(prediction, steps):
        return squared_error_loss(*dynamics.scaled_errors(prediction, steps)) + dynamics.end_losses(
            prediction, steps
        )

    chosen = {"batch_size": 64, "held_out": 0.2, "patience": 5, "max_epochs": 60, **changes}
    return dynamics, fit_ensemble(dynamics, optimizer, data, losses or squared, **chosen)


# -- the fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise_targets", [False, True])
def test_members_learn_differences_rewards_and_ends(standardise_targets):
    data = linear_steps()
    dynamics, _ = fitted(data, standardise_targets=standardise_targets)
    found = dynamics(data.observations, data.actions)
    assert found.differences.shape == (4, 400, 2)
    assert torch.allclose(found.differences, data.differences.expand(4, -1, -1), atol=0.02)
    assert torch.allclose(found.rewards, data.rewards.expand(4, -1), atol=0.05)
    assert ((found.end_logits > 0) == data.ends.bool()).float().mean() > 0.97


def test_no_end_is_predicted_before_one_was_seen():
    data = linear_steps()
    never = Steps(
        data.observations,
        data.actions,
        data.next_observations,
        data.rewards,
        torch.zeros_like(data.ends),
    )
    dynamics, _ = fitted(never, max_epochs=2)
    dynamics.layers[-1].bias.data += 100.0
    both = torch.tensor([0, 1])
    states, actions = data.observations.expand(2, -1, -1), data.actions.expand(2, -1, -1)
    assert not dynamics.step(states, actions, both)[2].any()
    dynamics.ends.fill_(True)
    assert dynamics.step(states, actions, both)[2].all()


def test_members_go_back_to_their_best_and_the_best_are_elites():
    data, judged = linear_steps(), []
    data.rewards[:] = torch.randn(400)  # there is nothing to learn but their mean

    def losses(prediction, steps):
        found = (prediction.rewards - steps.rewards).square().mean(-1)
        if steps.rewards.dim() == 1:  # held out
            judged.append((found, steps))
        return found

    dynamics, fit = fitted(data, hidden=(8,), rate=0.1, losses=losses, max_epochs=12, patience=12)
    outside = judged[0][1]
    every = torch.stack([found for found, _ in judged])
    assert len(judged) == 13
    assert not torch.equal(every[-1], fit.losses)
    with torch.no_grad():
        again = losses(dynamics(outside.observations, outside.actions), outside)
    assert torch.allclose(again, fit.losses)
    assert (fit.losses <= every.min(0).values * 1.011).all()
    assert dynamics.elites.tolist() == fit.losses.argsort()[:2].tolist()


def test_a_fit_ends_when_nothing_improves_or_time_is_over():
    data = linear_steps()
    assert fitted(data, rate=0.0, patience=3)[1].epochs == 3
    assert fitted(data, rate=1e-2, max_epochs=2)[1].epochs == 2


def test_members_learn_from_samples_of_their_own():
    torch.manual_seed(0)
    dynamics = DynamicsEnsemble(2, 1, [], 2, 1)
    for parameter in dynamics.parameters():
        parameter.data[1] = parameter.data[0]
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=0.1)
    fit_ensemble(
        dynamics,
        optimizer,
        linear_steps(20),
        lambda prediction, steps: (
            (prediction.differences - steps.differences).square().mean((-2, -1))
        ),
        batch_size=4,
        held_out=0.2,
        patience=5,
        max_epochs=5,
    )
    weight = dynamics.layers[0].weight
    assert not torch.allclose(weight[0], weight[1])


def test_gaussian_members_learn_the_spread():
    data = linear_steps(2_000, noise=0.2)
    dynamics = None

    def likelihood(prediction, steps):
        errors = prediction.differences - steps.differences
        rewards = prediction.rewards - steps.rewards
        return gaussian_loss(torch.cat([errors, rewards[..., None]], -1), prediction.log_variances)

    dynamics, _ = fitted(data, losses=likelihood, stochastic=True, rate=0.02)
    spread = (dynamics(data.observations, data.actions).log_variances / 2).exp()
    assert spread[..., :2].mean().item() == pytest.approx(0.2, abs=0.03)
    still = torch.zeros(2, 4_000, 2), torch.zeros(2, 4_000, 1)
    following, _, _ = dynamics.step(*still, dynamics.elites)
    assert following.std().item() == pytest.approx(0.2, abs=0.03)


def test_a_gaussian_loss_with_variance_one_is_the_squared_error():
    errors = torch.randn(3, 5, 2)
    assert torch.allclose(gaussian_loss(errors, torch.zeros(3, 5, 2)), (errors**2).mean((1, 2)))


def test_a_number_that_is_constant_is_not_divided_by_nothing():
    data = linear_steps()
    data.observations[:, 1] = 7.0
    dynamics = DynamicsEnsemble(2, 1, [], 2, 1)
    dynamics.standardise(data)
    assert dynamics.input_std[1] == 1
    assert dynamics.input_mean[1] == 7
    assert torch.isfinite(dynamics(data.observations, data.actions).differences).all()


def test_members_are_chosen_by_number():
    dynamics = DynamicsEnsemble(2, 1, [5], 4, 2)
    states, actions = torch.randn(3, 2), torch.randn(3, 1)
    every = dynamics(states, actions).differences
    chosen = dynamics(states, actions, torch.tensor([3, 1])).differences
    assert torch.allclose(chosen, every[[3, 1]])


def test_too_few_steps_and_losses_that_are_no_numbers_are_errors():
    data = linear_steps(10)
    with pytest.raises(ValueError, match="at least 2 steps"):
        fitted(data[torch.tensor([0])])
    data.rewards[:] = torch.nan
    with pytest.raises(ValueError, match="held out are .nan"):
        fitted(data)


def test_predictions_that_are_not_finite_are_an_error():
    dynamics = DynamicsEnsemble(2, 1, [], 2, 1)
    dynamics.layers[0].bias.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        dynamics.step(torch.zeros(1, 3, 2), torch.zeros(1, 3, 1), torch.tensor([0]))


# -- what is imagined -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "length"), [(0, 1), (20, 1), (52, 1), (53, 2), (85, 3), (149, 4), (150, 5), (999, 5)]
)
def test_rollouts_grow_by_the_schedule(step, length):
    assert scheduled_length(step, (20, 150, 1, 5)) == length


def test_a_schedule_may_jump_or_fall():
    assert [scheduled_length(step, (10, 10, 1, 5)) for step in (9, 10, 11)] == [1, 1, 5]
    assert scheduled_length(15, (10, 20, 5, 1)) == 3


def test_the_oldest_block_makes_room():
    buffer = ModelBuffer(2)
    for value, size in ((0, 3), (1, 4), (2, 1)):
        buffer.add([torch.full((size, 1), float(value))] * 5)
    assert buffer.blocks == [4, 1]
    assert buffer.columns[0].flatten().tolist() == [1, 1, 1, 1, 2]
    torch.manual_seed(0)
    drawn = buffer.sample(200)
    assert set(drawn.rewards.flatten().tolist()) == {1.0, 2.0}


def test_recorded_steps_are_those_of_all_environments_without_cuts():
    box = gym.spaces.Box(-1, 1, (1,))
    buffer = ReplayBuffer(10, box, box, device="cpu", n_envs=2)
    infos = [[{}, {}], [{"TimeLimit.truncated": True}, {}]]
    for step in range(2):
        at = np.array([[step], [step + 0.5]])
        buffer.add(at, at + 1, at * 0, at[:, 0], np.array([step == 1, step == 1]), infos[step])
    found = recorded(buffer)
    assert found.observations.flatten().tolist() == [0, 0.5, 1, 1.5]
    assert found.differences.flatten().tolist() == [1, 1, 1, 1]
    assert found.ends.tolist() == [0, 0, 0, 1]
    assert len(found) == 4


def imagining(**changes):
    """An agent with a fitted model, its steps and a rollout of three steps."""
    agent = make(**changes).learn(60)
    agent.metrics = defaultdict(list)
    agent.num_timesteps = 80
    return agent, recorded(agent.replay_buffer), agent.imagine(recorded(agent.replay_buffer))


def test_rollouts_branch_from_recorded_steps_and_follow_an_elite():
    agent, data, columns = imagining(stochastic=False)
    states, actions, following, dones, rewards = columns
    assert len(states) == 3 * 4 * 20  # length, rollouts per step, steps between fits
    starts = {tuple(row) for row in data.observations.tolist()}
    assert {tuple(row) for row in states[:80].tolist()} <= starts
    assert torch.equal(states[80:160], following[:80])
    assert torch.equal(states[160:], following[80:160])
    assert not dones.any()
    assert actions.abs().max() <= 1
    found = agent.dynamics(states, actions)
    apart = (states + found.differences - following).abs().amax(-1)
    apart += (found.rewards - rewards[:, 0]).abs()
    by_elites = apart[agent.dynamics.elites]
    assert (by_elites.min(0).values < 1e-5).all()
    for groups in by_elites.unflatten(1, (3, 2, 40)).unbind(1):
        # Each elite moves one of two groups.
        nearest = groups.argmin(0)
        assert (nearest == nearest[:, :1]).all()
        assert sorted(nearest[:, 0].tolist()) == [0, 1]


def test_a_rollout_stops_where_the_task_ends():
    agent, data, _ = imagining()
    agent.dynamics.ends.fill_(True)
    agent.dynamics.layers[-1].bias.data[..., 4] = 1_000.0
    columns = agent.imagine(data)
    assert len(columns[0]) == 80
    assert columns[3].all()


def test_minibatches_have_a_share_of_recorded_steps():
    agent = make(real_share=0.25).learn(60)
    agent.imagined.columns = [torch.full_like(each, 9.0) for each in agent.imagined.columns]
    drawn = agent.sample(16)
    assert (drawn.rewards == 9).sum() == 12
    for share, count in ((0.0, 16), (1.0, 0)):
        agent.real_share = share
        assert (agent.sample(16).rewards == 9).sum() == count


# -- the agent ------------------------------------------------------------------------------------


def test_models_are_fitted_when_they_are_due():
    agent = make(learning_starts=30, model_every=20)
    times = []
    original = agent.fit_model
    agent.fit_model = lambda data: (times.append((agent.num_timesteps, len(data))), original(data))
    agent.learn(75)
    assert times == [(31, 31), (51, 51), (71, 71)]
    assert agent.imagined.blocks == [4 * 20, 2 * 4 * 20]  # of one step each, then of two
    agent.learn(31)  # counted anew
    assert times[3:] == [(31, 106)]


def test_the_log_has_the_model(monkeypatch):
    agent, seen = make(), {}
    monkeypatch.setattr(agent, "record", lambda: seen.update(agent.metrics))
    agent.learn(60)
    assert math.isfinite(float(seen["model_loss"][0]))
    assert 1 <= float(seen["model_epochs"][0]) <= 3
    assert float(seen["rollout_length"][0]) in (1, 2)


def test_the_actor_may_have_a_rate_of_its_own():
    agent = make(actor_learning_rate=1e-5, learning_rate=1e-3).learn(30)
    rates = [each.param_groups[0]["lr"] for each in (agent.actor.optimizer, agent.critic.optimizer)]
    assert rates == [1e-5, 1e-3]
    assert make(learning_rate=1e-3).actor.optimizer.param_groups[0]["lr"] == 1e-3


def test_several_environments_at_once():
    agent = make(make_sb3("TorquePendulum-v0", 3, 0, max_steps=10)).learn(60)
    assert agent.fitted_at is not None
    assert agent.imagined.columns[0].shape[1] == 3


def test_a_model_of_one_step_is_not_fitted():
    agent = make(learning_starts=0)
    before = [each.clone() for each in agent.actor.parameters()]
    agent.learn(1)
    assert agent.fitted_at is None
    assert all(torch.equal(*pair) for pair in zip(before, agent.actor.parameters(), strict=True))
    agent.learn(1, reset_num_timesteps=False)
    assert agent.fitted_at == 2


def test_a_loaded_agent_imagines_anew(tmp_path):
    make().learn(60).save(tmp_path / "agent")
    agent = MBPO.load(tmp_path / "agent", env=gym.make("TorquePendulum-v0", max_steps=10))
    assert agent.imagined.blocks == []
    assert agent.fitted_at == 41
    agent.learn(1, reset_num_timesteps=False)
    assert agent.imagined.blocks[0] >= 80
    assert math.isfinite(agent.logger.name_to_value["train/critic_loss"])


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "members=0"),
        ({"elites": 4}, "elites=4 must be an integer from 1 to 3"),
        ({"model_arch": [8, 0]}, "model_arch=0"),
        ({"stochastic": 1}, "stochastic=1"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"held_out": 0}, "held_out=0"),
        ({"patience": 0}, "patience=0"),
        ({"max_model_epochs": 0}, "max_model_epochs=0"),
        ({"model_every": 0}, "model_every=0"),
        ({"rollouts_per_step": 0}, "rollouts_per_step=0"),
        ({"retained": 0}, "retained=0"),
        ({"real_share": 1.5}, "real_share=1.5"),
        ({"rollout_schedule": [1, 2, 3]}, "rollout_schedule=.1, 2, 3."),
        ({"rollout_schedule": [20, 10, 1, 2]}, r"rollout_schedule\[1\]=10"),
        ({"rollout_schedule": [0, 10, 0, 2]}, r"rollout_schedule\[2\]=0"),
        ({"actor_learning_rate": -1.0}, "actor_learning_rate=-1.0"),
        ({"n_steps": 3}, "n_steps=3"),
        (
            {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": 0},
            },
            "optimize_memory_usage",
        ),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


class Named(gym.ObservationWrapper):
    """The observation, in a dictionary."""

    def __init__(self):
        super().__init__(gym.make("TorquePendulum-v0", max_steps=10))
        self.observation_space = gym.spaces.Dict({"seen": self.env.observation_space})

    def observation(self, observation):
        return {"seen": observation}


def test_other_spaces_are_errors():
    with pytest.raises(ValueError, match="MBPO needs actions in a flat Box of floats"):
        make(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="MBPO needs observations in a flat Box of floats"):
        MBPO("MultiInputPolicy", Named(), **MBPO.example.kwargs)


def test_observations_normalized_on_the_way_are_an_error():
    single = DummyVecEnv([lambda: gym.make("TorquePendulum-v0", max_steps=10)])
    with pytest.raises(ValueError, match="without VecNormalize"):
        make(VecNormalize(single))
    agent = make()
    with pytest.raises(ValueError, match="without VecNormalize"):
        agent.set_env(VecNormalize(single))
