"""Interquartile means, their 95% bootstrap intervals, and the verdict on a criterion.

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (2021,
arXiv 2108.13264), and its library rliable, whose `metrics.aggregate_iqm` is the estimator here.

The percentile bootstrap itself is drawn in this file, not by `rliable.library`, for three reasons
that hold for rliable 1.2.0: its resamples come from NumPy's global generator whatever
`random_state` says, so a verdict could change from one call to the next; it draws every column
independently, which would break the pairing of seeds; and it works only with arch below 8, which
needs pandas below 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rliable import metrics
from scipy import stats

from ..agents.base.declare import Criterion, Exact, NotInferior, Superior

RESAMPLES = 10_000
_SEED = 20_210_813
_TAILS = (2.5, 97.5)

Values = Mapping[str, Mapping[str, ArrayLike]]


class Interval(NamedTuple):
    """A point estimate with its 95% bootstrap interval; floats, or arrays [points] for curves."""

    estimate: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Verdict:
    """Whether a criterion holds, and the numbers that say so.

    `estimate`, `low`, `high` are the paired difference with its interval, counted so that positive
    is better; for `Exact` they are the value farthest from the target, the smallest, the largest.
    """

    holds: bool
    estimate: float
    low: float
    high: float
    text: str


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of `values` [n]: a quarter (rounded down) is cut at each end."""
    return float(metrics.aggregate_iqm(_finite(values, "values")))


def paired_interval(arm: ArrayLike, baseline: ArrayLike) -> Interval:
    """Interquartile mean of `arm` minus that of `baseline`, both [seeds], with its 95% interval.

    A resample draws seeds and takes both arms at them: what a seed does to both cancels.

    Raises:
        ValueError: the lengths differ, there are fewer than two seeds, or a value is not finite.
    """
    arm, baseline = _finite(arm, "arm"), _finite(baseline, "baseline")
    if arm.shape != baseline.shape:
        raise ValueError(f"paired arms need equal seeds, got {len(arm)} and {len(baseline)} values")
    if len(arm) < 2:
        raise ValueError("an interval over seeds needs at least 2 seeds, got 1")
    drawn = np.random.default_rng(_SEED).integers(len(arm), size=(RESAMPLES, len(arm)))
    # The trimmed mean that aggregate_iqm takes, here of all resamples at once.
    differences = stats.trim_mean(arm[drawn], 0.25, axis=1) - stats.trim_mean(
        baseline[drawn], 0.25, axis=1
    )
    low, high = np.percentile(differences, _TAILS)
    return Interval(interquartile_mean(arm) - interquartile_mean(baseline), float(low), float(high))


def mean_interval(values: ArrayLike) -> Interval:
    """Mean with its 95% bootstrap interval, for tables and curves.

    Args:
        values: [n], or [n, points] for a curve: the first axis (seeds, episodes) is resampled. A
            single value gives an interval of width zero, which says nothing about its spread.

    Raises:
        ValueError: no value, more than two axes, or a value that is not finite.
    """
    values = _finite(values, "values", axes=(1, 2))
    n = len(values)
    weights = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    low, high = np.percentile(weights @ values, _TAILS, axis=0)
    mean = values.mean(axis=0)
    return (
        Interval(float(mean), float(low), float(high))
        if values.ndim == 1
        else Interval(mean, low, high)
    )


def judge(criterion: Criterion, values: Values) -> Verdict:
    """Decide one criterion of a claim.

    Args:
        criterion: `Superior`, `NotInferior` or `Exact`.
        values: arm -> metric -> values [seeds], in the same order of seeds for every arm.

    Raises:
        ValueError: an arm or a metric is missing, a value is not finite, or seeds do not pair.
    """
    arm = _metric(values, criterion.arm, criterion.metric)
    if isinstance(criterion, Exact):
        return _judge_exact(criterion, arm)
    baseline = _metric(values, criterion.baseline, criterion.metric)
    sign = 1.0 if criterion.higher_is_better else -1.0
    interval = paired_interval(sign * arm, sign * baseline)
    limit = 0.0
    if isinstance(criterion, NotInferior):
        scale = abs(interquartile_mean(baseline)) if criterion.relative else 1.0
        limit = 0.0 - criterion.margin * scale
    # A bound that is zero but for rounding does not exclude zero.
    rounding = 1e-12 * float(np.abs([arm, baseline]).max())
    holds = interval.low > limit + rounding
    question = "is better than" if isinstance(criterion, Superior) else "is not worse than"
    direction = "higher" if criterion.higher_is_better else "lower"
    text = (
        f"{criterion.arm} {question} {criterion.baseline} on {criterion.metric} "
        f"({direction} is better): difference {interval.estimate:.4g}, "
        f"95% interval [{interval.low:.4g}, {interval.high:.4g}], must lie above {limit:.4g}"
    )
    return Verdict(holds, *interval, text)


def _judge_exact(criterion: Exact, arm: NDArray[np.float64]) -> Verdict:
    worst = float(arm[np.argmax(np.abs(arm - criterion.value))])
    holds = abs(worst - criterion.value) <= criterion.tolerance
    text = (
        f"{criterion.arm} has {criterion.metric} = {criterion.value:g} "
        f"within {criterion.tolerance:g}: farthest value {worst:.10g}"
    )
    return Verdict(holds, worst, float(arm.min()), float(arm.max()), text)


def _metric(values: Values, arm: str, metric: str) -> NDArray[np.float64]:
    if arm not in values:
        raise ValueError(f"no values of arm {arm!r}; there are {sorted(values)}")
    if metric not in values[arm]:
        raise ValueError(f"arm {arm!r} has no metric {metric!r}; it has {sorted(values[arm])}")
    return _finite(values[arm][metric], f"metric {metric!r} of arm {arm!r}")


def _finite(values: ArrayLike, name: str, axes: tuple[int, ...] = (1,)) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in axes or len(array) == 0:
        raise ValueError(f"{name}: need a non-empty array of {axes} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{name}: all must be finite, got {array[tuple(where)]} at index {where}")
    return array
