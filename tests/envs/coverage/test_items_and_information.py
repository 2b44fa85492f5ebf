"""`ItemCollection`, `InformativePath` and `ExperimentDesign`."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.coverage.experiment_design import ExperimentDesign
from palaestra.envs.coverage.informative_path import InformativePath
from palaestra.envs.coverage.item_collection import ItemCollection


def returns(core, actions):
    """Set value and rewards of one episode."""
    tape = core.tapes(1, 0)
    state, rewards = core.initial(tape), []
    for action in actions:
        following = core.transition(state, np.array([action]), tape)
        rewards.append(float(core.reward(state, np.array([action]), following)[0]))
        state = following
    return float(state["value"][0]), rewards


def test_items_of_the_worked_example():
    core = ItemCollection(2, 5, 3, groups=[[2, 5, 7], [7, 8]], quotas=(2, 3), start=2)
    # 2 -> 7 -> 6 -> 5: the third item of the first kind is not wanted any more.
    value, rewards = returns(core, (2, 3, 3))
    assert rewards == [2, 0, 0] and value == 3


def test_items_are_drawn_by_the_instance_on_free_cells():
    core = ItemCollection()
    assert [len(cells) for cells in core.groups] == [18, 14, 13, 16, 18, 14]
    assert core.set_function.quotas.tolist() == [3, 2, 3, 4, 6, 3]
    assert all(len(set(cells)) == len(cells) for cells in core.groups)
    other = ItemCollection(instance=1)
    assert any((a != b).any() for a, b in zip(core.groups, other.groups, strict=True))
    walled = ItemCollection(layout=["..#", "###"], items=(2,), quotas=(1,))
    assert walled.groups[0].tolist() == [0, 1]
    assert core.set_function.value(np.ones((1, 900), bool))[0] == 21


def test_bad_items_are_refused():
    with pytest.raises(ValueError, match=r"items\[1\]=5 is outside 1 .. 4"):
        ItemCollection(2, 2, items=(1, 5), quotas=(1, 1))
    with pytest.raises(ValueError, match="quotas has shape"):
        ItemCollection(2, 2, items=(1, 2))
    with pytest.raises(ValueError, match="items and groups"):
        ItemCollection(2, 2, items=(1,), groups=[[0]], quotas=(1,))


def test_information_of_the_worked_example():
    core = InformativePath(1, 2, 2, length=1.0, sigma2=0.1)
    value, rewards = returns(core, (1, 0))
    assert value == pytest.approx(2.216669, abs=1e-6)
    assert rewards == pytest.approx([value - 0.5 * np.log(11), 0.0])
    assert rewards[1] == 0  # a place that was measured


def test_defaults_of_path_and_design():
    for core in (InformativePath(), ExperimentDesign()):
        assert (core.elements, core.horizon) == (100, 20)
        assert core.set_function.sigma2 == 0.1
        assert core.set_function.covariances[0, 1] == pytest.approx(np.exp(-1 / 8))
    assert InformativePath().action_space.n == 5
    assert ExperimentDesign().action_space.n == 100


def test_every_site_of_a_design_is_one_step_away():
    core = ExperimentDesign(sites=[[0.0], [1.0], [5.0]], horizon=2, length=1.0)
    assert core.lengths.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    near, far = (returns(core, (site, 0))[0] for site in (1, 2))
    assert near == pytest.approx(2.216669, abs=1e-6)
    assert far == pytest.approx(np.log(11), abs=1e-4)  # nearly two separate measurements
    with pytest.raises(ValueError, match="rows and cols"):
        ExperimentDesign(3, 3, sites=[[0.0]])


def test_a_row_of_1024_is_the_single_environment_to_the_last_bit():
    arguments = {"rows": 5, "cols": 5, "horizon": 12, "slip": 0.2}
    vector = gym.make_vec(
        "InformativePath-v0",
        num_envs=1024,
        vectorization_mode="vector_entry_point",
        **arguments,
    )
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.integers(5, size=(12, 1024))
    rewards = np.array([vector.step(action)[1] for action in actions])
    for row in (0, 511, 1023):
        env = gym.make("InformativePath-v0", **arguments)
        env.reset(seed=row)
        assert [env.step(action)[1] for action in actions[:, row]] == rewards[:, row].tolist()


@pytest.mark.parametrize("sites", [[[0.0], [1.0]], [[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]]])
def test_sites_of_any_dimension_are_drawn(sites):
    env = gym.make("ExperimentDesign-v0", sites=sites, horizon=2, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().std() > 0
