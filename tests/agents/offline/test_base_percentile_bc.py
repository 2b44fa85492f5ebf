"""Cloning the best recorded episodes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from palaestra.agents import BehaviourCloning, PercentileBC
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.offline_files import FileDataset
from palaestra.agents.offline.base_percentile_bc import best_episodes

REWARDS = [1.0, 1.0, 5.0, 0.0, 0.0, 0.5, 2.0, 9.0]  # of episodes with returns 2, 5, 0.5 and 11
ENDS = [0, 1, 1, 0, 0, 1, 0, 0]  # the last episode is not closed


def episodes(rewards=REWARDS, ends=ENDS, cls=OfflineDataset, **more):
    n = len(rewards)
    arrays = {"observations": np.arange(n), "actions": np.arange(n) % 2, "rewards": rewards}
    spaces = {"observation_space": Discrete(n), "action_space": Discrete(2)}
    return cls(**arrays, truncations=np.array(ends, bool), **spaces, **more)


@pytest.mark.parametrize(
    ("percent", "rows"),
    [
        (25, [6, 7]),
        (50, [2, 6, 7]),
        (74.9, [2, 6, 7]),
        (75, [0, 1, 2, 6, 7]),
        (100, list(range(8))),
        (1, [6, 7]),  # one at least
    ],
)
def test_worked_example_of_the_best_episodes(percent, rows):
    kept = best_episodes(episodes(), percent)
    assert kept.observations.tolist() == rows
    assert kept.rewards.tolist() == [REWARDS[row] for row in rows]
    assert kept.truncations.tolist() == [bool(ENDS[row]) for row in rows]


def test_of_equal_returns_the_earlier_ones_are_kept():
    kept = best_episodes(episodes([1.0] * 8, [1] * 8), 50)
    assert kept.observations.tolist() == [0, 1, 2, 3]


def test_shares_are_not_rounded_away():
    data = episodes([float(i) for i in range(100)], [1] * 100)
    assert len(best_episodes(data, 29)) == 29  # 0.29 * 100 is less than 29 in floats


def test_what_a_file_says_beside_is_kept_too():
    data = episodes(cls=FileDataset, source="here", infos={"place": np.arange(8) * 10})
    kept = best_episodes(data, 25)
    assert kept.infos["place"].tolist() == [60, 70]
    assert kept.source == "here"


def test_it_does_what_the_best_episodes_do():
    rng = np.random.default_rng(100)
    drift = rng.uniform(-1, 1, 200)
    actions = np.repeat(drift, 5)[:, None].astype(np.float32)
    ends = np.arange(1000) % 5 == 4
    box = Box(-1, 1, (1,))
    data = OfflineDataset(
        np.zeros((1000, 1), np.float32),
        actions,
        actions[:, 0],
        truncations=ends,
        observation_space=box,
        action_space=box,
    )
    found = []
    for cls, more in ((BehaviourCloning, {}), (PercentileBC, {"percent": 10})):
        agent = cls("MlpPolicy", data, seed=100, learning_rate=0.01, **more).learn(150)
        found.append(float(agent.predict(np.zeros(1, np.float32), deterministic=True)[0][0]))
    assert found[0] == pytest.approx(drift.mean(), abs=0.1)
    assert found[1] == pytest.approx(np.sort(drift)[-20:].mean(), abs=0.1)


def test_data_are_reduced_wherever_they_are_given(tmp_path):
    agent = PercentileBC("MlpPolicy", episodes(), percent=25, seed=0)
    assert len(agent.dataset) == 2
    agent.set_env(episodes(list(reversed(REWARDS)), [0, 1, 0, 0, 1, 1, 0, 1]))
    assert agent.dataset.observations.tolist() == [0, 1]
    agent.learn(2).save(tmp_path / "agent")
    loaded = PercentileBC.load(tmp_path / "agent", env=episodes())
    assert len(loaded.dataset) == 2 and loaded.percent == 25


def test_what_is_not_known_is_refused():
    for percent in (0, -1, 101, np.nan):
        with pytest.raises(ValueError, match="percent="):
            best_episodes(episodes(), percent)
        with pytest.raises(ValueError, match="percent="):
            PercentileBC("MlpPolicy", gym.make("FiniteMDP-v0"), percent=percent)
    spaces = {"observation_space": Discrete(2), "action_space": Discrete(2)}
    with pytest.raises(ValueError, match="no rewards"):
        best_episodes(OfflineDataset([0, 1], [0, 1], terminations=[False, True], **spaces), 10)
    with pytest.raises(ValueError, match="no episodes are known"):
        PercentileBC("MlpPolicy", OfflineDataset([0, 1], [0, 1], [0.0, 1.0], **spaces))
