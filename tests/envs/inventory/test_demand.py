"""Demand sources: laws against scipy, traces and their windows, how dirty data is refused."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from palaestra.envs.inventory.demand import Discrete, Normal, Poisson, Trace, make_demand
from palaestra.envs.inventory.settings import SETTINGS

FAVORITA = Path(__file__).parents[4] / "shared" / "data" / "inventory"


def rng(seed=0):
    return np.random.default_rng(seed)


def ramp(series=2, weeks=171, stores=3):
    """Value 1000 series + 10 week + store, so that a value tells where it stood."""
    s, t, k = np.ogrid[:series, :weeks, :stores]
    return (1000 * s + 10 * t + k).astype(float)


# -- laws ----------------------------------------------------------------------------------------


def test_draws_depend_on_the_generator_alone():
    for source in (
        Normal([5, 6], 2.0, 0.5),
        Poisson(5.0, stores=2),
        Discrete([0, 3], [0.5, 0.5], stores=2),
        Trace(ramp()),
    ):
        first, start = source.draw(rng(7), 20)
        again, start_again = source.draw(rng(7), 20)
        other, _ = source.draw(rng(8), 20)
        assert first.shape == (20, source.stores)
        assert first.dtype == np.float64
        assert np.array_equal(first, again)
        assert start == start_again
        assert not np.array_equal(first, other)


def test_normal_moments_and_correlation():
    source = Normal([4.0, 8.0], [1.0, 2.0], 0.5, clip=False)
    demand, start = source.draw(rng(), 200_000)
    assert start == 0
    assert demand.mean(axis=0) == pytest.approx([4.0, 8.0], abs=0.02)
    assert demand.std(axis=0) == pytest.approx([1.0, 2.0], rel=0.01)
    assert np.corrcoef(demand.T)[0, 1] == pytest.approx(0.5, abs=0.01)


def test_normal_with_a_correlation_matrix():
    matrix = [[1.0, -0.4], [-0.4, 1.0]]
    demand, _ = Normal([5.0, 5.0], 1.0, matrix, clip=False).draw(rng(), 200_000)
    assert np.corrcoef(demand.T)[0, 1] == pytest.approx(-0.4, abs=0.01)


def test_clipping_is_the_maximum_with_zero_of_the_same_draws():
    clipped, _ = Normal(1.0, 2.0, stores=2).draw(rng(), 500)
    free, _ = Normal(1.0, 2.0, clip=False, stores=2).draw(rng(), 500)
    assert free.min() < 0
    assert np.array_equal(clipped, np.maximum(free, 0.0))


def test_normal_quantile_is_the_base_stock_of_the_paper():
    assert Normal(5.0, 1.6).quantile(0.9, 5)[0] == pytest.approx(29.585018, abs=1e-6)


def test_poisson_quantile_is_scipys():
    quantile = Poisson([2.0, 5.0]).quantile(0.9, 3)
    assert quantile.tolist() == stats.poisson.ppf(0.9, [6.0, 15.0]).tolist()


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    level=st.floats(0.01, 0.99),
    periods=st.integers(1, 4),
)
def test_discrete_quantile_by_brute_force(weights, level, periods):
    values = [0.0, 1.5, 4.0, 7.0][: len(weights)]
    probabilities = np.array(weights) / sum(weights)
    law: dict[float, float] = {}
    for path in itertools.product(range(len(values)), repeat=periods):
        total = sum(values[i] for i in path)
        law[total] = law.get(total, 0.0) + float(np.prod(probabilities[list(path)]))
    cumulated, expected = 0.0, None
    for total in sorted(law):
        cumulated += law[total]
        if cumulated >= level - 1e-12:
            expected = total
            break
    found = Discrete(values, probabilities, stores=2).quantile(level, periods)
    assert found.tolist() == [expected, expected]


def test_discrete_mean_and_std():
    source = Discrete([4, 0], [0.25, 0.75])
    assert (source.mean[0], source.std[0]) == (1.0, pytest.approx(3**0.5))
    demand, _ = source.draw(rng(), 100_000)
    assert demand.mean() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(-1, 1), "mean is -1, allowed: finite numbers >= 0"),
        (lambda: Normal(5, [1, np.nan]), "std is .*, allowed: finite numbers >= 0"),
        (lambda: Normal([5, 6], [1, 2, 3]), "a number, 3 numbers"),
        (lambda: Normal(5, 1, 1.5), "correlation is 1.5, allowed: a number from 0 to 1"),
        (lambda: Normal(5, 1, -0.2), "correlation is -0.2"),
        (lambda: Normal([5, 5], 1, np.eye(3)), r"correlation has shape \(3, 3\), allowed: \(2, 2"),
        (lambda: Normal([5, 5], 1, [[1, 0.5], [0, 1]]), "not a symmetric matrix"),
        (lambda: Normal([5, 5], 1, [[1, 2], [2, 1]]), "not a positive definite matrix"),
        (lambda: Poisson("5"), "mean is '5'"),
        (lambda: Discrete([0, 1], [0.5, 0.6]), "allowed: >= 0 with sum 1"),
        (lambda: Discrete([0, -1], [0.5, 0.5]), "allowed: finite numbers >= 0"),
        (lambda: Discrete([1, 1], [0.5, 0.5]), "allowed: distinct numbers"),
        (lambda: Discrete([0, 1, 2], [0.5, 0.5]), "allowed: one length"),
        (lambda: Poisson(5).quantile(1.0, 2), "level is 1.0"),
        (lambda: Poisson(5).quantile(0.5, 0), "periods is 0, allowed: an integer >= 1"),
        (lambda: Poisson(5).draw(rng(), 10, series=1), "series is 1, but the demand is a law"),
    ],
)
def test_laws_refuse_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- traces --------------------------------------------------------------------------------------


def test_windows_are_those_of_the_benchmark_at_171_weeks():
    trace = Trace(ramp())
    windows = [trace.window(split) for split in ("train", "validation", "test", None)]
    assert windows == [(0, 111), (88, 141), (118, 171), (0, 171)]


@given(weeks=st.integers(1, 2000))
def test_windows_of_any_length_lie_in_order(weeks):
    trace = Trace(np.ones((1, weeks, 1)))
    windows = [trace.window(split) for split in ("train", "validation", "test")]
    assert windows[0][0] == 0
    assert windows[0][1] >= 1
    assert windows[2][1] == weeks
    assert [w[1] for w in windows] == sorted(w[1] for w in windows)
    assert windows[1][0] <= windows[0][1]


def test_statistics_come_from_the_train_weeks():
    values = ramp()
    for split in ("train", "test", None):
        trace = Trace(values, split)
        train = values[:, :111]
        assert trace.mean == pytest.approx(train.mean(axis=(0, 1)))
        assert trace.std == pytest.approx(train.std(axis=(0, 1)))
        assert trace.peak == pytest.approx(1000 + 10 * 55 + np.arange(3))


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 53))
def test_a_draw_is_a_stretch_of_one_series_inside_the_window(seed, length):
    demand, start = Trace(ramp(), "test").draw(rng(seed), length)
    series = next(s for s in range(2) if demand[0, 0] == 1000 * s + 10 * start)
    assert 118 <= start <= 171 - length
    assert np.array_equal(demand, ramp()[series, start : start + length])


def test_every_start_and_series_of_the_window_is_drawn():
    trace, generator = Trace(ramp(), (10, 16)), rng()
    seen = {
        (trace.draw(generator, 4)[1], trace.draw(generator, 4)[0][0, 0] >= 1000) for _ in range(200)
    }
    assert seen == set(itertools.product((10, 11, 12), (False, True)))


def test_choosing_the_series_leaves_the_start_as_it_was():
    trace = Trace(ramp())
    _, start = trace.draw(rng(3), 30)
    for series in (0, 1):
        demand, chosen = trace.draw(rng(3), 30, series)
        assert chosen == start
        assert demand[0, 0] == 1000 * series + 10 * start
    with pytest.raises(ValueError, match="series is 2, allowed: 0 to 1"):
        trace.draw(rng(), 30, 2)


def test_a_window_that_is_too_short_says_both_numbers_and_t():
    with pytest.raises(ValueError, match="needs 54 weeks, split 'test' has 53 of the T = 171"):
        Trace(ramp(), "test").draw(rng(), 54)


@pytest.mark.parametrize("split", ["dev", (5, 5), (0, 172), (-1, 4), (1, 2, 3), (0.0, 5.0)])
def test_unknown_splits_are_refused(split):
    with pytest.raises(ValueError, match="allowed: train, validation, test, None or"):
        Trace(ramp(), split)


def test_another_split_shares_the_data():
    trace = Trace(ramp())
    test = trace.at("test")
    assert (trace.split, test.split) == ("train", "test")
    assert test.values is trace.values
    assert make_demand(test).split == "test"
    assert make_demand(test, split="validation").split == "validation"


def test_trace_quantile_is_the_smallest_value_that_covers_the_level():
    values = np.array([1.0, 2, 3, 4, 100, 100]).reshape(1, 6, 1)  # train: the first 4 weeks
    trace = Trace(values, None)
    assert trace.window("train") == (0, 4)
    assert trace.quantile(0.5, 1)[0] == 2.0
    assert trace.quantile(0.51, 1)[0] == 3.0
    assert trace.quantile(0.9, 2)[0] == 7.0  # sums 3, 5, 7
    with pytest.raises(ValueError, match="periods is 5, allowed: at most the 4 train weeks"):
        trace.quantile(0.5, 5)


@given(level=st.floats(0.01, 0.99), periods=st.integers(1, 30), seed=st.integers(0, 999))
def test_trace_quantile_is_numpys(level, periods, seed):
    values = rng(seed).integers(0, 50, (3, 60, 2)).astype(float)
    train = values[:, : Trace(values).window("train")[1]]
    sums = np.stack([train[:, i : i + periods].sum(1) for i in range(train.shape[1] - periods + 1)])
    # Where level * n is an integer, rounding of the product decides in NumPy; a hair below, it is
    # the smallest value that covers the level.
    expected = np.quantile(sums.reshape(-1, 2), level - 1e-12, axis=0, method="inverted_cdf")
    assert np.array_equal(Trace(values).quantile(level, periods), expected)


def test_negative_values_raise_or_are_counted():
    values = ramp()
    values[1, 40, 2] = -3.0
    values[0, 90, 1] = -7.5
    with pytest.raises(ValueError) as caught:
        Trace(values)
    message = str(caught.value)
    assert "series 0, store 1, week 90" in message
    assert "2 of 1026 values are negative" in message
    assert "the lowest is -7.5" in message
    assert 'on_negative="clip"' in message
    trace = Trace(values, on_negative="clip")
    assert (trace.clipped, trace.values_total) == (2, 1026)
    assert trace.values.min() == 0.0
    with pytest.raises(ValueError, match="on_negative is 'keep', allowed: None | \"clip\""):
        Trace(values, on_negative="keep")


def test_a_trace_can_be_pickled():
    trace = make_demand(ramp().swapaxes(1, 2), split="test")
    again = pickle.loads(pickle.dumps(trace))
    assert np.array_equal(again.draw(rng(), 5)[0], trace.draw(rng(), 5)[0])


# -- make_demand: laws ---------------------------------------------------------------------------


def test_laws_from_dicts():
    source = make_demand({"law": "normal", "mean": 5, "std": 1.6, "correlation": 0.5}, 3)
    assert (source.mean.tolist(), source.std.tolist()) == ([5.0] * 3, [1.6] * 3)
    assert source.correlation == 0.5
    assert make_demand({"law": "poisson", "mean": [1, 2]}).stores == 2
    discrete = make_demand({"law": "discrete", "values": [0, 2], "probabilities": [0.5, 0.5]}, 4)
    assert discrete.mean.tolist() == [1.0] * 4


def test_ranges_are_drawn_per_store():
    spec = {"law": "normal", "mean": ("uniform", 2.5, 7.5), "cv": ["uniform", 0.25, 0.5]}
    source = make_demand(spec, 50, rng())
    assert source.mean.min() >= 2.5
    assert source.mean.max() <= 7.5
    cv = source.std / source.mean
    assert cv.min() >= 0.25
    assert cv.max() <= 0.5
    assert np.ptp(cv) > 0.2
    assert np.array_equal(source.mean, make_demand(spec, 50, rng()).mean)
    with pytest.raises(ValueError, match="needs rng"):
        make_demand(spec, 50)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "favorita"])
def test_every_setting_has_its_demand(name):
    preset = SETTINGS[name]
    source = make_demand(preset.demand, preset.stores, rng())
    assert source.stores == preset.stores
    assert source.draw(rng(), preset.periods)[0].shape == (50, preset.stores)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"law": "gamma"}, "law is 'gamma', allowed: normal, poisson, discrete"),
        ({"mean": 5}, "law is None"),
        ({"law": "poisson", "mean": 5, "std": 1}, "unknown parameter 'std' of poisson"),
        ({"law": "poisson"}, "poisson demand needs mean"),
        ({"law": "normal", "mean": 5}, "needs std or cv, one of them"),
        ({"law": "normal", "mean": 5, "std": 1, "cv": 1}, "needs std or cv, one of them"),
        ({"law": "normal", "mean": 5, "std": 1, "clip": "no"}, "clip is 'no'"),
        ({"law": "poisson", "mean": [1, 2]}, "a number, 3 numbers"),
        ("demand.xlsx", "the ending is '.xlsx', allowed: .npz, .csv"),
        (5.0, "demand is 5.0, allowed: a demand source"),
        (Poisson(5.0, stores=2), "demand has 2 stores, allowed: the network's 3"),
    ],
)
def test_make_demand_refuses(spec, message):
    with pytest.raises(ValueError, match=message):
        make_demand(spec, 3)


# -- make_demand: arrays and files ---------------------------------------------------------------


def test_arrays_are_series_stores_weeks():
    trace = make_demand(ramp().swapaxes(1, 2), 3)
    assert np.array_equal(trace.values, ramp())
    assert trace.split == "train"
    single = make_demand(ramp()[0].T, split=None)
    assert (single.series, single.weeks, single.stores) == (1, 171, 3)


@pytest.mark.parametrize("shape", [(5,), (1, 2, 3, 4), (0, 3, 5), (2, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"has shape \(.*\), allowed: \(series, stores, weeks\)"):
        make_demand(np.ones(shape))


def test_npz(tmp_path):
    path = tmp_path / "sales.npz"
    np.savez(path, sales=ramp().swapaxes(1, 2), note=np.arange(3))
    assert np.array_equal(make_demand(path, 3).values, ramp())
    np.savez(path, other=ramp())
    with pytest.raises(ValueError, match=r"sales\.npz: the file holds \['other'\], allowed: one"):
        make_demand(path)
    np.savez(path, demand=ramp(), values=ramp())
    with pytest.raises(ValueError, match="allowed: one of sales, demand, values"):
        make_demand(path)
    np.savez(path, sales=np.array([object()]))
    with pytest.raises(ValueError, match=r"sales\.npz: not an \.npz file of numbers"):
        make_demand(path)
    for content in (b"", b"week,a\n", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"sales\.npz: not an \.npz file"):
            make_demand(path)
    values = ramp().swapaxes(1, 2)
    values[1, 2, 7] = np.nan
    np.savez(path, sales=values)
    with pytest.raises(ValueError, match=r"sales\.npz, series 1, store 2, week 7 .*: 1 values are"):
        make_demand(path)
    with pytest.raises(FileNotFoundError):
        make_demand(tmp_path / "none.npz")


WIDE = """\
week,Quito,Cuenca
1,5,7
2,6,8.5
3,4,9
4,0,1
"""

LONG = """\
date,store,product,sales
2013-01-01,Quito,milk,5
2013-01-08,Quito,milk,6
2013-01-01,Cuenca,milk,7
2013-01-08,Cuenca,milk,8
2013-01-01,Quito,rice,1
2013-01-08,Quito,rice,2
2013-01-01,Cuenca,rice,3
2013-01-08,Cuenca,rice,4
"""


def from_csv(tmp_path, text, **arguments):
    path = tmp_path / "sales.csv"
    path.write_text(text, encoding="utf-8")
    return make_demand(path, split=None, **arguments)


def test_wide_csv(tmp_path):
    expected = [[[5, 7], [6, 8.5], [4, 9], [0, 1]]]
    assert from_csv(tmp_path, WIDE).values.tolist() == expected
    assert from_csv(tmp_path, "\ufeff" + WIDE + "\n\n").values.tolist() == expected
    without = "\n".join(line.partition(",")[2] for line in WIDE.splitlines())
    assert from_csv(tmp_path, without).values.tolist() == expected


def test_long_csv(tmp_path):
    expected = [[[5, 7], [6, 8]], [[1, 3], [2, 4]]]
    assert from_csv(tmp_path, LONG).values.tolist() == expected
    head, *rows = LONG.splitlines()
    back = [rows[i] for i in (0, 6, 2, 4, 1, 7, 3, 5)]
    assert from_csv(tmp_path, "\n".join([head, *back])).values.tolist() == expected


def test_frames_of_both_forms():
    wide = pd.DataFrame({"week": [1, 2], "a": [5.0, 6.0], "b": [7, 8]})
    assert make_demand(wide, split=None).values.tolist() == [[[5, 7], [6, 8]]]
    long = pd.DataFrame(
        {
            "date": pd.to_datetime(["2013-01-01", "2013-01-02"] * 2),
            "store": [9, 9, 2, 2],
            "units": [5, 6, 7, 8],
        }
    )
    assert make_demand(long, split=None).values.tolist() == [[[5, 7], [6, 8]]]
    wide.loc[1, "a"] = np.nan
    with pytest.raises(ValueError, match="data frame, row 1: column 'a' is empty"):
        make_demand(wide)


@given(st.lists(st.integers(0, 99), min_size=6, max_size=6), st.permutations(range(6)))
def test_long_and_wide_forms_agree(numbers, order):
    values = np.array(numbers, dtype=float).reshape(3, 2)
    wide = pd.DataFrame({"week": [1, 2, 3], "0": values[:, 0], "1": values[:, 1]})
    rows = [(t, k, values[t, k]) for t in range(3) for k in range(2)]
    long = pd.DataFrame([rows[i] for i in order], columns=["week", "store", "demand"])
    found = make_demand(long, split=None).values[0]
    first = list(dict.fromkeys(long["store"]))
    assert np.array_equal(make_demand(wide, split=None).values[0][:, first], found)


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "message"),
    [
        (WIDE, "6,8.5", "6,", 3, "column 'Cuenca' is empty"),
        (WIDE, "6,8.5", "6", 3, "column 'Cuenca' is empty"),
        (WIDE, "6,8.5", "6,many", 3, "column 'Cuenca' is 'many', allowed: finite numbers"),
        (WIDE, "6,8.5", "6,inf", 3, "column 'Cuenca' is 'inf'"),
        (WIDE, "6,8.5", '6,"8\n5"', 3, "column 'Cuenca' has a cell of several lines"),
        (WIDE, "4,9", "-4,-9", 4, "2 of 8 values are negative"),
        (WIDE, "3,4,9\n", "", 4, "week '4' follows '2'"),
        (WIDE, "3,4,9\n", "\n", 4, "column 'week' is empty"),
        (WIDE, "3,4,9", "2,4,9", 4, "week '2' follows '2'"),
        (WIDE, "Cuenca", "Quito", 1, "allowed: distinct column names"),
        (WIDE, "Cuenca", "", 1, "allowed: distinct column names"),
        (LONG, "Quito,rice,2", "Quito,rice,?", 7, "column 'sales' is '?'"),
        (LONG, "Quito,rice,2", "Quito,rice,-2", 7, "1 of 8 values are negative"),
        (LONG, "2013-01-08,Quito,rice", "2013-01-01,Quito,rice", 7, "was given in line 6 already"),
        (
            LONG,
            "2013-01-08,Quito,rice,2\n",
            "",
            6,
            "1 rows are missing, the first is product 'rice'",
        ),
        (LONG, "Quito,rice,2", ",rice,2", 7, "column 'store' is empty"),
        (LONG, "2013-01-08,Quito,rice", "soon,Quito,rice", 7, "column 'date' is 'soon'"),
        (LONG, "2013-01-08,Cuenca,rice", "2013-01-18,Cuenca,rice", 9, "follows '2013-01-08'"),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path, text, old, new, line, message):
    assert text.count(old) == 1
    with pytest.raises(ValueError) as caught:
        from_csv(tmp_path, text.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 'sales.csv'}, line {line}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("week,a\n", "no rows, allowed: 1 or more"),
        ("week\n1\n2\n", "no column of a store"),
        ("a,b\n1,2\n3,4,5\n", "not a .csv file: .*line 3"),
        ("store,sales\na,1\n", "a long table needs a column period | week | date"),
        ("store,week\na,1\n", "a long table needs a column demand | sales"),
        ("sku,a\n1,2\n", "several series in a long table only"),
        ("week,date,a\n1,2,3\n", r"the columns \['week', 'date'\] mean the same"),
    ],
)
def test_csv_of_another_form_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_csv(tmp_path, text)
    assert "sales.csv" in str(caught.value)


def test_clipping_a_csv_reports_how_many(tmp_path):
    trace = from_csv(tmp_path, WIDE.replace("6,8.5", "-6,-8.5"), on_negative="clip")
    assert (trace.clipped, trace.values_total) == (2, 8)
    assert trace.values[0, 1].tolist() == [0, 0]


# -- calendars -----------------------------------------------------------------------------------


def test_calendar_of_known_features(tmp_path):
    path = tmp_path / "weeks.csv"
    path.write_text("date,month,holiday\n" + "2013-01-01,1,0\n" * 170 + "2013-01-08,2,1\n")
    trace = make_demand(ramp().swapaxes(1, 2), calendar=path)
    assert trace.calendar.shape == (171, 2)
    assert trace.calendar[-1].tolist() == [2.0, 1.0]
    chosen = make_demand(trace, calendar=path, calendar_columns=["holiday"])
    assert chosen.calendar.shape == (171, 1)
    assert trace.calendar.shape == (171, 2)
    with pytest.raises(ValueError, match=r"weeks\.csv: no column 'x', allowed: date, month"):
        make_demand(trace, calendar=path, calendar_columns=["x"])
    with pytest.raises(ValueError, match=r"weeks\.csv, line 2: column 'date' is '2013-01-01'"):
        make_demand(trace, calendar=path, calendar_columns=["date"])
    path.write_text("month\n1\n\n3\n")
    with pytest.raises(ValueError, match=r"weeks\.csv, line 3: column 'month' is empty"):
        make_demand(trace, calendar=path)


def test_a_calendar_may_reach_beyond_the_recorded_weeks():
    trace = Trace(ramp(), calendar=np.arange(200.0)[:, None])
    assert trace.calendar[:, 0].tolist() == list(range(171))


def test_calendar_shape_is_checked():
    with pytest.raises(ValueError, match=r"calendar has shape \(170, 2\), allowed: \(171 or more"):
        make_demand(ramp().swapaxes(1, 2), calendar=np.ones((170, 2)))
    with pytest.raises(ValueError, match="a calendar belongs to a trace"):
        make_demand({"law": "poisson", "mean": 5}, calendar=np.ones((171, 2)))
    with pytest.raises(ValueError, match="calendar_columns is .*, but no calendar is given"):
        make_demand(ramp(), calendar_columns=["month"])
    with pytest.raises(ValueError, match="calendar, row 3, column 0: not a finite number"):
        Trace(ramp(), calendar=np.where(np.arange(171)[:, None] == 3, np.nan, 1.0))


# -- real data -----------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not FAVORITA.exists(), reason=f"no data in {FAVORITA}")
def test_favorita_sales():
    path = FAVORITA / "favorita_weekly_sales.npz"
    with pytest.raises(ValueError, match="10 of 1034208 values are negative.* lowest is -1632"):
        make_demand(path, 21)
    trace = make_demand(
        path,
        21,
        on_negative="clip",
        split="test",
        calendar=FAVORITA / "favorita_weeks.csv",
        calendar_columns=["days_from_christmas"],
    )
    assert (trace.series, trace.weeks, trace.stores) == (288, 171, 21)
    assert (trace.clipped, trace.values_total) == (10, 1_034_208)
    assert trace.calendar[:2, 0].tolist() == [7.0, 14.0]
    demand, start = trace.draw(rng(), 53)
    assert start == 118
    assert demand.min() >= 0.0
    assert (trace.peak >= trace.mean).all()
