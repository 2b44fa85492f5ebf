"""PRDC: the worked example, exact search with ties, edge cases, and the running agent."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from palaestra.agents import PRDC
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.base_td3_bc import TD3BC, random_play
from palaestra.agents.offline.line_world_trials import line_data, share_at_the_end
from palaestra.agents.offline.prdc import TUNING, search_keys, success_in_the_maze
from palaestra.agents.offline.prdc_neighbours import NearestRows
from palaestra.envs.control.line_world_data import alternating_steps


def made(data=None, **arguments):
    if data is None:
        data = random_play(gym.make("LineWorld-v0", max_steps=10))
    chosen = {**PRDC.example.kwargs, "seed": 0, "device": "cpu", **arguments}
    return PRDC("MlpPolicy", data, **chosen)


def searched(rows, keys, k=1):
    """By all distances: the k-th nearest, of equally near ones the lower."""
    distances = ((keys[:, None] - rows[None]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, k - 1]


# -- the worked example ---------------------------------------------------------------------------

STATES, ACTIONS = np.array([[0.0], [1.0], [3.0]]), np.array([[-1.0], [1.0], [0.5]])
KEYS = np.array([[1.4, 0.6], [4.2, 0.9]])


def test_worked_example_search():
    rows = np.hstack([2 * STATES, ACTIONS])
    observations, actions = torch.tensor([[0.7], [2.1]]), torch.tensor([[0.6], [0.9]])
    keys = search_keys(observations, actions, 2.0)
    assert keys == pytest.approx(KEYS, abs=1e-6)
    found = NearestRows(rows).query(keys)
    assert found.tolist() == [1, 2]
    distances = np.linalg.norm(keys - rows[found], axis=1)
    assert distances.tolist() == pytest.approx([0.721110, 1.843909], abs=1e-6)
    assert ACTIONS[found].ravel().tolist() == [1.0, 0.5]


def test_worked_example_loss(monkeypatch):
    columns = {
        "observations": STATES.astype(np.float32),
        "actions": ACTIONS.astype(np.float32),
        "rewards": np.zeros(3),
        "next_observations": STATES.astype(np.float32),
        "terminations": np.zeros(3, bool),
    }
    data = OfflineDataset(**columns, env=gym.make("LineWorld-v0"))
    agent = made(data, alpha=2.5, beta=2.0, normalize_observations=False)
    agent._setup_learn(1)
    actions = torch.tensor([[0.6], [0.9]], requires_grad=True)
    slopes = torch.tensor([[0.5], [-1.0]])

    def first(observations, given):
        """1 and -3 there, with the slopes."""
        return torch.tensor([1.0, -3.0]) + (slopes * (given - given.detach())).sum(dim=1)

    monkeypatch.setattr(agent.critic, "first", first)
    monkeypatch.setattr(agent, "actor", lambda observations: actions)
    batch = {
        "observations": torch.tensor([[0.7], [2.1]]),
        "actions": torch.zeros(2, 1),
    }
    guide = agent.guide(batch, actions)
    assert_close(guide, torch.tensor([[1.0], [0.5]]))
    assert not guide.requires_grad
    assert float(agent.regulariser(batch, actions).detach()) == pytest.approx(0.16, abs=1e-6)
    loss = agent.actor_loss(batch)
    assert float(loss.detach()) == pytest.approx(1.41, abs=1e-5)
    loss.backward()
    assert_close(actions.grad, torch.tensor([[-0.7125], [1.025]]), atol=1e-5, rtol=0)


# -- search ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_the_search_is_exact(count, width, seed):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((width, width)) * rng.uniform(0.01, 10, width)
    rows = rng.standard_normal((count, width)) @ mixed + 5 * rng.standard_normal(width)
    keys = np.concatenate([rows[:3] + 0.1, rng.standard_normal((5, width))])
    index = NearestRows(rows)
    for k in {1, 1 + count // 2, count}:
        both = (index.query(keys, k), searched(rows, keys, k))
        found, expected = (((keys - rows[each]) ** 2).sum(axis=1) for each in both)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_of_equally_near_rows_the_first_is_the_nearest(count, width, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (count, width)).astype(float)  # many are equal, or equally near
    keys = rng.integers(-4, 5, (10, width)) / 2
    index = NearestRows(rows)
    for k in {1, min(2, count), count}:
        assert index.query(keys, k).tolist() == searched(rows, keys, k).tolist()


def test_a_thousand_equal_rows_are_searched():
    index = NearestRows(np.ones((1_000, 3)))
    assert index.query(np.zeros((2, 3)), 1).tolist() == [0, 0]
    assert index.query(np.zeros((1, 3)), 700).tolist() == [699]


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    index = NearestRows(rng.standard_normal((500, 4)))
    keys = rng.standard_normal((64, 4))
    assert index.query(keys, 3, workers=1).tolist() == index.query(keys, 3, workers=-1).tolist()


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), np.zeros((3, 0)), np.zeros(3)])
def test_a_table_without_rows_is_an_error(rows):
    with pytest.raises(ValueError, match="shape"):
        NearestRows(rows)


def test_what_is_not_finite_is_an_error():
    rows = np.zeros((4, 2))
    rows[2, 1] = np.inf
    with pytest.raises(ValueError, match=r"rows\[2\]"):
        NearestRows(rows)
    with pytest.raises(ValueError, match="not finite"):
        NearestRows(np.zeros((4, 2))).query(np.array([[0.0, np.nan]]))


@pytest.mark.parametrize("keys", [np.zeros((1, 3)), np.zeros(2)])
def test_keys_of_another_width_are_an_error(keys):
    with pytest.raises(ValueError, match=r"allowed is \[B, 2\]"):
        NearestRows(np.zeros((4, 2))).query(keys)


@pytest.mark.parametrize("k", [0, 5])
def test_a_neighbour_that_does_not_exist_is_an_error(k):
    with pytest.raises(ValueError, match=f"k={k} of 4 rows"):
        NearestRows(np.eye(4)).query(np.zeros((1, 4)), k)


# -- the agent ------------------------------------------------------------------------------------


def shared_batch(agent):
    agent._setup_learn(1)
    return agent.tensors.sample(16, np.random.default_rng(0))


def test_the_guide_is_what_a_search_through_all_steps_finds():
    for k in (1, 4):
        agent = made(beta=0.7, k=k)
        batch = shared_batch(agent)
        with torch.no_grad():
            actions = agent.actor(batch["observations"])
        columns = [agent.tensors.column(name) for name in ("observations", "actions")]
        rows = search_keys(*columns, 0.7)
        expected = searched(rows, search_keys(batch["observations"], actions, 0.7), k)
        assert_close(agent.guide(batch, actions), columns[1][torch.from_numpy(expected)])


def test_a_large_beta_is_td3_bc():
    data = line_data(alternating_steps(rows=64))  # no state twice
    chosen = {**TD3BC.example.kwargs, "seed": 0, "device": "cpu"}
    agents = [made(data, beta=1e5), TD3BC("MlpPolicy", data, **chosen)]
    for agent in agents:
        agent.learn(20)
    ours, theirs = (agent.actor.state_dict() for agent in agents)
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name])


def test_with_beta_zero_the_nearest_recorded_action_is_the_guide():
    agent = made(beta=0.0)
    batch = shared_batch(agent)
    actions = torch.linspace(-1, 1, 16)[:, None]
    recorded = agent.tensors.column("actions")
    nearest = (actions - recorded.T).abs().argmin(dim=1)
    assert_close(agent.guide(batch, actions), recorded[nearest])


@pytest.mark.parametrize(("name", "given"), [("beta", -1.0), ("beta", np.nan), ("k", 0)])
def test_arguments_out_of_range_are_errors(name, given):
    with pytest.raises(ValueError, match=name):
        made(**{name: given})


def test_more_neighbours_than_steps_are_an_error():
    with pytest.raises(ValueError, match="k=129, but the data have 128 steps"):
        made(k=129)
    agent = made(k=100)
    fewer = OfflineDataset.record(gym.make("LineWorld-v0", max_steps=10), steps=50)
    with pytest.raises(ValueError, match="k=100, but the data have 50 steps"):
        agent.set_env(fewer)


def test_other_data_are_searched_after_they_were_set():
    agent = made().learn(2)
    other = line_data(alternating_steps(rows=40))
    other = replace(other, env=gym.make("LineWorld-v0", max_steps=10))
    agent.set_env(other)
    agent.learn(2, reset_num_timesteps=False)
    assert len(agent.neighbours) == 40


def test_spaces_that_have_no_distance_are_errors():
    with pytest.raises(ValueError, match="actions in a bounded Box, got Discrete"):
        PRDC("MlpPolicy", gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="observations in a Box, got Discrete"):
        PRDC("MlpPolicy", gym.make("Garnet-v0"))


def test_it_learns_to_go_right_where_half_of_the_states_show_only_the_way_back():
    data = line_data(alternating_steps(rows=1_000, seed=100))
    agent = PRDC("MlpPolicy", data, beta=2.0, gamma=0.9, seed=100, **TUNING).learn(200)
    assert share_at_the_end(agent) == 1.0


def test_success_in_the_maze_is_that_of_its_controller():
    from palaestra.envs.control.maze_controllers import umaze_controller

    class Scripted:
        reached = None

        def predict(self, observations, deterministic):
            forces, self.reached = umaze_controller(observations, self.reached)
            return forces.astype(np.float32), None

    assert success_in_the_maze(Scripted()) == 1.0
