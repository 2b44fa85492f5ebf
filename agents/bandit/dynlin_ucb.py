"""DynLin-UCB: optimism where actions pay over time.

Marco Mussi, Alberto Maria Metelli, Marcello Restelli: Dynamical Linear Bandits (ICML 2023, arXiv
2211.08997).

Actions u drive a hidden linear system, x' = A x + B u + noise, of which only rewards
y = omega . x + theta . u + noise are seen. Playing u for ever pays h . u on average, with

    h = theta + B' (I - A')^-1 omega

so what u pays at once misleads. The paper estimates h itself: epoch m = 1, 2, ... plays one action
for 1 + H_m steps, until what was played before has died away, and only its last reward counts:

    H_m = floor(log m / log(1 / rho)),    rho >= the spectral radius of A
    V <- V + u u',  b <- b + u y,  h^ = V^-1 b,    V_0 = lam I,  b_0 = 0
    next action: argmax_u h^ . u + beta_t |u|_{V^-1}

LinUCB (`lin_ucb.py`), the baseline, is the same with epochs of one step, and a radius that knows of
no state.
"""

from __future__ import annotations

from math import e, floor, log, sqrt
from typing import Any

import gymnasium as gym
from stable_baselines3.common.type_aliases import GymEnv

from ..base.bandit import Diary, summed
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from .lin_ucb import LinUCB, check_bounds

# -- the paper's computation -----------------------------------------------------------------------


def epoch_length(epoch: int, spectral_radius: float) -> int:
    """1 + H_m, steps of epoch m = `epoch` (from 1), for rho = `spectral_radius` in [0, 1)."""
    if not 0 <= spectral_radius < 1:
        raise ValueError(f"spectral_radius={spectral_radius} must be at least 0 and below 1")
    if spectral_radius == 0:
        return 1
    # Rounding must not lose a step where log m is a multiple of log(1 / rho).
    return 1 + floor(log(epoch) / -log(spectral_radius) + 1e-12)


def constants(
    *,
    spectral_radius: float,
    transient: float,
    theta_norm: float,
    omega_norm: float,
    input_norm: float,
    state_norm: float,
    action_norm: float,
    sigma: float,
) -> tuple[float, float, float]:
    """c1, c2 and s2 of `confidence_radius`.

    Args:
        spectral_radius, transient: rho and Phi, |A^s| <= Phi rho^s for all s.
        theta_norm, omega_norm, input_norm, state_norm, action_norm: bounds of |theta|, |omega|,
            |B|, |x|, |u|.
        sigma: of the noises, which are sigma-subgaussian.
    """
    steady = 1 - spectral_radius
    reach = omega_norm * transient
    c1 = action_norm * reach * (action_norm * input_norm / steady + state_norm)
    c2 = theta_norm + reach * input_norm / steady
    return c1, c2, sigma**2 * (1 + reach**2 / (1 - spectral_radius**2))


def confidence_radius(
    t: int, lam: float, d: int, log_term: float, c: tuple[float, float, float], action_norm: float
) -> float:
    """beta_t after t steps; `log_term` is log(1 / delta), c = (c1, c2, s2)."""
    c1, c2, s2 = c
    volume = d / 2 * log(1 + t * action_norm**2 / (d * lam))
    return c1 / sqrt(lam) * log(e * (t + 1)) + c2 * sqrt(lam) + sqrt(2 * s2 * (log_term + volume))


class DynLinUCB(LinUCB):
    """DynLin-UCB.

    An epoch that the end of an episode cuts gives nothing and starts over: the hidden state is
    another. Episodes must be longer than the epochs.

    Args:
        policy, env, arms, theta_norm, regularization, horizon, seed, ...: as in `LinUCB`.
        spectral_radius: rho, a bound of A's spectral radius, in [0, 1).
        transient: Phi, |A^s| <= Phi rho^s for all s, at least 1.
        omega_norm, input_norm: bounds of |omega| and |B|, at least 0.
        state_norm: bound of |x|, at least 0; None: input_norm U / (1 - rho), what constant inputs
            lead to, with U the norm of the longest arm.
        sigma: of the noises, at least 0.
        delta: probability with which the bounds may fail, in (0, 1); None: 1 / T.
    """

    paper = Paper(
        slug="dynlin_ucb",
        title="Dynamical Linear Bandits",
        authors="Marco Mussi, Alberto Maria Metelli, Marcello Restelli",
        year=2023,
        arxiv="2211.08997",
        code="github.com/marcomussi/DLB",
    )
    example = Example(
        "DynamicalLinearBandit-v0",
        policy="LinearArmsPolicy",
        kwargs={"spectral_radius": 0.9, "omega_norm": 0.1, "theta_norm": 0.7},
        steps=400,
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        spectral_radius: float = 0.9,
        transient: float = 1.0,
        omega_norm: float = 1.0,
        input_norm: float = 1.0,
        state_norm: float | None = None,
        sigma: float = 0.1,
        delta: float | None = None,
        **common: Any,
    ) -> None:
        epoch_length(1, spectral_radius)
        check_bounds(omega_norm=omega_norm, input_norm=input_norm, sigma=sigma)
        check_bounds(1.0, transient=transient)
        if state_norm is not None:
            check_bounds(state_norm=state_norm)
        if delta is not None and not 0 < delta < 1:
            raise ValueError(f"delta={delta} must be above 0 and below 1")
        self.spectral_radius, self.transient = spectral_radius, transient
        self.omega_norm, self.input_norm = omega_norm, input_norm
        self.state_norm, self.sigma, self.delta = state_norm, sigma, delta
        super().__init__(policy, env, **common)

    def length(self, epoch: int) -> int:
        """1 + H_m."""
        return epoch_length(epoch, self.spectral_radius)

    def radius(self, t: int) -> float:
        """beta_t."""
        U, reached = self.action_norm, self.state_norm
        if reached is None:
            reached = self.input_norm * U / (1 - self.spectral_radius)
        c = constants(
            spectral_radius=self.spectral_radius,
            transient=self.transient,
            theta_norm=self.theta_norm,
            omega_norm=self.omega_norm,
            input_norm=self.input_norm,
            state_norm=reached,
            action_norm=U,
            sigma=self.sigma,
        )
        log_term = log(self.T) if self.delta is None else -log(self.delta)
        return confidence_radius(t, self.lam, self.policy.arms.shape[1], log_term, c, U)


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_STEPS = 20_000
MOST_CHOICES, SHARE = 450, 0.7


def learned(agent_class: type[LinUCB], seed: int, scale: float, **bounds: Any) -> Outcome:
    """Regret and number of choices in the system of the claim."""
    steps = max(int(CLAIM_STEPS * scale), 2)
    env = gym.make("DynamicalLinearBandit-v0", system="two_speeds", sigma=0.1, T=steps)
    agent = agent_class("LinearArmsPolicy", env, seed=seed, theta_norm=0.7, **bounds)
    diary = Diary()
    agent.learn(steps, callback=diary, log_interval=None)
    regrets = diary.column("rollout/regret")
    metrics = {"regret": float(regrets.sum()), "choices": float(agent.policy.epochs)}
    return Outcome(metrics, {"regret": summed(regrets)})


def dynlin_ucb_arm(seed: int, scale: float) -> Outcome:
    """DynLin-UCB, told the true bounds."""
    found = learned(
        DynLinUCB, seed, scale, spectral_radius=0.9, omega_norm=0.1, input_norm=1.0, sigma=0.1
    )
    metrics = {
        **found.metrics,
        "regret against 0.7 of LinUCB's": found.metrics["regret"],
        "at most 450 choices": float(found.metrics["choices"] <= MOST_CHOICES),
    }
    return Outcome(metrics, found.curves)


def lin_ucb_arm(seed: int, scale: float) -> Outcome:
    """LinUCB, told the true bound of theta, on the same tapes."""
    found = learned(LinUCB, seed, scale)
    share = {"regret against 0.7 of LinUCB's": SHARE * found.metrics["regret"]}
    return Outcome({**found.metrics, **share}, found.curves)


DynLinUCB.claim = Claim(
    text="In a system of which the slow part pays most in the long run, over 20,000 steps, "
    "DynLin-UCB has less regret than LinUCB, less than 0.7 of it, with at most 450 choices.",
    arms={"DynLin-UCB": dynlin_ucb_arm, "LinUCB": lin_ucb_arm},
    criteria=(
        Superior("regret", "DynLin-UCB", "LinUCB", higher_is_better=False),
        Superior("regret against 0.7 of LinUCB's", "DynLin-UCB", "LinUCB", higher_is_better=False),
        Exact("at most 450 choices", "DynLin-UCB", value=1.0, tolerance=0.0),
    ),
    seeds=5,
    core_minutes=1.0,
)
