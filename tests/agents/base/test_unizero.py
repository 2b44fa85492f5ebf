"""UniZero's parts: targets, supports, the tree search, the store, tasks that rest."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.nets.supports import expectation, squash, two_hot, unsquash
from palaestra.agents.base.nets.world_model import WorldModel
from palaestra.agents.base.sequence_replay import SequenceReplay
from palaestra.agents.base.tree_search import Evaluation, act_from, search
from palaestra.agents.base.unizero_losses import value_targets
from palaestra.agents.base.unizero_policy import UniZeroPolicy
from palaestra.wrappers.tasks import TaskVecEnv


def test_a_number_survives_its_support():
    x = torch.tensor([-3.0, -0.2, 0.0, 0.7, 1.0, 5.0])
    torch.testing.assert_close(unsquash(squash(x)), x, atol=1e-5, rtol=0)
    laws = two_hot(squash(x), -10.0, 10.0, 41)
    torch.testing.assert_close(laws.sum(-1), torch.ones(6))
    assert ((laws > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(expectation(laws.log(), -10.0, 10.0), x, atol=1e-4, rtol=0)


def test_value_targets_by_hand():
    """K = 2 and n = 2, gamma 0.5: an end after three steps, a cut after one, none."""
    rewards = torch.tensor([[1.0, 2, 4, 0], [1, 0, 0, 0], [0, 0, 0, 8]])
    bootstraps = torch.full((3, 5), 16.0)
    lengths, terminated = torch.tensor([3, 1, 4]), torch.tensor([True, False, False])
    found = value_targets(rewards, bootstraps, lengths, terminated, 2, 0.5)
    torch.testing.assert_close(
        found, torch.tensor([[1 + 1 + 4.0, 2 + 2, 4], [1 + 8.0, 16, 0], [4.0, 4, 4 + 4]])
    )


def line_model(states, actions):
    """A line of cells: action 1 goes right, 0 stays; cell 3 pays 1 when it is entered."""
    (cells,) = states
    following = cells + (actions == 1)
    rewards = ((following == 3) & (cells == 2)).float()
    logits = torch.zeros(len(cells), 2)
    return Evaluation(rewards, torch.zeros(len(cells)), logits, (following,))


def test_the_search_finds_what_pays_and_counts_its_simulations():
    roots = Evaluation(torch.zeros(2), torch.zeros(2), torch.zeros(2, 2), (torch.tensor([2, 1]),))
    found = search(roots, line_model, 40, 0.9)
    assert found.visits.sum(axis=1).tolist() == [40, 40]
    assert (found.visits[:, 1] > 2 * found.visits[:, 0]).all()
    assert 0 < found.values[1] < found.values[0] <= 1


def test_the_search_of_one_root_does_not_depend_on_the_others_and_keeps_to_masks():
    def at(*cells):
        n = len(cells)
        zeros = (torch.zeros(n), torch.zeros(n), torch.zeros(n, 2))
        return Evaluation(*zeros, (torch.tensor(cells),))

    together = search(at(0, 2), line_model, 12, 0.9).visits
    alone = search(at(0), line_model, 12, 0.9).visits
    np.testing.assert_array_equal(together[:1], alone)
    masks = np.array([[True, False], [True, True]])
    assert search(at(2, 2), line_model, 12, 0.9, masks=masks).visits[0].tolist() == [12, 0]


def test_actions_follow_visits():
    rng = np.random.default_rng(0)
    visits = np.tile([[1, 3, 0]], (4000, 1))
    greedy = np.arange(4000) < 10
    actions = act_from(visits, greedy, 1.0, rng)
    assert (actions[:10] == 1).all()
    shares = np.bincount(actions[10:], minlength=3) / 3990
    np.testing.assert_allclose(shares, [0.25, 0.75, 0], atol=0.03)


def test_the_store_stops_at_ends_and_at_the_newest_frame():
    store = SequenceReplay(1, 20, np.zeros(1, np.float32), 2)
    for step in range(7):  # an episode of 5 steps, then 2 of the next
        seen = np.full((1, 1), step if step < 5 else step + 5, np.float32)
        last = np.array([step == 4])
        policy = np.full((1, 2), 0.5)
        store.add(seen, np.array([step % 2]), np.array([step]), policy, seen + 1, last, last)
    assert store.steps == 6  # the newest frame has no next one yet
    drawn = store.sample(200, 3, np.random.default_rng(0))
    for row in range(200):
        first, length = int(drawn.observations[row, 0, 0]), int(drawn.lengths[row])
        assert length == (min(3, 5 - first) if first < 5 else 1)
        assert drawn.terminated[row] == (first + length == 5)
        expected = first + np.minimum(np.arange(4), length)
        np.testing.assert_array_equal(drawn.observations[row, :, 0], expected)
        assert not drawn.rewards[row, length:].any()
    store.cut()
    assert store.steps == 6


def test_a_search_sees_what_training_sees():
    """Following actions in the model is running along the sequence of its own latent states."""
    torch.manual_seed(0)
    model = WorldModel(6, 3, dim=8, layers=2, heads=2, hidden=16, window=3, support=2.0, atoms=9)
    node, actions, latents = model.root(torch.randn(5, 6)), [], []
    latents.append(node.states[0][:, 0].clone())
    for step in range(3):
        actions.append(torch.randint(3, (5,)))
        node = model.follow(tuple(part.clone() for part in node.states), actions[-1])
        latents.append(node.states[0][:, step + 1].clone())
    found = model(torch.stack(latents, dim=1), torch.stack(actions, dim=1))
    torch.testing.assert_close(node.logits, found.logits[:, -1])
    torch.testing.assert_close(node.values, model.number(found.values[:, -1]))
    torch.testing.assert_close(node.rewards, model.number(found.rewards[:, -1]))
    torch.testing.assert_close(latents[-1], found.latents[:, -1].exp())


def test_rows_of_resting_tasks_are_not_stepped():
    env = TaskVecEnv([lambda: gym.make("GridWorld-v0", rows=1, cols=5, max_steps=9)] * 3, [0, 1, 1])
    before = env.reset()
    env.rest([False, True])
    after, _, dones, infos = env.step(np.full(3, 2))
    assert (after != before).tolist() == [True, False, False]
    assert not dones.any()
    assert [info.get("resting", False) for info in infos] == [False, True, True]


def test_tasks_need_the_same_spaces_and_numbers_without_gaps():
    makers = [lambda n=n: gym.make("GridWorld-v0", rows=n, cols=2) for n in (2, 3)]
    with pytest.raises(ValueError, match="all tasks need the same"):
        TaskVecEnv(makers)
    with pytest.raises(ValueError, match="without gaps"):
        TaskVecEnv([makers[0]] * 2, [0, 2])


def test_observations_must_be_arrays():
    seen, actions = gym.spaces.Dict({"a": gym.spaces.Discrete(2)}), gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match="observations that are arrays"):
        UniZeroPolicy(seen, actions, lambda _: 1e-3)
