"""D4RL's layout: the rule of its pairs, what comes back, and what is said of damaged files."""

from __future__ import annotations

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from palaestra.agents import BehaviourCloning
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.offline_files import (
    FileDataset,
    load_dataset,
    paired,
    read_d4rl,
    write_d4rl,
)

# Three episodes: cut after 4 steps, over after 3, and one that the file's end cuts.
TERMINALS = np.array([0, 0, 0, 0, 0, 0, 1, 0, 0], dtype=bool)
TIMEOUTS = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)


def columns(steps=9, **changes):
    rows = np.arange(steps, dtype=np.float32)
    found = {
        "observations": np.stack([rows, rows + 0.5, -rows], axis=1),
        "actions": np.stack([rows / 100, -rows / 100], axis=1),
        "rewards": rows,
        "terminals": TERMINALS[:steps],
        "timeouts": TIMEOUTS[:steps],
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


@pytest.fixture
def stored(tmp_path):
    def store(**changes):
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            for name, value in columns(**changes).items():
                file.create_dataset(
                    name, data=value, compression="gzip" if np.ndim(value) else None
                )
        return path

    return store


def test_every_step_is_read_in_its_order(stored):
    data = read_d4rl(stored())
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(data, name), columns()[name])
    assert np.flatnonzero(data.terminations).tolist() == [6]
    assert np.flatnonzero(data.truncations).tolist() == [3, 8]
    assert data.next_observations is None and data.env is None
    assert data.action_space == spaces.Box(-1, 1, (2,))
    assert data.observation_space == spaces.Box(-np.inf, np.inf, (3,))


def test_worked_example_of_pairs(stored):
    data = paired(read_d4rl(stored()))
    # Row 3 is a timeout, row 8 the last one.
    assert data.rewards.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert data.next_observations[:, 0].tolist() == [1, 2, 3, 5, 6, 7, 8]
    assert data.terminations.tolist() == [False] * 5 + [True, False]
    assert data.truncations.tolist() == [False, False, True, False, False, False, True]
    assert (load_dataset(stored()).rewards == data.rewards).all()


def by_hand(file, longest=None):
    """Rows that D4RL's rule keeps, one after the other."""
    rows, step = [], 0
    for row in range(len(file["rewards"]) - 1):
        last = file["timeouts"][row] if longest is None else step == longest - 1
        if not last:
            rows.append(row)
        step = 0 if last or file["terminals"][row] else step + 1
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_the_rule_row_by_row(tmp_path, seed):
    rng = np.random.default_rng(seed)
    steps = 300
    file = {
        "observations": rng.standard_normal((steps, 2)),
        "actions": rng.uniform(-1, 1, (steps, 1)),
        "rewards": rng.standard_normal(steps),
        "terminals": rng.random(steps) < 0.1,
        "timeouts": rng.random(steps) < 0.1,  # also where the task ended
    }
    path = tmp_path / "data.hdf5"
    for longest in (None, 4):
        with h5py.File(path, "w") as out:
            for name, value in file.items():
                if longest is None or name != "timeouts":
                    out.create_dataset(name, data=value)
        data = paired(read_d4rl(path, max_episode_steps=longest))
        rows = np.array(by_hand(file, longest))
        np.testing.assert_array_equal(data.rewards, file["rewards"][rows])
        np.testing.assert_array_equal(data.observations, file["observations"][rows])
        np.testing.assert_array_equal(data.next_observations, file["observations"][rows + 1])
        np.testing.assert_array_equal(data.terminations, file["terminals"][rows])
        # Within an episode, what follows is what comes next.
        inside = ~(data.terminations | data.truncations)[:-1]
        np.testing.assert_array_equal(
            data.next_observations[:-1][inside], data.observations[1:][inside]
        )


def test_columns_of_old_files(stored):
    data = read_d4rl(
        stored(
            rewards=np.arange(9.0)[:, None],
            terminals=TERMINALS.astype(np.float32)[:, None],
            timeouts=None,
        ),
        max_episode_steps=3,
    )
    assert data.rewards.shape == (9,)
    assert np.flatnonzero(data.terminations).tolist() == [6]
    assert np.flatnonzero(data.truncations).tolist() == [2, 5, 8]
    with pytest.raises(ValueError, match="has no timeouts; give max_episode_steps"):
        read_d4rl(stored(timeouts=None))
    path = stored(timeouts=None, observations=np.zeros((9, 3)), actions=np.zeros((9, 1)))
    env = gym.make("TorquePendulum-v0", max_steps=5)
    env.spec.max_episode_steps = 4
    assert np.flatnonzero(read_d4rl(path, env).truncations).tolist() == [3, 8]


def test_next_observations_infos_and_metadata_of_a_file(stored):
    given = {
        "next_observations": columns()["observations"] + 1,
        "infos/qpos": np.arange(18.0).reshape(9, 2),
        "infos/goal": np.arange(9),
        "metadata/algorithm": "SAC",
        "metadata/iteration": 17,
        "metadata/policy/bias": np.zeros(3),
    }
    data = read_d4rl(stored(**given), infos=["qpos"])
    np.testing.assert_array_equal(data.next_observations, given["next_observations"])
    assert data.metadata == {"algorithm": "SAC", "iteration": 17}
    assert list(data.infos) == ["qpos"]
    pairs = paired(data)
    np.testing.assert_array_equal(pairs.infos["qpos"][3], [8, 9])  # row 4
    assert pairs.next_observations[0, 0] == 1 and pairs.metadata == data.metadata
    with pytest.raises(ValueError, match=r"no infos \['speed'\]; it has \['goal', 'qpos'\]"):
        read_d4rl(stored(**given), infos=["speed"])


def test_what_is_written_is_read_back(tmp_path):
    env = gym.make("TorquePendulum-v0", max_steps=10)
    recorded = OfflineDataset.record(env, 25)
    beside = {
        "metadata": {"algorithm": "random", "seed": 3, "versions": {"numpy": "2"}},
        "infos": {"row": np.arange(25)},
    }
    space = {"observation_space": recorded.observation_space, "action_space": recorded.action_space}
    data = FileDataset(**recorded.arrays(), **space, **beside)
    path = write_d4rl(tmp_path / "new" / "data.hdf5", data)
    found = read_d4rl(path, env, infos=["row"])
    for name, array in recorded.arrays().items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert found.metadata == {"algorithm": "random", "seed": 3}
    assert found.infos["row"].tolist() == list(range(25))
    with pytest.raises(ValueError, match="need rewards and terminations, which the data do not"):
        write_d4rl(
            tmp_path / "other.hdf5",
            OfflineDataset(recorded.observations, recorded.actions, **space),
        )
    assert [x.name for x in path.parent.iterdir()] == ["data.hdf5"]


def test_an_agent_learns_from_a_file(tmp_path):
    env = gym.make("TorquePendulum-v0", max_steps=10)
    path = write_d4rl(tmp_path / "data.hdf5", OfflineDataset.record(env, 60))
    data = load_dataset(path, env="TorquePendulum-v0")
    assert len(data) == 60 - 6  # every episode of ten steps is cut
    agent = BehaviourCloning("MlpPolicy", data, batch_size=8, seed=0, device="cpu").learn(3)
    assert agent.predict(data.observations[0])[0].shape == (1,)


# -- damage ---------------------------------------------------------------------------------------


def changed(name, row, value):
    array = columns()[name].copy()
    array[row] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("observations", (5, 1), np.nan), r"observations of episode 1, step 1 \(row 5\)"),
        (changed("rewards", 8, np.inf), r"rewards of episode 2, step 1 \(row 8\): inf is not fin"),
        (
            changed("actions", (3, 0), 1.5),
            r"actions of episode 0, step 3 \(row 3\): .* outside Box",
        ),
        (
            {"actions": np.zeros((7, 2))},
            r"actions has 7 rows, observations 9: .* episode 2, step 0",
        ),
        ({"timeouts": TIMEOUTS[:4]}, r"timeouts has 4 rows, observations 9: .* episode 1, step 0"),
        ({"terminals": TERMINALS * 2}, "terminals of row 6: 2 is neither 0 nor 1"),
        ({"rewards": np.zeros((9, 2))}, r"entries of rewards have shape \(2,\), needed is \(\)"),
        ({"rewards": 3.0}, "rewards is one number, not a column"),
        ({"terminals": None, "rewards": None}, "lacks rewards, terminals; D4RL's files have"),
        ({"next_observations": np.zeros((9, 4))}, r"next_observations have shape \(4,\), needed"),
        ({"steps": 0}, "holds no steps"),
    ],
)
def test_damaged_columns_are_named_with_their_place(stored, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_d4rl(stored(**changes))
    assert str(error.value).startswith(str(stored(**changes)))


def test_a_file_that_does_not_fit_its_environment_is_refused(stored):
    with pytest.raises(ValueError, match=r"entries of actions have shape \(2,\), needed is \(1,\)"):
        read_d4rl(stored(), "TorquePendulum-v0")
    with pytest.raises(ValueError, match="Nowhere-v0"):
        read_d4rl(stored(), "Nowhere-v0")


def test_a_file_that_is_cut_off_is_refused(stored, tmp_path):
    path = stored()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"data.hdf5: damaged or cut off, or no HDF5 file: .*trunc"
    ):
        read_d4rl(path)
    path.write_bytes(b"no data at all")
    with pytest.raises(ValueError, match="damaged or cut off, or no HDF5 file"):
        read_d4rl(path)
    with pytest.raises(FileNotFoundError, match="missing.hdf5: no such file"):
        read_d4rl(tmp_path / "missing.hdf5")


def test_damaged_chunks_are_named(stored):
    path = stored(observations=np.random.default_rng(0).standard_normal((9, 3)))
    with h5py.File(path) as file:
        place = file["observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="observations cannot be read"):
        read_d4rl(path)


def test_steps_without_a_pair_are_refused(stored):
    with pytest.raises(ValueError, match="1 steps hold no pair of successive ones"):
        paired(read_d4rl(stored(steps=1)))


def test_a_missing_library_is_one_line_that_names_the_extra(stored, monkeypatch):
    import palaestra.extras

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    path, data = stored(), OfflineDataset.record(gym.make("TorquePendulum-v0"), 2)
    monkeypatch.setattr(palaestra.extras.importlib, "import_module", missing)
    for call in (lambda: load_dataset(path), lambda: write_d4rl(path, data)):
        with pytest.raises(ImportError, match=r'pip install "palaestra\[offline\]"'):
            call()
