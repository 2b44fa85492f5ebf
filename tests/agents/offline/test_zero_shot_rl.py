"""Zero-shot RL: the worked example, tasks, penalties, memory, planning, edge cases."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback

from palaestra.agents import FB, FBM, MCFB, PEARL, VCFB
from palaestra.agents.base.dynamics import Prediction
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.base_forward_backward import (
    forward_backward_loss,
    inferred_task,
    orthonormality_loss,
)
from palaestra.agents.offline.base_forward_backward_networks import (
    BackwardMap,
    best_actions,
    on_sphere,
)
from palaestra.agents.offline.zero_shot_rl import alpha_loss, measure_penalty, value_penalty
from palaestra.agents.offline.zero_shot_rl_memory import Memory
from palaestra.agents.offline.zero_shot_rl_planner import mppi, predictive_variance
from palaestra.agents.offline.zero_shot_rl_trials import (
    CELLS,
    LIMIT,
    SIDE,
    overestimate,
    reaches,
    shown,
    walks,
)

FORWARD = torch.tensor([[[1.0, 0.0], [0.5, -0.5]], [[0.8, 0.2], [0.4, -0.6]]])
BACKWARD = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
TARGETS = torch.tensor([[0.5, 0.2], [-0.1, 0.3]])
TASKS = torch.tensor([[1.0, 1.0], [0.0, 1.414214]])
SAMPLES = torch.tensor(
    [
        [[[1.0, 0.0], [0.5, -0.5]], [[0.0, 2.0], [1.0, 1.0]]],
        [[[0.5, 0.5], [0.0, 0.0]], [[1.0, 1.0], [0.0, -1.0]]],
    ]
)
each_agent = pytest.mark.parametrize("cls", [FB, VCFB, MCFB, FBM])


def made(cls, data=None, **arguments):
    data = cls.example.build() if data is None else data
    return cls("MlpPolicy", data, seed=0, device="cpu", **{**cls.example.kwargs, **arguments})


def close(found, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(found), expected, atol=atol)


def parameters(module):
    return torch.cat([each.detach().flatten() for each in module.parameters()]).clone()


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_losses():
    close((FORWARD @ BACKWARD.T).diagonal(dim1=1, dim2=2).sum(1).numpy() / 2, [0.0, 0.0], 1e-6)
    close(forward_backward_loss(FORWARD, BACKWARD, TARGETS, 0.98), 0.52101)
    close(orthonormality_loss(BACKWARD), -4.0)


def test_worked_example_penalties():
    close(value_penalty(FORWARD, SAMPLES, TASKS), 2.963605)
    close(measure_penalty(FORWARD, SAMPLES, BACKWARD), 3.058743)


def test_worked_example_tasks():
    close(inferred_task(BACKWARD, torch.tensor([1.0, 0.5])), [0.447214, 1.341641])
    close(on_sphere(torch.tensor([3.0, 4.0])), [0.848528, 1.131371])


def test_worked_example_alpha():
    close(alpha_loss(torch.tensor(0.01), torch.tensor(60.0), 50.0), -0.05)


# -- functions -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_the_loss_is_what_loops_over_pairs_give(count, seed):
    rng = torch.Generator().manual_seed(seed)
    forward, backward = (
        torch.randn(2, count, 3, generator=rng),
        torch.randn(count, 3, generator=rng),
    )
    targets, gamma = torch.randn(count, count, generator=rng), torch.rand(count, 1, generator=rng)
    expected, pairs = 0.0, count * (count - 1)
    for twin in forward.tolist():
        for i, row in enumerate(twin):
            for j, other in enumerate(backward.tolist()):
                measure = math.fsum(x * y for x, y in zip(row, other, strict=True))
                if i == j:
                    expected -= measure / count
                else:
                    wish = float(gamma[i]) * float(targets[i, j])
                    expected += 0.5 * (measure - wish) ** 2 / pairs
    close(forward_backward_loss(forward, backward, targets, gamma), expected, 1e-3)


def test_a_penalty_pushes_sampled_actions_down_and_recorded_ones_up():
    forward, samples = FORWARD.clone().requires_grad_(), SAMPLES.clone().requires_grad_()
    value_penalty(forward, samples, TASKS).backward()
    assert ((forward.grad * TASKS).sum(-1) < 0).all()
    assert ((samples.grad * TASKS).sum(-1) > 0).all()


def test_no_penalty_is_left_where_the_only_sample_is_the_recorded_action():
    assert value_penalty(FORWARD, FORWARD[:, None], TASKS) == pytest.approx(0, abs=1e-6)
    assert measure_penalty(FORWARD, FORWARD[:, None], BACKWARD) == pytest.approx(0, abs=1e-6)


def test_a_minibatch_of_one_step_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        forward_backward_loss(FORWARD[:, :1], BACKWARD[:1], TARGETS[:1, :1], 0.9)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        orthonormality_loss(BACKWARD[:1])
    with pytest.raises(ValueError, match="batch_size=1"):
        made(FB, batch_size=1)


def test_rewards_without_signal_are_refused():
    for rewards in ([0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="no signal"):
            inferred_task(torch.ones(2, 2), torch.tensor(rewards))


def test_rows_of_length_zero_stay_finite():
    assert torch.equal(on_sphere(torch.zeros(2, 3)), torch.zeros(2, 3))
    layers = BackwardMap(torch.nn.Identity(), 2, 4, [3])
    for each in layers.parameters():
        torch.nn.init.zeros_(each)
    assert torch.equal(layers(torch.ones(1, 2)), torch.zeros(1, 4))


def test_the_better_of_the_worse_twins_is_played():
    forward = torch.tensor([[[[3.0], [1.0]]], [[[-1.0], [0.5]]]])  # two twins, one row, two actions
    assert best_actions(forward, torch.ones(1, 1)).tolist() == [1]


# -- tasks -----------------------------------------------------------------------------------------


def test_predicting_needs_a_task():
    walked = walks(0)
    agent = made(FB, walked).learn(2)
    with pytest.raises(ValueError, match="no task was set"):
        agent.predict(walked.observations[0])
    agent.set_goal(walked.observations[3])
    assert agent.action_space.contains(agent.predict(walked.observations[0])[0])


def test_rewards_of_zero_in_the_data_are_no_task():
    data = walks(0)
    arrays = {**data.arrays(), "rewards": np.zeros(len(data))}
    agent = made(FB, OfflineDataset(**arrays, env=data.env)).learn(2)
    with pytest.raises(ValueError, match="no task was set"):
        agent.predict(data.observations[0])
    with pytest.raises(ValueError, match="no signal"):
        agent.set_task(np.zeros(3), data.observations[:3])


@pytest.mark.parametrize("rewards", [[1.0], [1.0, np.nan], [[1.0], [2.0]]])
def test_rewards_that_do_not_fit_are_refused(rewards):
    data = walks(0)
    with pytest.raises(ValueError, match="one for each of the"):
        made(FB, data).set_task(rewards, data.observations[:2])


@each_agent
def test_the_rewards_of_the_data_are_the_task_until_another_is_set(cls):
    agent = made(cls).learn(3)
    own = agent.policy.task.clone()
    agent.set_task_of(agent.dataset)
    assert torch.equal(own, agent.policy.task)
    assert torch.linalg.norm(own) == pytest.approx(math.sqrt(len(own)), rel=1e-5)
    agent.set_goal(agent.dataset.observations[0])
    goal = agent.policy.task.clone()
    assert not torch.allclose(goal, own)
    agent.learn(2, reset_num_timesteps=False)
    agent.predict(agent.dataset.observations[0])
    assert torch.equal(agent.policy.task, goal)


@each_agent
def test_a_saved_agent_keeps_its_task(cls, tmp_path):
    agent = made(cls).learn(2)
    seen = agent.dataset.observations[:5]
    agent.set_task(np.array([1.0, 0.0, 2.0]), agent.dataset.observations[:3])
    agent.save(tmp_path / "agent")
    for env in (None, agent.dataset):
        loaded = cls.load(tmp_path / "agent", env=env)
        np.testing.assert_array_equal(agent.predict(seen)[0], loaded.predict(seen)[0])
        assert torch.equal(loaded.policy.task, agent.policy.task)


def test_a_task_is_the_weighted_mean_of_states():
    agent = made(FB)
    seen = agent.dataset.next_observations[:3]
    agent.set_task([1.0, 0.0, 2.0], seen)
    with torch.no_grad():
        represented = agent.policy.backward_map(torch.as_tensor(seen))
    x = (represented[0] + 2 * represented[2]).numpy()
    close(agent.policy.task, 2 * x / np.linalg.norm(x))


# -- learning --------------------------------------------------------------------------------------


@each_agent
def test_a_step_moves_the_maps_and_the_slow_copies_by_tau(cls):
    agent = made(cls, tau=0.25)
    before, slow = parameters(agent.policy.maps.forward_map), agent.policy.maps.forward_target
    backward = parameters(agent.policy.backward_map)
    agent.learn(1)
    now = parameters(agent.policy.maps.forward_map)
    assert not torch.equal(before, now)
    assert not torch.equal(backward, parameters(agent.policy.backward_map))
    close(parameters(slow), 0.75 * before + 0.25 * now, 1e-6)


def test_nothing_follows_where_the_task_ended():
    agent = made(FB)
    batch = agent.learn(1) and agent.draw()
    tasks = agent.tasks(batch).detach()
    forward = agent.policy.maps.at(batch["observations"], batch["actions"], tasks)
    backward = agent.policy.backward_map(batch["next_observations"])
    ended = {**batch, "terminations": torch.ones_like(batch["terminations"])}
    found = agent.representation_loss(ended, tasks, forward, backward)
    expected = forward_backward_loss(forward, backward, torch.zeros(16, 16), 1.0)
    close((found - orthonormality_loss(backward)).detach(), expected.detach().numpy())


def test_tasks_to_learn_with_lie_on_the_sphere_half_of_them_at_states():
    agent = made(FB, batch_size=400)
    agent.learn(1)
    batch = agent.draw()
    with torch.no_grad():
        tasks = agent.tasks(batch)
        states = agent.policy.backward_map(batch["observations"])
    close(tasks.norm(dim=1), np.full(400, 2.0), 1e-4)
    share = (torch.cdist(tasks, states).amin(1) < 1e-3).float().mean()
    assert 0.4 < share < 0.6
    agent.state_share = 0.0
    with torch.no_grad():
        assert torch.cdist(agent.tasks(batch), states).amin(1).median() > 1e-2


def test_samples_are_half_uniform_and_in_thirds_the_policys_and_the_recorded():
    agent = made(VCFB, policy_noise=0.0).learn(1)
    maps, batch = agent.policy.maps, agent.draw()
    tasks = agent.tasks(batch).detach()
    seen, following = batch["observations"], batch["next_observations"]
    recorded = maps.at(seen, batch["actions"], tasks)
    found = maps.samples(seen, following, tasks, recorded, 12, 0.0, 0.3)
    assert found.shape == (2, 12, 16, 4)
    for first, place in ((6, seen), (8, following)):
        expected = maps.at(place, maps.choose(place, tasks), tasks)
        for k in (first, first + 1):
            close(found[:, k].detach(), expected.detach().numpy())
    for k in (10, 11):
        assert torch.equal(found[:, k], recorded)
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_discrete_samples_are_all_actions():
    agent = made(VCFB, walks(0)).learn(1)
    maps, batch = agent.policy.maps, agent.draw()
    tasks = agent.tasks(batch).detach()
    found = maps.samples(batch["observations"], batch["next_observations"], tasks)
    for action in range(4):
        actions = torch.full((16,), action)
        close(
            found[:, action].detach(),
            maps.at(batch["observations"], actions, tasks).detach().numpy(),
        )


@pytest.mark.parametrize("count", [0, 4, 8])
def test_samples_that_cannot_be_split_are_refused(count):
    with pytest.raises(ValueError, match=f"action_samples={count}"):
        made(VCFB, action_samples=count)


@pytest.mark.parametrize(("target", "rises"), [(-1e3, True), (1e3, False)])
def test_a_learned_alpha_rises_while_the_penalty_is_above_its_target(target, rises):
    agent = made(VCFB, target_penalty=target, alpha=0.5, learning_rate=1e-2).learn(5)
    learned = float(agent.multiplier.value)
    assert learned > 0.5 if rises else learned < 0.5
    assert made(VCFB, target_penalty=None, alpha=0.5).learn(2).multiplier is None
    with pytest.raises(ValueError, match="alpha=0"):
        made(VCFB, alpha=0.0)


def test_without_weight_the_penalty_changes_nothing():
    plain = made(FB, walks(0), learning_rate=1e-3).learn(5)
    for cls in (VCFB, MCFB):
        other = made(cls, walks(0), learning_rate=1e-3, alpha=0.0, target_penalty=None).learn(5)
        assert torch.equal(parameters(plain.policy), parameters(other.policy))


def test_value_and_measure_penalties_lead_elsewhere():
    agents = [made(cls, walks(0), alpha=0.1, target_penalty=None).learn(3) for cls in (VCFB, MCFB)]
    assert not torch.equal(*(parameters(agent.policy) for agent in agents))


def test_bad_data_are_refused():
    data = walks(0)
    lacking = OfflineDataset(data.observations, data.actions, env=data.env)
    with pytest.raises(ValueError, match="next_observations"):
        made(FB, lacking)
    with pytest.raises(ValueError, match="neither"):
        made(FBM, data)
    with pytest.raises(ValueError, match="Discrete"):
        made(
            FB,
            OfflineDataset(
                data.observations,
                np.ones((len(data), 2), int),
                next_observations=data.next_observations,
                observation_space=data.observation_space,
                action_space=gym.spaces.MultiBinary(2),
            ),
        )


# -- the trial -------------------------------------------------------------------------------------


def test_walkers_leave_much_unseen_and_their_own_actions_lead_home():
    data = walks(3)
    assert len(data) == 600
    assert 0.4 < 1 - shown(data).mean() < 0.55
    cells, after = data.observations.argmax(1), data.next_observations.argmax(1)
    moved = np.abs(cells // SIDE - after // SIDE) + np.abs(cells % SIDE - after % SIDE)
    assert (moved == 1).all()


class Guide:
    """In the place of an agent: knows the way."""

    def set_goal(self, observation):
        self.goal = int(observation.argmax())

    def predict(self, observations, deterministic):
        cells = observations.argmax(1)
        down, right = self.goal // SIDE - cells // SIDE, self.goal % SIDE - cells % SIDE
        along = np.where(right > 0, 2, 3)
        return np.where(down == 0, along, np.where(down > 0, 1, 0)), None


def test_a_guide_reaches_every_corner_and_one_who_stays_only_where_he_is():
    table = walks(0).env.unwrapped.core.P[0].argmax(-1)
    assert reaches(Guide(), table) == 1.0
    still = Guide()
    still.predict = lambda observations, deterministic: (np.zeros(CELLS, int), None)
    # North leads up the columns: 6 cells reach each of the upper corners, 1 each of the others.
    assert reaches(still, table) == pytest.approx((6 + 6 + 1 + 1) / (4 * CELLS))
    assert LIMIT >= 2 * (SIDE - 1)


def test_the_gap_is_that_of_the_values():
    agent, data = made(FB, walks(0)), walks(0)
    seen = torch.as_tensor(shown(data))
    agent.policy.action_values = lambda units: torch.where(seen, 1.0, 3.0)
    assert overestimate(agent, data) == pytest.approx(2.0)


# -- memory ----------------------------------------------------------------------------------------


def test_a_memory_stops_at_the_last_step_of_each_history():
    torch.manual_seed(0)
    memory = Memory(3, 5)
    steps = torch.randn(1, 4, 3)
    whole = torch.cat([steps, torch.ones(1, 4, 1)], -1)
    padded = torch.cat([whole[:, :2], torch.zeros(1, 2, 4)], 1)
    close(memory(padded).detach(), memory(whole[:, :2]).detach().numpy(), 1e-6)
    assert not torch.allclose(memory(padded), memory(whole))


def test_each_map_has_a_memory_of_the_width_that_was_asked_for():
    policy = made(FBM).policy
    maps = (policy.backward_map, policy.maps.forward_map, policy.maps.actor)
    assert [each.encoder.gru.hidden_size for each in maps] == [8, 8, 8]


def test_histories_end_where_episodes_begin_and_know_the_previous_action():
    agent = made(FBM).learn(1)
    data, tensors = agent.dataset, agent.tensors
    seen, following = agent.histories(tensors, np.array([0, 2, 7, 10, 11]))
    assert seen.shape == (5, 4, 5)
    assert following.shape == (5, 5, 5)
    assert seen[..., -1].sum(1).tolist() == [1, 3, 4, 1, 2]  # episodes have 10 steps
    assert following[..., -1].sum(1).tolist() == [2, 4, 5, 2, 3]
    close(seen[2, :, :2], data.observations[4:8])
    close(seen[2, :, 2:4], data.actions[3:7])
    assert not seen[0, 0, 2:4].any()
    assert not seen[3, 0, 2:4].any()
    close(following[2, 4, :2], data.next_observations[7])
    close(following[2, 4, 2:4], data.actions[7])


def test_what_is_remembered_in_acting_is_what_was_learned_from():
    agent = made(FBM, history=3).learn(1)
    state, chosen, seen = None, [], agent.dataset.observations[:5]
    for observation in seen:
        action, state = agent.predict(observation, state)
        chosen.append(action)
    steps, before = state
    assert steps.shape == (1, 3, 5)
    close(steps[0, :, :2], seen[2:5])
    close(steps[0, :, 2:4], np.array(chosen[1:4]))
    close(before[0], chosen[4])
    again, _ = agent.predict(seen[0], state, episode_start=np.array([True]))
    close(again, chosen[0])
    with pytest.raises(ValueError, match="a state of 1 episodes"):
        agent.predict(seen, state)


def test_memory_works_with_discrete_actions_and_hidden_velocities():
    maze = gym.make("PointMaze-v0", layout="rooms", mask_velocity=True, horizon=20)
    data = OfflineDataset.record(maze, 60)
    agent = made(FBM, data).learn(2)
    agent.set_goal(data.observations[5])
    assert maze.action_space.contains(agent.predict(data.observations[0])[0])
    grid = gym.make("GridWorld-v0", rows=3, cols=3, max_steps=10, observation="onehot")
    agent = made(FBM, OfflineDataset.record(grid, 60)).learn(2)
    _, (steps, before) = agent.predict(agent.dataset.observations[:2])
    assert steps.shape == (2, 4, 9 + 4 + 1)
    assert before.sum(1).tolist() == [1.0, 1.0]


# -- planning --------------------------------------------------------------------------------------


def test_plans_come_to_what_scores_best():
    torch.manual_seed(0)
    best = torch.tensor([[[0.6], [-0.4]], [[-0.2], [0.9]]])  # of two rows, H = 2
    found = mppi(
        lambda each: -(each - best[:, None]).square().sum((2, 3)),
        torch.randn(8, 1, 200, 2, 1),
        first_std=0.5,
        elites=20,
        temperature=0.5,
        momentum=0.1,
    )
    close(found, best.numpy(), 0.1)


def test_variance_is_that_of_each_member_and_that_between_them():
    means = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
    log_variances = torch.log(torch.tensor([[[0.5, 1.0]], [[1.5, 3.0]]]))
    close(predictive_variance(means, log_variances, torch.tensor([1.0])), [1.0 + 1.0 + 2.0])
    close(predictive_variance(means, log_variances, torch.tensor([0.5])), [2.0])


def test_pearl_fits_in_its_warm_up_at_its_end_and_every_day():
    class Fits(BaseCallback):
        at: list[int] = []

        def _on_step(self):
            if self.model.fitted_at == self.num_timesteps:
                self.at.append(self.num_timesteps)
            return True

    fits, agent = (
        Fits(),
        PEARL("MlpPolicy", PEARL.example.make_env(), seed=0, **PEARL.example.kwargs),
    )
    explored = []
    plan = agent.policy.plan
    agent.policy.plan = lambda seen, noise, explore: (
        explored.append((agent.num_timesteps, explore)) or plan(seen, noise, explore)
    )
    agent.learn(70, callback=fits)
    assert fits.at == [12, 24, 44, 64]
    assert explored == [(step, step < 24) for step in range(12, 70)]


class Open(torch.nn.Module):
    """In the place of the ensemble: the plane without walls, known exactly."""

    members = 2
    ends = torch.tensor(False)
    target_std = torch.ones(3)

    def forward(self, observations, actions):
        """Velocities of 0.1 for an action of 1; predictions vary with 1 + a_1."""
        moves = 0.1 * actions
        rewards = -(observations + moves).norm(dim=-1)
        log_variances = torch.log(1.001 + actions[..., :1]).expand(*rewards.shape, 3)
        return Prediction(moves, rewards, torch.zeros_like(rewards), log_variances)


def test_pearl_plans_to_earn_and_in_its_warm_up_to_be_surprised():
    kwargs = {**PEARL.example.kwargs, "policy_kwargs": {"horizon": 5, "model_arch": [8]}}
    agent = PEARL("MlpPolicy", PEARL.example.make_env(), seed=0, device="cpu", **kwargs)
    agent.policy.dynamics = Open()
    agent.policy.low.fill_(-1)
    agent.policy.high.fill_(1)
    starts = np.array([[0.7, 0.7], [-0.7, 0.5], [0.6, -0.7]], dtype=np.float32)
    actions, _ = agent.predict(starts, deterministic=True)
    towards = -(actions * starts).sum(1) / np.linalg.norm(starts, axis=1)
    assert (towards > 0.6).all()
    explored = agent.policy.plan(torch.as_tensor(starts), agent.policy.noise, explore=True)
    assert (explored[:, 0] > 0.5).all()


def test_pearl_fits_what_was_recorded():
    kwargs = {**PEARL.example.kwargs, "learning_rate": 3e-3, "epochs": 60, "patience": 60}
    agent = PEARL("MlpPolicy", PEARL.example.make_env(), seed=0, device="cpu", **kwargs).learn(24)
    columns = agent.recorded()
    close(columns["actions"][3], agent.columns["actions"][3][0])
    assert {name: len(column) for name, column in columns.items()} == dict.fromkeys(columns, 24)
    found = agent.policy.dynamics(columns["observations"], columns["actions"]).differences
    moved = columns["next_observations"] - columns["observations"]
    with torch.no_grad():
        assert (found.mean(0) - moved).square().mean() < 0.5 * moved.var(0).mean()


def test_pearl_refuses_what_it_cannot_plan_in():
    with pytest.raises(ValueError, match="needs actions in a flat Box"):
        PEARL("MlpPolicy", "CartPole-v1")
    for name, value in (("warm_up_fit_every", 1), ("held_out", 1.0), ("warm_up", -1)):
        with pytest.raises(ValueError, match=name):
            PEARL("MlpPolicy", PEARL.example.make_env(), **{name: value})


# -- going on --------------------------------------------------------------------------------------


class Stop(BaseCallback):
    """Stops at a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def _on_step(self):
        return self.num_timesteps < self.steps


@pytest.mark.parametrize("cls", [VCFB, FBM, PEARL])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(cls, tmp_path):
    steps = cls.example.steps
    whole = cls("MlpPolicy", cls.example.build(), seed=0, **cls.example.kwargs).learn(steps)
    first = cls("MlpPolicy", cls.example.build(), seed=0, **cls.example.kwargs)
    first.learn(steps, callback=Stop(steps // 2), checkpoint=tmp_path)
    assert first.num_timesteps < steps
    rest = cls("MlpPolicy", cls.example.build(), seed=0, **cls.example.kwargs)
    rest.learn(steps, checkpoint=tmp_path, resume=True)
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, rest.policy.state_dict()[name]), name
