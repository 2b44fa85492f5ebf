"""The best policy of which no probability is changed by more than given factors, state by state.

Yunke Ao et al.: Bounded Ratio Reinforcement Learning (2026, arXiv 2604.18578). `bounded_ratio.py`
says what the steps are good for.
"""

from __future__ import annotations

import math

import torch

from ...envs.checks import check_number


def check_bounds(low: float, high: float) -> None:
    """ValueError unless 0 < low <= 1 and 0 < high: ratios stay at or above 0 and may move."""
    if not 0 < low <= 1 or not 0 < high < math.inf:
        raise ValueError(
            "ratios between 1 - low and 1 + high need 0 < low <= 1 and a finite high above 0, got "
            f"low={low}, high={high}"
        )


def check_softness(name: str, value: float) -> float:
    """The value; ValueError unless it is a finite number above 0."""
    if check_number(name, value, 0.0) == 0:
        raise ValueError(f"{name}={value} must be above 0")
    return float(value)


def hard_ratio(
    probabilities: torch.Tensor, action_values: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """The ratios of largest expected value between 1 - low and 1 + high, [..., A].

    Filled from the best action on: a share low / (low + high) of the probability gets 1 + high, and
    the action in which that share ends something between the bounds.

    Args:
        probabilities: of the old policy, [..., A].
        action_values: Q, [..., A]. Of equal ones the first are filled first.
        low, high: 0 < low <= 1, 0 < high. With low = 1 it is the step of the cross-entropy method
            with elites of the share 1 / (1 + high).
    """
    check_bounds(low, high)
    order = action_values.argsort(dim=-1, descending=True, stable=True)
    mass = probabilities.gather(-1, order)
    left = low / (low + high) - (mass.cumsum(-1) - mass)
    # An action without probability has no share to divide.
    filled = torch.where(mass > 0, left / mass, left.sign()).clamp(0.0, 1.0)
    return 1 - low + (low + high) * torch.empty_like(filled).scatter(-1, order, filled)


def soft_threshold(
    probabilities: torch.Tensor,
    action_values: torch.Tensor,
    lam: float,
    low: float = 1.0,
    high: float = 1.0,
) -> torch.Tensor:
    """mu, [...], at which the soft ratios keep the sum of probabilities, by bisection.

    With equal bounds it is where E sigmoid((Q - mu) / lam) = 1/2: with lam = 1 the u that minimises
    `median_loss`.

    Args:
        probabilities, action_values: of the old policy, [..., A].
        lam: above 0.
        low, high: as in `hard_ratio`.
    """
    check_bounds(low, high)
    check_softness("lam", lam)
    # sigmoid(shift / lam) is the share that is to be filled: all Q equal put mu at Q - shift.
    shift = lam * math.log(low / high)
    possible = probabilities > 0
    bottom = action_values.where(possible, math.inf).amin(-1, keepdim=True) - shift
    top = action_values.where(possible, -math.inf).amax(-1, keepdim=True) - shift
    for _ in range(64):  # to the last digit
        middle = (bottom + top) / 2
        filled = probabilities * torch.sigmoid((action_values - middle) / lam)
        above = filled.sum(-1, keepdim=True) > low / (low + high)
        bottom, top = torch.where(above, middle, bottom), torch.where(above, top, middle)
    return ((bottom + top) / 2)[..., 0]


def soft_ratio(
    probabilities: torch.Tensor,
    action_values: torch.Tensor,
    lam: float,
    low: float,
    high: float,
) -> torch.Tensor:
    """The regularised ratios, [..., A]; towards lam = 0 those of `hard_ratio`. Arguments as there,
    and lam above 0."""
    mu = soft_threshold(probabilities, action_values, lam, low, high)
    return target_ratio((action_values - mu[..., None]) / lam, low, high)


def target_ratio(excess: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """1 - low + (low + high) sigmoid(excess): the ratio to go to, in the shape of `excess`, which
    is how far a return or a score is above its threshold, in units of lam. A schedule may take the
    bounds to 0, where every target is 1."""
    if not 0 <= low <= 1 or not 0 <= high < math.inf:
        raise ValueError(f"low is from 0 to 1 and high at least 0, got low={low}, high={high}")
    return 1 - low + (low + high) * torch.sigmoid(excess)
