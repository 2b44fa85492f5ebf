from __future__ import annotations

import numpy as np
import pytest

from palaestra.agents.base.declare import Exact, NotInferior, Superior
from palaestra.lab.statistics import interquartile_mean, judge, mean_interval, paired_interval


def two(arm, baseline, metric="m"):
    return {"arm": {metric: arm}, "baseline": {metric: baseline}}


def test_interquartile_mean_of_five_seeds_is_the_mean_of_the_middle_three():
    assert interquartile_mean([20, 1, 5, 2, 9]) == pytest.approx(16 / 3)


def test_interquartile_mean_of_eight_seeds_cuts_two_at_each_end():
    assert interquartile_mean([-99, -98, 1, 2, 3, 6, 50, 60]) == 3.0


def test_paired_interval_of_five_seeds_by_hand():
    # Zeros but for one 10. A resample holds k tens, k ~ Binomial(5, 1/5), of which max(k - 1, 0)
    # are in the middle three. P(k >= 3) = 0.058 and P(k >= 4) = 0.0067: the upper end is k = 3.
    interval = paired_interval([0, 0, 0, 0, 10], np.zeros(5))
    assert interval == pytest.approx((0.0, 0.0, 20 / 3))


def test_paired_interval_of_two_seeds_by_hand():
    # Both drawn seeds are the first in 1/4 of the resamples, the second in 1/4.
    assert paired_interval([3, 9], [1, 5]) == pytest.approx((3.0, 2.0, 4.0))


def test_what_a_seed_does_to_both_arms_cancels():
    baseline = np.array([-300.0, 20.0, 5.0, 900.0, 41.0])
    assert paired_interval(baseline + 1, baseline) == pytest.approx((1.0, 1.0, 1.0))


def test_pairing_follows_the_order_of_seeds():
    baseline = np.array([-300.0, 20.0, 5.0, 900.0, 41.0])
    interval = paired_interval((baseline + 1)[::-1], baseline)
    assert interval.estimate == pytest.approx(1.0)
    assert interval.low < -100 and interval.high > 100


def test_intervals_do_not_depend_on_the_global_generator():
    values = np.random.default_rng(0).normal(size=(2, 9))
    np.random.seed(1)
    first, state = paired_interval(*values), np.random.get_state()[1].copy()
    assert np.array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    assert paired_interval(*values) == first


def test_mean_interval_by_hand():
    assert mean_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert mean_interval([7.0]) == (7.0, 7.0, 7.0)


def test_mean_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.exponential(size=40)) for _ in range(200)]
    assert 0.88 < np.mean([i.low < 1.0 < i.high for i in intervals]) <= 0.99


def test_mean_interval_of_a_curve_is_that_of_each_of_its_points():
    curve = np.random.default_rng(0).normal(size=(6, 3))
    whole = mean_interval(curve)
    for point in range(3):
        alone = mean_interval(curve[:, point])
        assert [part[point] for part in whole] == pytest.approx(list(alone))


def test_superior_needs_the_interval_to_exclude_zero():
    baseline = [1.0, 2.0, 3.0, 4.0, 5.0]
    better = judge(Superior("m", "arm", "baseline"), two(np.add(baseline, 0.5), baseline))
    assert better.holds
    assert (better.estimate, better.low, better.high) == pytest.approx((0.5, 0.5, 0.5))
    mixed = judge(Superior("m", "arm", "baseline"), two([1, 2, 3, 4, 10], baseline))
    assert mixed.low == pytest.approx(0.0) and not mixed.holds


def test_superior_does_not_hold_by_rounding():
    arm, baseline = [1, 2, 5, 9, 20, 3, 4], [0.5, 1.5, 4, 9.2, 17, 3.3, 2]
    verdict = judge(Superior("m", "arm", "baseline"), two(arm, baseline))
    assert 0 < verdict.low < 1e-12
    assert not verdict.holds


def test_superior_counts_a_lower_cost_as_better():
    cost = np.array([10.0, 11.0, 9.0, 12.0, 10.0])
    lower = Superior("m", "arm", "baseline", higher_is_better=False)
    assert judge(lower, two(cost - 1, cost)).estimate == pytest.approx(1.0)
    assert judge(lower, two(cost - 1, cost)).holds
    assert not judge(lower, two(cost + 1, cost)).holds


def test_not_inferior_allows_its_margin_and_no_more():
    baseline = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    values = two(baseline - 0.5, baseline)
    assert judge(NotInferior("m", "arm", "baseline", 0.6), values).holds
    assert not judge(NotInferior("m", "arm", "baseline", 0.4), values).holds
    assert not judge(NotInferior("m", "arm", "baseline", 0.5), values).holds


def test_a_relative_margin_is_a_share_of_the_baseline():
    cost = np.full(5, 200.0)
    values = two(cost + 1.5, cost)  # 0.75% worse
    cheap = {"relative": True, "higher_is_better": False}
    assert judge(NotInferior("m", "arm", "baseline", 0.01, **cheap), values).holds
    assert not judge(NotInferior("m", "arm", "baseline", 0.005, **cheap), values).holds


def test_exact_looks_at_the_farthest_value():
    values = {"arm": {"m": [2.0, 2.25, 1.5]}}
    verdict = judge(Exact("m", "arm", 2.0, 0.5), values)
    assert verdict.holds
    assert (verdict.estimate, verdict.low, verdict.high) == (1.5, 1.5, 2.25)
    assert not judge(Exact("m", "arm", 2.0, 0.4), values).holds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (two([1, 2, np.nan], [1, 2, 3]), r"metric 'm' of arm 'arm'.*nan at index \[2\]"),
        (two([1, 2, np.inf], [1, 2, 3]), r"inf at index \[2\]"),
        (two([1, 2, 3], [1, 2]), "equal seeds, got 3 and 2"),
        (two([1], [1]), "at least 2 seeds, got 1"),
        (two([], []), r"non-empty.*shape \(0,\)"),
        (two([1, 2], [1, 2], metric="other"), r"no metric 'm'; it has \['other'\]"),
        ({"arm": {"m": [1, 2]}}, "no values of arm 'baseline'"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        judge(Superior("m", "arm", "baseline"), values)
