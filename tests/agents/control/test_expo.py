"""EXPO: the worked example, what learns from what, the on-the-fly policy, edge cases."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from torch.testing import assert_close

from palaestra.agents import EXPO
from palaestra.agents.base.nets.diffusion import variance_preserving_betas
from palaestra.agents.base.rlpd import entropy_gap_loss, mean_actor_loss, random_steps
from palaestra.agents.base.sac import SampledActions
from palaestra.agents.control import expo_trials
from palaestra.agents.control.expo import expo_arm
from palaestra.agents.control.expo_networks import best_candidate, edited, squashed
from palaestra.agents.control.expo_trials import (
    QUICK,
    TUNING,
    Bandit,
    arrival_steps,
    demonstrations,
    on_bandits,
)
from palaestra.envs.control.maze_controllers import two_routes_controller


def plane(**arguments):
    return gym.make("PointMaze-v0", **{"layout": "two_routes", "horizon": 10, **arguments})


def made(env=None, **arguments):
    chosen = {**EXPO.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return EXPO("MlpPolicy", random_steps(plane()) if env is None else env, **chosen)


def batch_of(size=8):
    rng = np.random.default_rng(0)
    places = torch.as_tensor(rng.uniform(-1, 1, (2, size, 2)), dtype=torch.float32)
    actions = torch.as_tensor(rng.uniform(-0.5, 0.5, (size, 2)), dtype=torch.float32)
    return ReplayBufferSamples(
        places[0], actions, places[1], torch.zeros(size, 1), torch.ones(size, 1)
    )


# -- the worked example ---------------------------------------------------------------------------

BEST = torch.tensor([0.5, -0.2])
BASE_ACTIONS = torch.tensor([[[0.0, 0.0], [0.4, 0.1], [-0.6, 0.3]]])
EDITS = torch.tensor([[[1.0, -1.0], [0.5, -1.0]]])


def test_worked_example_schedule():
    betas = variance_preserving_betas(5)
    assert [float(betas[0]), float(betas[-1])] == pytest.approx([0.195875, 0.835031], abs=1e-6)


def test_worked_example_candidates():
    agent = made(n_base=3, n_edits=2, edit_scale=0.2)
    agent.policy.critic_target = Bandit(BEST)
    moved = edited(BASE_ACTIONS[:, :2], EDITS, 0.2)
    candidates = torch.cat([BASE_ACTIONS, moved], dim=1)
    values = agent.policy.critic_target.values(None, candidates)[0]
    assert values[0].tolist() == pytest.approx([-0.29, -0.10, -1.46, -0.09, -0.01], abs=1e-6)
    assert best_candidate(values).tolist() == [4]
    chosen = agent.policy.choose(torch.zeros(1, 2), candidates)
    assert_close(chosen, torch.tensor([[0.5, -0.1]]))


class Table(nn.Module):
    """Critics of fixed values."""

    n_critics = 3

    def values(self, obs, actions, members=None):
        table = torch.tensor([2.0, 1.5, 3.0])
        chosen = table if members is None else table[members]
        return chosen.reshape(-1, *[1] * (actions.ndim - 1)).expand(-1, *actions.shape[:-1])


def test_worked_example_target(monkeypatch):
    agent = made(gamma=0.99)
    agent.critic_target = agent.policy.critic_target = Table()
    monkeypatch.setattr(agent, "members", lambda: torch.tensor([0, 2]))
    found = agent.target_values(batch_of(1), torch.tensor([5.0]))
    assert found.tolist() == [[pytest.approx(2.98, abs=1e-6)]]


def test_worked_example_edit_density():
    found = squashed(*(torch.tensor(x) for x in ([0.1, -0.3], [-0.5, 0.0], [0.8, -1.0])))
    assert found[0].tolist() == pytest.approx([0.526452, -0.861723], abs=1e-6)
    assert float(found[1]) == pytest.approx(-0.476326, abs=1e-6)


def test_worked_example_edit_loss_and_entropy(monkeypatch):
    agent, batch = made(edit_scale=0.2), batch_of(1)
    edits = torch.tensor([[0.526452, -0.861723]])
    monkeypatch.setattr(agent.actor, "sample", lambda *_: (edits, torch.tensor([-0.476326])))
    sampled = agent.policy_actions(batch)
    assert_close(sampled.actions, batch.actions + 0.2 * edits)
    assert float(sampled.log_prob) == pytest.approx(2.742550, abs=1e-6)
    loss = mean_actor_loss(sampled.log_prob[:, 0], torch.tensor([[1.2], [2.2]]), 0.1)
    assert float(loss) == pytest.approx(-1.425745, abs=1e-6)
    # H = -2.742550, and -d / 2 = -1 is aimed at.
    loss = entropy_gap_loss(torch.tensor([0.1]), sampled.log_prob, agent.target_entropy)
    assert float(loss) == pytest.approx(0.1 * (-2.742550 + 1), abs=1e-6)


# -- what learns from what ------------------------------------------------------------------------


def test_the_edit_actor_learns_by_the_critics_and_the_base_policy_never():
    agent, batch = made(), batch_of()
    agent.metrics = defaultdict(list)
    sampled = agent.policy_actions(batch)
    agent.actor_loss(batch, sampled, torch.tensor([0.1])).backward()
    assert all(each.grad is not None for each in agent.actor.parameters())
    assert all(each.grad is None for each in agent.base.parameters())
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.update_base(batch)
    changed = {
        name.split(".")[0]
        for name, value in agent.policy.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"base", "slow_base"}


def test_the_edit_actor_finds_the_direction_in_which_the_values_rise():
    torch.manual_seed(0)
    agent, batch = made(edit_scale=0.2, ent_coef=0.0, learning_rate=1e-2), batch_of(64)
    agent.metrics = defaultdict(list)
    agent.critic = Bandit(torch.tensor([0.9, -0.9]))
    for _ in range(150):
        agent.update_actor(batch, agent.policy_actions(batch), torch.zeros(1))
    with torch.no_grad():
        edits, _ = agent.actor.sample(batch.observations, batch.actions)
    assert (edits[:, 0] > 0.5).float().mean() > 0.9
    assert (edits[:, 1] < -0.5).float().mean() > 0.9


def test_a_cloned_base_policy_does_what_was_recorded():
    data = random_steps(plane())
    side = np.where(np.arange(len(data)) % 2 == 0, 0.7, -0.7)
    actions = np.stack([side, np.full(len(data), 0.2)], axis=1).astype(np.float32)
    agent = made(
        replace(data, actions=actions),
        **{"learning_rate": 3e-3, "denoising_steps": 5, "batch_size": 64},
        policy_kwargs={"net_arch": [32]},
    )
    critics = agent.critic.parameters_to_vector()
    assert agent.clone(400) is agent
    with torch.no_grad():
        found = agent.slow_base.sample(torch.as_tensor(data.observations[:50]), 8).flatten(0, 1)
    assert (found[:, 0].abs() - 0.7).abs().median() < 0.15
    assert (found[:, 1] - 0.2).abs().median() < 0.15
    assert 0.2 < (found[:, 0] > 0).float().mean() < 0.8  # both ways, and no average of them
    assert np.array_equal(critics, agent.critic.parameters_to_vector())
    with pytest.raises(ValueError, match="nothing to clone"):
        made(plane()).clone(1)


def test_the_slow_copy_follows_at_its_rate():
    agent = made(base_tau=0.25)
    agent.metrics = defaultdict(list)
    before = agent.slow_base.parameters_to_vector()
    agent.update_base(batch_of())
    expected = 0.75 * before + 0.25 * agent.base.parameters_to_vector()
    np.testing.assert_allclose(agent.slow_base.parameters_to_vector(), expected, atol=1e-6)


def test_the_slow_copy_acts_and_the_base_policy_is_in_the_targets(monkeypatch):
    agent, used = made(), []
    original = agent.policy.on_the_fly

    def noting(observations, base, generator=None):
        used.append(base)
        return original(observations, base, generator)

    monkeypatch.setattr(agent.policy, "on_the_fly", noting)
    agent.predict(np.zeros(2, np.float32))
    agent.next_actions(batch_of())
    assert used[0] is agent.slow_base
    assert used[1] is agent.base


def test_the_log_has_all_losses():
    logs = made().learn(60).logger.name_to_value
    names = ("base_loss", "actor_loss", "critic_loss", "ent_coef", "ent_coef_loss")
    assert all(np.isfinite(logs[f"train/{name}"]) for name in names)


def test_a_checkpoint_holds_every_part(tmp_path):
    agent = made().learn(60)
    parts = agent.get_parameters()
    named = {"policy", "actor.optimizer", "critic.optimizer", "base.optimizer"}
    assert named | {"ent_coef_optimizer"} <= set(parts)
    assert parts["base.optimizer"]["state"]
    agent.save(tmp_path / "agent")
    loaded = EXPO.load(tmp_path / "agent")
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name]), name
    assert torch.equal(agent.log_ent_coef, loaded.log_ent_coef)


# -- the on-the-fly policy ------------------------------------------------------------------------


def test_it_is_never_worse_than_the_best_base_sample():
    agent = made(n_base=4, n_edits=4, edit_scale=0.3)
    found = on_bandits(agent.policy, 100, 5)
    assert found["shortfall"] == 0
    assert found["better"] > 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_candidates_are_base_samples_and_small_edits_of_the_first(samples, edits, seed):
    agent = made(plane(), n_base=samples, n_edits=min(samples, edits), edit_scale=0.1)
    torch.manual_seed(seed)
    with torch.no_grad():
        found = agent.policy.candidates(batch_of().observations, agent.base)
    base, moved = found[:, :samples], found[:, samples:]
    assert moved.shape == (8, min(samples, edits), 2)
    assert found.abs().max() <= 1
    assert ((moved - base[:, : moved.shape[1]]).abs() <= 0.1 + 1e-6).all()


def test_deterministic_actions_draw_nothing_from_the_generator_of_learning():
    agent = made()
    places = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = agent.predict(places, deterministic=True)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first, agent.predict(places, deterministic=True)[0])
    assert not np.array_equal(*(agent.predict(places)[0] for _ in range(2)))


def test_actions_come_in_the_scale_of_the_environment():
    class Wide(gym.ActionWrapper):
        def __init__(self):
            super().__init__(plane())
            self.action_space = gym.spaces.Box(-3, 1, (2,))

        def action(self, action):
            return (action + 1) / 2

    agent = made(random_steps(Wide()))
    agent.policy.critic_target = Bandit(torch.tensor([-1.0, -1.0]))
    found, _ = agent.predict(np.zeros((200, 2), np.float32))
    assert found.min() < -1
    assert agent.learn(30)._n_updates > 0


# -- edge cases -----------------------------------------------------------------------------------


def test_one_sample_without_edits_is_the_base_policy():
    agent = made(n_base=1, n_edits=0)
    agent.policy.critic_target = None  # no value is asked for
    with torch.no_grad():
        torch.manual_seed(2)
        expected = agent.base.sample(batch_of().observations, 1)[:, 0]
        torch.manual_seed(2)
        found = agent.policy.on_the_fly(batch_of().observations, agent.base)
    assert torch.equal(found, expected)


def test_without_edits_the_edit_actor_stays_as_it_was():
    agent = made(n_edits=0)
    before = agent.actor.parameters_to_vector()
    alpha = agent.log_ent_coef.clone()
    agent.learn(60)
    assert np.array_equal(before, agent.actor.parameters_to_vector())
    assert torch.equal(alpha, agent.log_ent_coef)


def test_all_samples_are_edited_unless_said_otherwise():
    assert made(n_base=5, n_edits=None).n_edits == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_base": 2, "n_edits": 3}, "n_edits=3 must be an integer from 0 to 2"),
        ({"n_base": 0}, "n_base=0"),
        ({"edit_scale": 0}, "edit_scale=0 must be above 0"),
        ({"edit_scale": 2.5}, "edit_scale=2.5 must be a number from 0 to 2"),
        ({"denoising_steps": 0}, "denoising_steps=0"),
        ({"base_blocks": 0}, "base_blocks=0"),
        ({"base_tau": 1.5}, "base_tau=1.5"),
        ({"entropy_backup": True}, "entropy_backup=True must be False"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**{"n_edits": None, **arguments})


def test_equal_values_make_the_first_win_and_nan_is_an_error():
    assert best_candidate(torch.zeros(3, 4)).tolist() == [0, 0, 0]
    values = torch.zeros(3, 4)
    values[1, 2] = torch.nan
    with pytest.raises(ValueError, match="candidate 2 in row 1 is NaN"):
        best_candidate(values)


def test_critics_that_have_diverged_stop_learning():
    agent = made().learn(25)
    for parameter in agent.critic_target.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="is NaN: learning has diverged"):
        agent.learn(5, reset_num_timesteps=False)


def test_edits_out_of_the_box_are_clipped_before_they_are_judged():
    actions, edits = torch.tensor([[0.9, -0.9]]), torch.tensor([[1.0, -1.0]])
    assert edited(actions, edits, 0.5).tolist() == [[1.0, -1.0]]
    agent = made(edit_scale=0.5)
    agent.actor.sample = lambda *_: (edits, torch.zeros(1))
    sampled = agent.policy_actions(batch_of(1)._replace(actions=actions))
    assert isinstance(sampled, SampledActions)
    assert sampled.actions.tolist() == [[1.0, -1.0]]
    assert float(sampled.log_prob) == pytest.approx(-2 * math.log(0.5))


def test_without_data_all_that_is_drawn_was_played():
    agent = made(plane()).learn(40)
    assert agent.prior is None
    assert agent.sizes(16) == (16, 0)
    assert agent._n_updates > 0


class Unbounded(gym.ActionWrapper):
    def __init__(self):
        super().__init__(plane())
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def action(self, action):
        return action


def test_actions_without_bounds_and_discrete_ones_are_an_error():
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        made(Unbounded())
    with pytest.raises(AssertionError, match="Discrete"):
        made(gym.make("Garnet-v0"))


class Named(gym.ObservationWrapper):
    """The place, in a dictionary."""

    def __init__(self):
        super().__init__(plane())
        self.observation_space = gym.spaces.Dict({"place": self.env.observation_space})

    def observation(self, observation):
        return {"place": observation}


def test_observations_may_be_dictionaries_or_images():
    agent = EXPO("MultiInputPolicy", Named(), **EXPO.example.kwargs, seed=0, device="cpu")
    assert agent.learn(40)._n_updates > 0
    space, actions = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8), gym.spaces.Box(-1, 1, (2,))
    policy = EXPO.policy_aliases["CnnPolicy"](space, actions, lambda _: 1e-3, n_base=3, n_edits=1)
    assert policy.predict(space.sample())[0].shape == (2,)


def test_a_policy_can_be_saved_alone(tmp_path):
    policy = made().policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    assert (loaded.n_base, loaded.n_edits, loaded.denoising_steps) == (3, 2, 3)
    places = np.zeros((4, 2), np.float32)
    expected, found = (each.predict(places, deterministic=True)[0] for each in (policy, loaded))
    assert np.array_equal(expected, found)


# -- the claim ------------------------------------------------------------------------------------


def test_steps_until_arrival():
    agent = made(demonstrations(100))
    agent.policy.critic_target = Bandit(torch.tensor([1.0, 0.0]))  # straight into the block
    assert np.isinf(arrival_steps(agent, deterministic=False)).all()

    class Guide:
        reached = None

        def predict(self, observations, deterministic):
            actions, self.reached = two_routes_controller(observations, 1.0, self.reached)
            return actions, None

    taken = arrival_steps(Guide(), deterministic=True)
    assert 28 <= taken.min() <= taken.max() <= 30 < QUICK


def test_an_arm_tells_how_success_grew(monkeypatch):
    monkeypatch.setitem(TUNING, "learning_starts", 20)
    monkeypatch.setattr(expo_trials, "POINTS", 2)
    found = expo_arm(100, 0.0112)
    steps, success = found.curves["success"]
    assert steps == [14.0, 28.0]
    assert found.metrics["area"] == pytest.approx(np.mean(success))
    assert found.metrics["area"] >= found.metrics["area in 34 steps"]
