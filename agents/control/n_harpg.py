"""N-PG-IGT and (N-)HARPG: policy gradients with momentum that needs no importance weights.

Ilyas Fatkhullin, Anas Barakat, Anastasia Kireeva, Niao He: Stochastic Policy Gradient Methods:
Improved Sample Complexity for Fisher-non-degenerate Policies (ICML 2023, arXiv 2302.01734).

An average of the gradients of earlier iterates is less noisy than the latest one and out of date.
Both methods move it on to the present iterate without importance weights. N-PG-IGT takes each new
gradient at an extrapolated point, where the errors cancel if the gradient is linear:

    theta~ = theta_t + (1 - eta)/eta (theta_t - theta_{t-1})
    d_t = (1 - eta) d_{t-1} + eta g(tau~, theta~)

HARPG adds the Hessian times the last step, at a random point of it, q uniform in [0, 1]:

    theta^ = q theta_t + (1 - q) theta_{t-1}
    d_t = (1 - eta) (d_{t-1} + B(tau^, theta^) (theta_t - theta_{t-1})) + eta g(tau, theta_t)
    B u = g <grad log p(tau | theta), u> + Hess Phi u,    Phi = sum_h Psi_h log pi(a_h | s_h)

    theta_{t+1} = theta_t + alpha_t d_t / |d_t|           (HARPG: alpha_t d_t)
    eta_t = (2/(t+2))^(4/5) for N-PG-IGT, 2/(t+2) for HARPG;    alpha_t = alpha_0 2/(t+2)

One trajectory an iteration (HARPG two) finds a policy within epsilon of the best one, for policies
whose Fisher information is not degenerate, with about epsilon^-2.5 (N-PG-IGT) and epsilon^-2
trajectories. g and Psi are those of `agents/base/policy_ascent.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from scipy.optimize import minimize
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_number
from ...envs.control.lqr import LQR
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.episodic_policies import LinearPolicy
from ..base.policy_ascent import (
    NormalizedPG,
    VanillaPG,
    check_differentiable,
    discounted_to_go,
    flat_gradient,
    normalized,
    policy_gradient,
)

LEAST_WEIGHT = 1e-3  # of a new gradient: below, the extrapolated point runs away

# -- the paper's computation ----------------------------------------------------------------------


def look_ahead(theta: torch.Tensor, previous: torch.Tensor, eta: float) -> torch.Tensor:
    """Where N-PG-IGT takes its gradient, [d].

    Args:
        theta, previous: this iterate and the one before, [d].
        eta: weight of the new gradient, above 0.
    """
    return theta + (1 - eta) / eta * (theta - previous)


def between(theta: torch.Tensor, previous: torch.Tensor, share: float) -> torch.Tensor:
    """Where HARPG takes its Hessian, [d]: `share` q of the way from `previous` to `theta`."""
    return share * theta + (1 - share) * previous


def averaged(
    direction: torch.Tensor,
    gradient: torch.Tensor,
    eta: float,
    correction: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """(1 - eta) (direction + correction) + eta gradient, [d]."""
    return (1 - eta) * (direction + correction) + eta * gradient


def hessian_vector_product(
    log_probs: torch.Tensor,
    to_go: torch.Tensor,
    taken: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    vector: torch.Tensor,
) -> torch.Tensor:
    """B u, the mean over trajectories; its expectation is the Hessian of J times u.

    No Hessian is built: with s_h = <grad log pi(a_h | s_h), u>, B u is the gradient of
    sum_h Psi_h (s log pi(a_h | s_h) + s_h), where s = sum_h s_h is held fixed.

    Args:
        log_probs: of the actions taken, [T, n], as functions of the parameters.
        to_go: Psi, [T, n]; 0 after the end of an episode.
        taken: bool [T, n], false after the end.
        parameters: of d entries in all.
        vector: u, [d].

    Returns:
        [d].

    Raises:
        ValueError: there is no step, or no gradient reaches the parameters.
    """
    check_differentiable(log_probs)
    # The derivative of <grad (w . log pi), u> with respect to w_h is s_h.
    weights = taken.to(log_probs.dtype).requires_grad_()
    slope = flat_gradient((weights * log_probs).sum(), parameters, create_graph=True) @ vector
    slopes = torch.autograd.grad(slope, weights, create_graph=True)[0]
    scores = (slopes * taken).sum(0).detach()
    return flat_gradient((to_go * (scores * log_probs + slopes)).sum(0).mean(), parameters)


# -- the agents -----------------------------------------------------------------------------------


class MomentumPG(VanillaPG):
    """Gradient ascent along an average d of gradients. A subclass says how that is moved on.

    The average starts anew with a `learn` that resets the timesteps.

    Args:
        policy, env, learning_rate, decay, gamma, episodes, ...: as in `VanillaPG`.
        eta: weight of a new gradient, in [0.001, 1]; None: the paper's schedule.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        eta: float | None = None,
        **common: Any,
    ) -> None:
        self.eta = None if eta is None else check_number("eta", eta, LEAST_WEIGHT, 1.0)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.previous = self.theta
        self.average = torch.zeros_like(self.previous)

    @staticmethod
    def schedule(step: int) -> float:
        """The paper's weight of the gradient of update `step` (from 0); 1 at first."""
        raise NotImplementedError

    def moved(self, theta: torch.Tensor, eta: float) -> torch.Tensor:
        """The next average at theta [d], with weight `eta` of the new gradient, [d]."""
        raise NotImplementedError

    def direction(self, theta: torch.Tensor, step: int) -> torch.Tensor:
        """The average of gradients, moved on to theta [d]; at first the gradient itself."""
        if step == 0:
            self.average = self.gradient_at(theta)
        else:
            self.average = self.moved(theta, self.schedule(step) if self.eta is None else self.eta)
        self.previous = theta
        return self.average

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the average and the iterate that it belongs to."""
        values, tensors = super().extra_state()
        return values, tensors | {"previous": self.previous, "average": self.average}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.previous, self.average = (
            tensors[name].to(self.device, copy=True) for name in ("previous", "average")
        )


class NPGIGT(MomentumPG):
    """Normalised policy gradient with implicit gradient transport: one trajectory an iteration.

    The weight of the schedule is at least 0.001, which it reaches after 11,000 updates.

    Arguments are those of `MomentumPG`.
    """

    paper = Paper(
        slug="n_harpg",
        title="Stochastic Policy Gradient Methods: Improved Sample Complexity for "
        "Fisher-non-degenerate Policies",
        authors="Ilyas Fatkhullin, Anas Barakat, Anastasia Kireeva, Niao He",
        year=2023,
        arxiv="2302.01734",
    )
    example = Example(
        "LQR-v0", {"plant": "integrator"}, policy="LinearPolicy", kwargs={"gamma": 0.9}, steps=200
    )

    @staticmethod
    def schedule(step: int) -> float:
        """(2 / (t + 2))^(4/5), at least 0.001."""
        return max((2 / (step + 2)) ** 0.8, LEAST_WEIGHT)

    def moved(self, theta: torch.Tensor, eta: float) -> torch.Tensor:
        """As the base's, with the gradient at the extrapolated point."""
        gradient = self.gradient_at(look_ahead(theta, self.previous, eta))
        return averaged(self.average, gradient, eta)

    def scaled(self, direction: torch.Tensor) -> torch.Tensor:
        """The direction at length 1, [d]."""
        return normalized(direction)


class HARPG(MomentumPG):
    """Hessian-aided recursive policy gradient: two trajectories an iteration.

    Arguments are those of `MomentumPG`.
    """

    example = Example(
        "LQR-v0",
        {"plant": "integrator"},
        policy="LinearPolicy",
        kwargs={"gamma": 0.9, "learning_rate": 0.3},
        steps=200,
    )

    @staticmethod
    def schedule(step: int) -> float:
        """2 / (t + 2)."""
        return 2 / (step + 2)

    def moved(self, theta: torch.Tensor, eta: float) -> torch.Tensor:
        """As the base's, with the Hessian between the last two iterates."""
        point = between(theta, self.previous, float(self.generator.random()))
        episodes, log_probs, to_go = self.play_at(point)
        correction = hessian_vector_product(
            log_probs, to_go, episodes.taken, self.parameters, theta - self.previous
        )
        return averaged(self.average, self.gradient_at(theta), eta, correction)


class NHARPG(HARPG):
    """HARPG with steps as long as the step size says.

    Arguments are those of `MomentumPG`.
    """

    def scaled(self, direction: torch.Tensor) -> torch.Tensor:
        """The direction at length 1, [d]."""
        return normalized(direction)


# -- the claim in miniature -----------------------------------------------------------------------

PLANT, GAMMA, TRAJECTORIES, POINTS = "integrator", 0.9, 2_000, 10
EVALUATIONS, EVALUATION_SEED = 4_000, 1_000_000


@cache
def evaluation() -> tuple[LQR, dict[str, Any], NDArray[np.float64]]:
    """The plant, 4,000 tapes and the policy's noise on them [H, n]: the same for all gains."""
    core = LQR(PLANT)
    noise = np.random.default_rng(EVALUATION_SEED).standard_normal((core.horizon, EVALUATIONS))
    return core, core.tapes(EVALUATIONS, EVALUATION_SEED), noise


def expected_return(gain: NDArray[np.float64]) -> float:
    """J of the Gaussian policy with mean gain . x and standard deviation 1: a mean over tapes."""
    core, tape, noise = evaluation()
    state, total = core.initial(tape), 0.0
    for step in range(core.horizon):
        action = state["x"] @ gain[:, None] + noise[step][:, None]
        following = core.transition(state, action, tape)
        total += GAMMA**step * float(core.reward(state, action, following).mean())
        state = following
    return total


@cache
def best_return() -> float:
    """The highest J of all gains, on the same tapes."""
    found = minimize(lambda gain: -expected_return(gain), [-3.0, -3.0], method="Nelder-Mead")
    return -float(found.fun)


def gap_of(agent_class: type[VanillaPG], seed: int, scale: float, alpha: float) -> Outcome:
    """J* - J after 2,000 trajectories, and on the way.

    alpha_0 is the one of 0.3, 0.5, 0.7, 1, 1.5 and 2 with the least mean gap on other seeds.
    """
    agent = agent_class(
        "LinearPolicy",
        gym.make("LQR-v0", plant=PLANT),
        learning_rate=alpha,
        gamma=GAMMA,
        seed=seed,
        device="cpu",
    )
    budget = max(int(TRAJECTORIES * scale) // POINTS, 2) * LQR(PLANT).horizon
    steps, curve = [], []
    for point in range(POINTS + 1):
        if point:
            agent.learn(point * budget - agent.num_timesteps, reset_num_timesteps=False)
        steps.append(float(agent.num_timesteps))
        curve.append(best_return() - expected_return(agent.theta.double().numpy()))
    return Outcome({"gap": curve[-1]}, {"gap": (steps, curve)})


def igt_arm(seed: int, scale: float) -> Outcome:
    """N-PG-IGT."""
    return gap_of(NPGIGT, seed, scale, 0.7)


def harpg_arm(seed: int, scale: float) -> Outcome:
    """N-HARPG, with half the iterations: each of them plays two trajectories."""
    return gap_of(NHARPG, seed, scale, 0.5)


def vanilla_arm(seed: int, scale: float) -> Outcome:
    """Plain policy gradient."""
    return gap_of(VanillaPG, seed, scale, 0.7)


def normalized_arm(seed: int, scale: float) -> Outcome:
    """Normalised policy gradient, without momentum.

    Constant steps suit it better: with steps of 0.03 its mean gap on other seeds is 0.08, that of
    N-HARPG 0.12 (with constant steps of 0.003: 0.14).
    """
    return gap_of(NormalizedPG, seed, scale, 1.0)


def derivatives_arm(seed: int, scale: float) -> Outcome:
    """Expected g and B u against the derivatives of J, over all trajectories of a small world."""
    rng = np.random.default_rng(seed)
    chances, rewards = rng.dirichlet(np.ones(2), (2, 2)), rng.standard_normal((2, 2))
    walks = np.array(list(product((0, 1), repeat=6)))
    states, actions = walks[:, :3].T, walks[:, 3:].T  # [3, 64]
    luck = 0.5 * chances[states[:-1], actions[:-1], states[1:]].prod(axis=0)
    policy = LinearPolicy(Box(0, 1, (2,)), Discrete(2), lambda _: 0.0).double()
    weight = torch.as_tensor(rng.standard_normal((2, 2)))  # [actions, states]
    policy.load_state_dict({"outputs.weight": weight})
    observations = torch.eye(2, dtype=torch.float64)[states]

    def log_probs() -> torch.Tensor:
        return policy.evaluate(observations, torch.as_tensor(actions))[0]

    to_go = discounted_to_go(torch.as_tensor(rewards[states, actions]), GAMMA)
    chance = torch.as_tensor(luck) * log_probs().sum(0).exp()
    # A mean over 64 trajectories of which each counts 64 times its probability.
    weighted = 64 * chance.detach() * to_go
    parameters, vector = list(policy.parameters()), torch.as_tensor(rng.standard_normal(4))
    gradient = flat_gradient((chance * to_go[0]).sum(), parameters, create_graph=True)
    curvature = flat_gradient(gradient @ vector, parameters)
    ones = torch.ones_like(to_go, dtype=torch.bool)
    found = hessian_vector_product(log_probs(), weighted, ones, parameters, vector)
    estimate = policy_gradient(log_probs(), weighted, parameters)
    return Outcome(
        {
            "gradient error": float((estimate - gradient.detach()).abs().max()),
            "Hessian error": float((found - curvature).abs().max()),
        }
    )


NPGIGT.claim = Claim(
    text="A Gaussian policy of two gains holds a noisy double integrator near the origin. After "
    "2,000 trajectories with the step sizes of the theorems, N-PG-IGT is nearer to the best return "
    "than vanilla and than normalised policy gradients, and N-HARPG nearer than the latter; the "
    "expected g and B u are derivatives of the expected return. (N-HARPG's better rate is "
    "asymptotic: with this budget the noise of its Hessian dominates.)",
    arms={
        "N-PG-IGT": igt_arm,
        "N-HARPG": harpg_arm,
        "vanilla PG": vanilla_arm,
        "normalised PG": normalized_arm,
        "derivatives": derivatives_arm,
    },
    criteria=(
        Superior("gap", "N-PG-IGT", "vanilla PG", higher_is_better=False),
        Superior("gap", "N-PG-IGT", "normalised PG", higher_is_better=False),
        Superior("gap", "N-HARPG", "normalised PG", higher_is_better=False),
        Exact("gradient error", "derivatives", value=0.0, tolerance=1e-9),
        Exact("Hessian error", "derivatives", value=0.0, tolerance=1e-9),
    ),
    seeds=8,
    core_minutes=3.0,
)
