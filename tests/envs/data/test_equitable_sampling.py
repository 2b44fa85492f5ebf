"""`EquitableSampling-v0`: what batches add, what learning points tell, and a user's own table."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.envs.data.equitable_sampling import EquitableSampling, split_observation
from palaestra.envs.data.learning_curves import polygenic_curve
from palaestra.envs.data.render_sampling import apart

WORKED = {"costs": (1, 2), "start": 20, "budget": 200, "spend": 20, "eta": 0.0, "noise": 0.0}
SMALL = {"mode": "prs", "markers": (4, 9), "validation": 30, "test": 40, "start": 12}


def play(env, groups):
    return [env.step(group) for group in groups]


# -- batches, budget and reward --------------------------------------------------------------------


def test_worked_example_of_a_greedy_path():
    env = gym.make("EquitableSampling-v0", **WORKED)
    observation, info = env.reset(seed=0)
    assert_allclose(info["performances"], [0.9 - 2 / 20**0.5, 0.8 - 3 / 20**0.5])
    assert_allclose(info["validation"], info["performances"])
    assert_allclose(observation[:6], [20, 20, 1, 2, 1, 1])
    assert observation[-1] == 1
    before = info["utility"]
    steps = play(env, [0, 1, 1, 0, 1, 1, 0, 1, 0, 1])
    assert [step[2] for step in steps] == [False] * 9 + [True]
    observation, _, _, truncated, info = steps[-1]
    assert not truncated
    assert_array_equal(info["n"], [100, 80])
    assert info["utility"] == pytest.approx(1.164589803, abs=1e-9)
    assert sum(step[1] for step in steps) == pytest.approx(info["utility"] - before)
    assert_allclose([step[0][-1] for step in steps], np.arange(9, -1, -1) / 10, atol=1e-6)


def test_what_is_not_enough_for_a_whole_sample_is_carried_on():
    core = EquitableSampling(costs=(3.0, 0.1), start=(5, 1), budget=11.0, spend=2.0)
    assert core.horizon == 5  # 1 is left, which buys no batch
    assert_array_equal(core.sizes[0], 5 + np.array([0, 0, 1, 2, 2, 3]))
    assert_array_equal(core.sizes[1], 1 + 20 * np.arange(6))


def test_observed_performance_is_noisy_and_the_reward_is_not():
    core = EquitableSampling(noise=0.1)
    tape = core.tapes(2_000, 0)
    state = core.initial(tape)
    after = core.transition(state, np.zeros(2_000, dtype=int), tape)
    gain = np.log(0.9 - 2 / 150**0.5) - np.log(0.7)
    assert_allclose(core.reward(state, np.zeros(2_000, dtype=int), after), gain)
    noise = (after["validation"] - after["test"])[:, 0]
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(0.1, abs=0.005)
    # What was not bought for is not observed anew.
    assert_array_equal(after["validation"][:, 1], state["validation"][:, 1])


def test_samples_may_help_other_groups():
    kappa = [[1.0, 0.5], [0.0, 1.0]]
    env = gym.make("EquitableSampling-v0", **WORKED, transfer=kappa)
    env.reset(seed=0)
    performances = env.step(1)[4]["performances"]  # 10 samples, of which 5 count for group 0
    assert_allclose(performances, [0.9 - 2 / (20 + 15) ** 0.5, 0.8 - 3 / 30**0.5])
    points = env.unwrapped.learning_points(0)
    assert_allclose(points[[0, 24], 0], [0.3 * 35, 35])
    core = env.unwrapped.core
    with pytest.raises(ValueError, match="groups help each other"):
        core.source.test_table(core.tapes(1, 0))


def test_parts_of_an_observation():
    parts = split_observation(np.arange(9.0), 2)
    expected = {"n": [0, 1], "costs": [2, 3], "weights": [4, 5], "validation": [6, 7], "left": 8}
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert_array_equal(parts[name], value)


# -- learning points -------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"start": 40}, {**SMALL, "start": 40}])
def test_learning_points_are_of_the_shares_and_repeat(arguments):
    env = gym.make("EquitableSampling-v0", budget=100, spend=20, **arguments).unwrapped
    with pytest.raises(ValueError, match="no episode has begun"):
        env.learning_points(0)
    observation, _ = env.reset(seed=3)
    first = env.learning_points(0)
    assert_allclose(first[:, 0], [*np.repeat([12, 20, 28, 34], 6), 40])
    assert first[-1, 1] == pytest.approx(observation[6])
    assert len(np.unique(first[:, 1])) > 20
    assert_array_equal(env.learning_points(0), first)
    env.step(1)
    assert_array_equal(env.learning_points(0), first)  # nothing has changed for group 0
    env.step(0)
    assert env.learning_points(0)[-1, 0] == 60
    with pytest.raises(ValueError, match=r"group=2 is outside 0 \.\. 1"):
        env.learning_points(2)


def test_learning_points_of_a_vector_are_those_of_its_rows():
    arguments = {**SMALL, "budget": 30, "spend": 10}
    vector = gym.make_vec("EquitableSampling-v0", num_envs=3, **arguments).unwrapped
    with pytest.raises(ValueError, match="no episode has begun"):
        vector.learning_points(0, 1)
    vector.reset(seed=5)
    vector.step(np.array([0, 1, 0]))
    for row in range(3):
        env = gym.make("EquitableSampling-v0", **arguments).unwrapped
        env.reset(seed=5 + row)
        env.step([0, 1, 0][row])
        for group in range(2):
            assert_array_equal(vector.learning_points(group, row), env.learning_points(group))


def test_points_of_noiseless_curves_lie_on_them():
    env = gym.make("EquitableSampling-v0", noise=0.0).unwrapped
    env.reset(seed=0)
    points = env.learning_points(1)
    assert_allclose(points[:, 1], 0.8 - 3 / np.sqrt(points[:, 0]))


# -- polygenic scores ------------------------------------------------------------------------------


def test_scores_are_those_of_ridge_regression_on_what_was_bought():
    core = EquitableSampling(**SMALL, budget=30, spend=10, heritability=(0.5, 0.7))
    tape = core.tapes(2, 8)
    state = core.initial(tape)
    state = core.transition(state, np.array([1, 1]), tape)
    for row in range(2):
        data = core.source.samples({name: x[row] for name, x in tape.items()}, 1)
        x, y = data.features[:22], data.targets[:22]
        effects = np.linalg.solve(x.T @ x + 9 * 0.3 / 0.7 * np.eye(9), x.T @ y)
        for name, rows in (("validation", slice(42, 72)), ("test", slice(72, 112))):
            held = data.targets[rows]
            error = np.mean((held - data.features[rows] @ effects) ** 2)
            expected = max(1 - error / np.mean(held**2), 0.01)
            assert state[name][row, 1] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("genotypes", [False, True])
def test_genomes_have_the_heritability_and_learn_as_theory_says(genotypes):
    core = EquitableSampling(
        **{"mode": "prs", "markers": (60,), "heritability": 0.6, "genotypes": genotypes},
        **{"start": 150, "budget": 450, "spend": 150},
    )
    tape = core.tapes(8, 0)
    data = core.source.samples({name: x[0] for name, x in tape.items()}, 0)
    assert_allclose(data.features.mean(axis=0), 0.0, atol=0.12)
    assert_allclose(data.features.std(axis=0), 1.0, atol=0.12)
    assert data.targets.var() == pytest.approx(1.0, abs=0.1)
    simple = polygenic_curve(core.sizes[0], 0.6, 60)
    # All markers at once: what the others explain is no noise any more.
    expected = simple
    for _ in range(50):
        expected = polygenic_curve(core.sizes[0], 0.6, 60 * (1 - expected))
    found = tape["test"].mean(axis=0)[0]
    assert_allclose(found, expected, atol=0.03)
    assert (found > simple).all() and (np.diff(found) > 0).all()


def test_samples_are_drawn_again_where_they_were_forgotten():
    core = EquitableSampling(**SMALL, budget=30, spend=10)
    tape = core.tapes(9, 0)  # more episodes than are remembered
    first = {name: x[0] for name, x in tape.items()}
    again = EquitableSampling(**SMALL, budget=30, spend=10)
    assert_array_equal(
        core.source.samples(first, 1).features, again.source.samples(first, 1).features
    )
    assert_array_equal(again.tapes(1, 0)["test"], tape["test"][:1])


# -- a user's table --------------------------------------------------------------------------------


def roster(rows=(80, 40), seed=0):
    rng = np.random.default_rng(seed)
    total = sum(rows)
    x, z = rng.normal(size=(2, total))
    return {
        "town": np.repeat(["north", "south"], rows),
        "x": x,
        "z": 50 + 10 * z,
        "wage": 7 + 2 * x - z + 0.3 * rng.normal(size=total),
        "hired": np.where(x - z + 0.5 * rng.normal(size=total) > 0, "yes", "no"),
    }


def table(**changes):
    arguments = {"mode": "table", "data": roster(), "group": "town", "target": "wage"}
    arguments |= {"features": ("x", "z"), "start": 10, "budget": 60, "spend": 6} | changes
    return EquitableSampling(**arguments)


def test_a_csv_a_frame_a_structured_array_and_a_mapping_are_the_same_task(tmp_path):
    data = roster()
    frame = pd.DataFrame(data)
    frame.to_csv(tmp_path / "roster.csv", index=False)
    forms = (tmp_path / "roster.csv", frame, frame.to_records(index=False), data)
    tapes = [table(data=form).tapes(2, 0) for form in forms]
    for tape in tapes[1:]:
        assert_array_equal(tape["order"], tapes[0]["order"])
        assert_allclose(tape["test"], tapes[0]["test"], atol=1e-12)


def test_rows_are_split_by_group_and_models_learn_from_what_was_bought():
    core = table()
    assert core.names == ["north", "south"]
    assert_allclose(core.population, [2 / 3, 1 / 3])
    tape = core.tapes(1, 0)
    order = tape["order"][0]
    assert_array_equal(np.sort(order[:80]), np.arange(80))
    assert_array_equal(np.sort(order[80:]), np.arange(80, 120))
    rows, data = order[80:], roster()  # group 1: 20 rows to buy, 8 for validation, 12 for test
    columns = np.column_stack([(data[n] - data[n].mean()) / data[n].std() for n in ("x", "z")])
    columns = np.column_stack([columns, np.ones(120)])
    x, y = columns[rows[:16]], data["wage"][rows[:16]]
    effects = np.linalg.solve(x.T @ x + np.diag([1, 1, 0]), x.T @ y)
    held = data["wage"][rows[28:]]
    r2 = 1 - np.mean((held - columns[rows[28:]] @ effects) ** 2) / held.var()
    assert tape["test"][0, 1, 1] == pytest.approx(r2, abs=1e-10)
    assert tape["test"][0, :, 1].min() > 0.7
    accuracy = table(target="hired", model="logistic").tapes(20, 0)["test"]
    assert_allclose(accuracy.mean(axis=0)[0, -1], 0.87, atol=0.05)
    assert_allclose(accuracy * [[24], [12]], np.round(accuracy * [[24], [12]]))  # shares of rows


def test_a_group_without_rows_is_masked_and_an_episode_ends_when_all_are():
    data = roster((40, 28))
    env = gym.make(
        "EquitableSampling-v0",
        **{"mode": "table", "data": data, "group": "town", "target": "hired", "features": ["x"]},
        **{"model": "logistic", "start": 10, "budget": 60, "spend": 4},
    )
    _, info = env.reset(seed=0)
    assert_array_equal(env.unwrapped.core.room, [2, 1])  # pools of 20 and 14 rows
    assert info["action_mask"].tolist() == [True, True]
    assert env.step(1)[4]["action_mask"].tolist() == [True, False]
    with pytest.raises(ValueError, match="action 1 .*'south' has no samples for another batch, al"):
        env.step(1)
    assert not env.step(0)[2]
    assert env.step(0)[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 25}, "group 'south' has 40 rows: 8 for validation, 12 for test and 20 to buy"),
        ({"start": 20, "data": roster((40, 40))}, "no group has samples for a batch"),
        ({"target": "hired"}, "row 0: column 'hired' is '(yes|no)', allowed: finite numbers"),
        ({"target": "pay"}, r"no column 'pay', allowed: \['hired', 'town'"),
        ({"features": None}, "column 'hired' is .* leave the column out"),
        ({"features": []}, r"features are \[\], allowed: at least one of"),
        ({"features": ["x", "wage"]}, r"features are \['x', 'wage'\], allowed"),
        ({"model": "tree"}, r"model='tree', allowed are \('ridge', 'logistic'\)"),
        ({"model": "logistic"}, 'column .wage. has 120 values, model="logistic" predicts one of t'),
        ({"penalty": 0}, "penalty=0 must be above 0"),
        ({"validation": 0.0}, r"validation=0.0 is no share in \(0, 1\)"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to buy"),
        ({"data": None}, "data is NoneType, allowed: the path of a .csv"),
    ],
)
def test_a_table_that_does_not_serve_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes)


# -- arguments and picture -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "genes"}, r"mode='genes', allowed are \('curve', 'prs', 'table'\)"),
        ({"markers": 3}, r"mode='curve' has no arguments \['markers'\], it has \['asymptotes'"),
        ({"mode": "table"}, r"mode='table' needs the arguments \['data', 'group', 'target'\]"),
        ({"budget": 10}, "budget=10 and spend=50.0: allowed are 0 < spend <= budget"),
        ({"budget": -1, "spend": -2}, "budget=-1 and spend=-2"),
        ({"spend": 0}, "0 < spend <= budget"),
        ({"start": 0}, "start=0 must be finite numbers at least 1"),
        ({"start": 1.5}, "start=1.5 must be integers"),
        ({"start": (1, 2, 3)}, "one number or one for each of 2 groups"),
        ({"costs": (1, 0)}, r"costs=\(1, 0\) must be finite numbers above 0"),
        ({"weights": (1, -1)}, r"weights=\(1, -1\) must be finite numbers at least 0"),
        ({"weights": "a"}, "weights='a' must be numbers"),
        ({"eta": -0.5}, "eta=-0.5 must be a finite number of at least 0"),
        ({"population": (0, 0)}, "must hold a number above 0"),
        ({"scales": (1, -2)}, "scales=.* at least 0"),
        ({"exponents": 0}, "exponents=0 must be finite numbers above 0"),
        ({"asymptotes": (1, 2, 3)}, "scales=.* one for each of 3 groups"),
        ({"noise": -1}, "noise=-1 must be"),
        ({"transfer": np.eye(3)}, r"must be \[2, 2\], at least 0, with a diagonal of 1"),
        ({"transfer": [[1, -1], [0, 1]]}, "transfer=.* at least 0"),
        ({"mode": "prs", "markers": (3, 0)}, r"markers\[1\]=0 must be an integer"),
        ({"mode": "prs", "markers": ()}, "markers=.* one per group"),
        ({"mode": "prs", "heritability": 1.0}, r"heritability=1.0 must lie in \(0, 1\)"),
        ({"mode": "prs", "genotypes": 1}, "genotypes=1 must be True or False"),
        ({"mode": "prs", "test": 0}, "test=0 must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EquitableSampling(**arguments)


def test_labels_of_a_picture_keep_apart():
    heights = np.array([0.5, 0.1, 0.52, 0.51])
    found = apart(heights, 0.05)
    assert_allclose(found, [0.5, 0.1, 0.6, 0.55])


def test_many_groups_can_be_drawn():
    env = gym.make("EquitableSampling-v0", asymptotes=[0.9] * 14, scales=2, render_mode="rgb_array")
    env.reset(seed=0)
    start = env.render()
    play(env, range(14))
    assert (env.render() != start).any()
