"""`palaestra record`: data sets of several qualities, the same ones from the same seed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from test_cli import call, fails

from palaestra.agents import PPO
from palaestra.agents.base.minari_files import read_minari, recorded_environment
from palaestra.agents.base.normalised_scores import Reference, normalised_score
from palaestra.agents.base.offline_tensors import episode_ends, episode_returns
from palaestra.lab import record as lab_record
from palaestra.lab.playing import StepRecorder, play, uniformly, vector
from palaestra.lab.record import MEDIUM, Milestone, Request, medium_of

ENV = ["TorquePendulum-v0", "--env", "max_steps=20"]
QUICK = ["--reference-episodes", "5", "--no-progress"]
TRAIN = ["--agent", "PPO", "--train-steps", "4800", "--num-envs", "8"]
TRAIN += ["--set", "n_steps=40", "--set", "device=cpu", "--set", "learning_rate=3e-3"]
TRAIN += ["--set", "gamma=0.9", "--set", "batch_size=160"]
ALL = [
    x for quality in ("random", "medium", "medium-replay", "expert") for x in ("--quality", quality)
]
COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def record(*arguments):
    outcome = call("record", *ENV, *QUICK, *arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout.splitlines()


def test_random_actions_need_no_agent(root):
    (line,) = record("--quality", "random", "--steps", "50")
    assert line.startswith("TorquePendulum-v0/random-v0: 50 steps, 3 episodes, mean return -")
    assert line.endswith(str(root / "TorquePendulum-v0" / "random-v0"))
    data = read_minari("TorquePendulum-v0/random-v0")
    assert episode_ends(data).tolist() == [20, 40, 50]
    high = data.action_space.high
    assert (
        np.abs(data.actions / high).max() <= 1
        and 0.5 < np.abs(data.actions / high).std() * 3**0.5 * 2
    )
    assert data.metadata["quality"] == "random" and data.metadata["seed"] == 0
    assert "ref_max_score" not in data.metadata and data.metadata["ref_min_score"] < 0
    assert data.metadata["versions"].keys() >= {"palaestra", "gymnasium", "minari", "torch"}
    assert recorded_environment(data.metadata).spec.kwargs == {"max_steps": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All four qualities of one training, twice, and with another seed."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setattr(lab_record, "EVALUATIONS", 12)
        lines = [
            record(*TRAIN, *ALL, "--steps", "300", "--name", name, "--seed", seed)
            for name, seed in (("test/first", 0), ("test/again", 0), ("test/other", 1))
        ]
        qualities = ("random", "medium", "medium-replay", "expert")
        names = [
            [read_minari(f"test/{name}/{quality}-v0") for quality in qualities]
            for name in ("first", "again", "other")
        ]
    return lines, [dict(zip(qualities, found, strict=True)) for found in names]


def test_qualities_are_those_of_d4rl(trained):
    lines, (first, _, _) = trained
    assert len(lines[0]) == 4
    scores = {quality: data.metadata.get("quality_score") for quality, data in first.items()}
    assert scores["random"] == 0 and scores["expert"] == 1 and scores["medium-replay"] is None
    assert MEDIUM <= scores["medium"] < 1
    for quality, data in first.items():
        assert len(data) == 300 or quality == "medium-replay"
        assert data.metadata["ref_min_score"] < data.metadata["ref_max_score"]
    assert normalised_score(first["expert"].metadata["ref_max_score"], first["medium"]) == 1
    # Medium-replay holds what was played in training until the agent was of medium quality.
    replay, medium = first["medium-replay"], first["medium"]
    assert (
        len(replay) == replay.metadata["trained_timesteps"] == medium.metadata["trained_timesteps"]
    )
    assert len(replay) < 4800 == first["expert"].metadata["trained_timesteps"]
    assert replay.metadata["algorithm_name"] == "PPO"
    assert first["random"].metadata["algorithm_name"] == "uniform"


def test_the_same_seed_records_the_same_steps(trained):
    _, (first, again, other) = trained
    for quality, data in first.items():
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(data, name), getattr(again[quality], name))
        assert data.metadata["ref_min_score"] == again[quality].metadata["ref_min_score"]
        assert not np.array_equal(data.actions[:100], other[quality].actions[:100])


def test_a_saved_agent_is_played_as_it_is(tmp_path):
    env = gym.make("TorquePendulum-v0", max_steps=20)
    agent = PPO("MlpPolicy", env, n_steps=20, batch_size=20, seed=3, device="cpu").learn(40)
    agent.save(tmp_path / "agent.zip")
    common = ["--agent", str(tmp_path / "agent.zip"), "--steps", "30"]
    scores = ["--ref-min-score", "-1000", "--ref-max-score", "-1"]
    record(*common, *scores, "--deterministic")
    data = read_minari("TorquePendulum-v0/expert-v0")
    np.testing.assert_allclose(
        data.actions, agent.predict(data.observations, deterministic=True)[0], rtol=1e-4
    )
    assert data.metadata["algorithm_name"] == "PPO" and data.metadata["deterministic"]
    assert (data.metadata["ref_min_score"], data.metadata["ref_max_score"]) == (-1000, -1)
    assert 0 < data.metadata["quality_score"] < 1
    record(*common, *scores, "--name", "drawn")
    drawn = read_minari("drawn/expert-v0")
    best = agent.predict(drawn.observations, deterministic=True)[0]
    assert np.abs(drawn.actions - best).max() > 0.01
    line = fails(2, "record", *ENV, *QUICK, *common, "--quality", "medium", "--name", "x/y")
    assert "medium: only an agent that is trained here" in line
    assert "--set is for an agent given by name" in fails(
        2, "record", *ENV, *common, "--set", "n_steps=2"
    )


def test_training_stops_at_medium_where_the_expert_is_known():
    record(
        *TRAIN,
        "--quality",
        "medium-replay",
        "--name",
        "probe",
        "--ref-min-score",
        "-200",
        "--ref-max-score",
        "-80",
    )
    data = read_minari("probe/medium-replay-v0")
    assert len(data) == data.metadata["trained_timesteps"] < 4800
    assert data.metadata["ref_max_score"] == -80


def test_a_heuristic_and_masked_actions_are_recorded():
    arguments = ["record", "TSP-v0", "--env", "nodes=6", *QUICK, "--steps", "40"]
    for extra in (["--quality", "random"], ["--agent", "NearestNeighbour"]):
        outcome = call(*arguments, *extra)
        assert outcome.exit_code == 0, outcome.output
    random, expert = (read_minari(f"TSP-v0/{quality}-v0") for quality in ("random", "expert"))
    assert expert.metadata["algorithm_name"] == "NearestNeighbour"
    assert episode_returns(expert).mean() > episode_returns(random).mean()
    start = 0
    for end in episode_ends(random):  # a city is visited once
        assert len(set(random.actions[start:end].tolist())) == end - start
        start = end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "expert"], "expert needs --agent"),
        (["--quality", "good"], "allowed are random, medium, medium-replay, expert, each once"),
        (["--quality", "random", "--quality", "random"], "each once"),
        (["--agent", "Nobody"], "'Nobody' is neither a file nor an agent"),
        (["--quality", "random", "--name", "no name"], "Malformed dataset ID"),
        (
            [
                "--agent",
                "PPO",
                "--train-steps",
                "64",
                "--set",
                "n_steps=64",
                "--ref-max-score",
                "-9999",
            ],
            "the expert's mean return -9999 is not above that of random actions",
        ),
        (
            ["--agent", "PPO", "--train-steps", "64", "--set", "n_steps=64", "--quality", "medium"]
            + ["--ref-min-score", "-30", "--ref-max-score", "0"],
            "no agent of medium quality: the best return while it was trained",
        ),
    ],
)
def test_what_cannot_be_recorded_is_one_line(root, arguments, message):
    assert message in fails(2, "record", *ENV, *QUICK, "--steps", "20", *arguments)
    assert list(root.glob("**/*.hdf5")) == []


def test_a_data_set_that_exists_is_refused_before_anything_is_done():
    record("--quality", "random", "--steps", "5")
    assert "random-v0 exists: choose" in fails(2, "record", *ENV, "--quality", "random")


def test_numbers_of_a_request_are_checked():
    with pytest.raises(ValueError, match="train_steps=0 must be at least 1"):
        Request("TorquePendulum-v0", {}, train_steps=0)
    with pytest.raises(ValueError, match=r"qualities \[\]: allowed are"):
        Request("TorquePendulum-v0", {}, qualities=())


def test_medium_is_the_first_milestone_above_a_third(tmp_path):
    found = [Milestone(tmp_path, x, step, 0) for step, x in enumerate([-5.0, 3.3, 3.4, 9.0])]
    assert medium_of(found, Reference(0.0, 10.0)).timesteps == 2
    with pytest.raises(ValueError, match="the best return while it was trained is 9"):
        medium_of(found, Reference(0.0, 30.0))


def test_steps_of_several_environments_are_whole_episodes_one_after_the_other():
    env = gym.make("TorquePendulum-v0", max_steps=4)
    environments = vector("TorquePendulum-v0", {"max_steps": 4}, 3)
    data = play(uniformly(environments.action_space, 0), environments, env, 16, seed=5)
    assert len(data) == 16
    # 3 environments, 6 steps each: 4 and 2, of which the last environment has 4 left.
    assert episode_ends(data).tolist() == [4, 6, 10, 12, 16]
    assert not data.terminations.any()
    inside = ~data.truncations[:-1]
    np.testing.assert_array_equal(
        data.next_observations[:-1][inside], data.observations[1:][inside]
    )
    for index, start in enumerate((0, 6, 12)):
        np.testing.assert_array_equal(data.observations[start], env.reset(seed=5 + index)[0])


def test_a_reset_cuts_the_episode_that_is_under_way():
    recorder = StepRecorder(vector("TorquePendulum-v0", {"max_steps": 9}, 1))
    recorder.reset()
    for _ in range(3):
        recorder.step(np.zeros((1, 1), np.float32))
    recorder.reset()
    recorder.step(np.zeros((1, 1), np.float32))
    data = recorder.dataset(gym.make("TorquePendulum-v0"), 4, 4)
    assert episode_ends(data).tolist() == [3, 4]


def test_observations_that_are_no_arrays_are_refused():
    from palaestra.lab import playing

    class Nested(gym.Env):
        observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(2))
        action_space = gym.spaces.Discrete(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playing, "make_environment", lambda *arguments: Nested())
        with pytest.raises(ValueError, match="data sets hold arrays, not dictionaries"):
            vector("Nested-v0", {}, 1)
