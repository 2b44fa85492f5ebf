"""PROPS: Proximal Robust On-Policy Sampling.

Nicholas E. Corrado, Josiah P. Hanna: On-Policy Policy Gradient Reinforcement Learning Without
On-Policy Sampling (2023, revised 2025, arXiv 2311.08290).

A policy gradient needs data that are distributed as under the policy pi_theta; drawing them from it
is one way, and on few data a noisy one. A behaviour policy pi_phi collects them instead. Every m
steps it starts again from theta, and a few steps of descent make the actions of which the data
collected so far hold too many less likely,

    minimise over phi   mean of max(rho, clip(rho, 1 - epsilon, 1 + epsilon)),
                        rho = pi_phi(a | s) / pi_theta(a | s),

until the approximate divergence, the mean of (rho - 1) - log rho, reaches delta. At phi = theta the
gradient is zero exactly where the data have the frequencies of pi_theta. An action whose ratio is
below 1 - epsilon is left alone, so the descent cannot push it further.

PPO learns from the last b batches with its own loss; the probabilities, values and advantages of
the older ones are those of the present policy. PROPS overrides how the behaviour policy of `ROS`
(`ros.py`) descends, and nothing in PPO's update.

The paper also adds lambda KL(pi_theta || pi_phi) to the loss; its code does without, and so does
this. The code keeps the moments of Adam from one descent to the next; here every descent is new.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from ...envs.checks import check_integer, check_number, check_share
from ...envs.tabular.finite_mdp import FiniteMDP
from ...wrappers.sb3 import make_sb3
from ..base.buffer_ppo import BufferPPO
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.ppo import ProximalAlgorithm
from ..base.stages import gradient_step
from .ros import ROS, approximate_kl, ratio_of

# -- the paper's computation ----------------------------------------------------------------------


def clipped_ratio(log_ratio: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The behaviour policy's loss of each action: max(rho, clip(rho, 1 - epsilon, 1 + epsilon)).

    Args:
        log_ratio: log pi_phi(a | s) - log pi_theta(a | s), [...].
        epsilon: in [0, 1]; with 1 nothing is clipped, and the loss is the ratio.

    Returns:
        [...].
    """
    ratio = ratio_of(log_ratio)
    return torch.max(ratio, ratio.clamp(1 - epsilon, 1 + epsilon))


def sampling_error(counts: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """Mean over the data of log pi_mle(a | s) - log pi_theta(a | s), with empirical frequencies as
    pi_mle: how far the data are from the policy that they are to stand for.

    Args:
        counts: how often each action was taken in each state, [..., S, A].
        log_probs: log pi_theta(a | s), [..., S, A].

    Returns:
        [...]; 0 without data.
    """
    visits = counts.sum(-1, keepdim=True).clamp(min=1)
    terms = torch.xlogy(counts, counts / visits) - counts * log_probs
    return terms.sum((-2, -1)) / counts.sum((-2, -1)).clamp(min=1)


def tabular_descent(
    logits: torch.Tensor,
    counts: torch.Tensor,
    *,
    rate: float,
    epsilon: float = 0.3,
    delta: float = 0.05,
    steps: int = 64,
) -> torch.Tensor:
    """The behaviour policy of a softmax in tables, for many data sets at once.

    Args:
        logits: of the target policy, [..., S, A].
        counts: how often each action was taken in each state, [..., S, A].
        rate: of plain gradient descent on all data.
        epsilon: see `clipped_ratio`. ROS has epsilon = 1 and steps = 1.
        delta: a data set whose divergence reaches it takes that step and no other.
        steps: at most so many.

    Returns:
        logits of the behaviour policy, [..., S, A]; the target's where there are no data.
    """
    target, found = logits.log_softmax(-1), logits.clone()
    weights = counts / counts.sum((-2, -1), keepdim=True).clamp(min=1)
    going = torch.ones_like(weights[..., :1, :1], dtype=torch.bool)
    for _ in range(steps):
        found.requires_grad_()
        log_ratio = found.log_softmax(-1) - target
        loss = (weights * clipped_ratio(log_ratio, epsilon)).sum()
        (slope,) = torch.autograd.grad(loss, found)
        divergence = (weights * approximate_kl(log_ratio.detach())).sum((-2, -1), keepdim=True)
        found = torch.where(going, found.detach() - rate * slope, found.detach())
        going = going & (divergence < delta)
        if not going.any():
            break
    return found.detach()


# -- agents ---------------------------------------------------------------------------------------


class PROPS(ROS):
    """Proximal Robust On-Policy Sampling, around PPO.

    Args:
        policy, env, batches, arguments: as in `BufferPPO`, without `use_sde`.
        behaviour_steps: m, steps in each environment between two descents; divides `n_steps`. The
            paper has 8 for continuous actions.
        behaviour_rate: learning rate of Adam in a descent.
        behaviour_epochs, behaviour_minibatches: passes through the data, each in so many pieces.
            The paper has 16 and, for continuous actions, 16.
        behaviour_clip: epsilon, in [0, 1].
        behaviour_kl: delta, at least 0; a descent ends with the first step before which the
            divergence has reached it. The paper has 0.1 for continuous actions.

    Raises:
        ValueError: an argument is out of range, or `n_steps` is no multiple of `behaviour_steps`.
    """

    paper = Paper(
        slug="props",
        title="On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
        authors="Nicholas E. Corrado, Josiah P. Hanna",
        year=2023,
        arxiv="2311.08290",
        code="github.com/NicholasCorrado/PROPS",
    )
    example = Example(
        "Garnet-v0",
        {"states": 4, "branching": 2, "max_steps": 10},
        kwargs={**BufferPPO.example.kwargs, "behaviour_epochs": 2},
        steps=256,
    )

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        behaviour_steps: int = 16,
        behaviour_rate: float = 1e-3,
        behaviour_epochs: int = 16,
        behaviour_minibatches: int = 4,
        behaviour_clip: float = 0.3,
        behaviour_kl: float = 0.01,
        **arguments: Any,
    ) -> None:
        self.behaviour_epochs = check_integer("behaviour_epochs", behaviour_epochs, 1)
        self.behaviour_minibatches = check_integer(
            "behaviour_minibatches", behaviour_minibatches, 1
        )
        self.behaviour_clip = check_share("behaviour_clip", behaviour_clip)
        self.behaviour_kl = check_number("behaviour_kl", behaviour_kl, 0.0)
        super().__init__(
            policy,
            env,
            behaviour_steps=behaviour_steps,
            behaviour_rate=behaviour_rate,
            **arguments,
        )

    def descend(
        self, observations: torch.Tensor, actions: torch.Tensor, log_probs: torch.Tensor
    ) -> None:
        """Epochs of minibatches on the clipped ratio, until the divergence reaches delta."""
        optimizer = torch.optim.Adam(self.behaviour.parameters(), self.behaviour_rate)
        size = max(len(actions) // self.behaviour_minibatches, 1)
        for _ in range(self.behaviour_epochs):
            for rows in torch.randperm(len(actions), device=self.device).split(size):
                log_ratio = self.log_ratio(observations[rows], actions[rows], log_probs[rows])
                loss = clipped_ratio(log_ratio, self.behaviour_clip).mean()
                gradient_step(optimizer, loss, self.max_grad_norm)
                if approximate_kl(log_ratio.detach()).mean().item() >= self.behaviour_kl:
                    return


# -- the claim in miniature -----------------------------------------------------------------------

STATES, ACTIONS, REPEATS, SIZES = 5, 4, 8, (128, 512)
# Of the descents in tables: of 5, 10 and 20 the best for each, in other worlds than the claim's.
RATES = {"PROPS": 5.0, "ROS": 20.0}

GRID: dict[str, Any] = {
    **{"rows": 5, "cols": 5, "start": (2, 2), "step_reward": -0.01, "max_steps": 30},
    "goals": {(0, 0): (0.5, True), (4, 4): (1.0, True)},
}
GRID_STEPS, GRID_RUNS = 1_280, 4
GRID_PPO: dict[str, Any] = {
    **{"n_steps": 128, "batch_size": 32, "n_epochs": 8, "batches": 1, "learning_rate": 1e-2},
    **{"ent_coef": 0.01, "target_kl": 0.03, "policy_kwargs": {"net_arch": []}, "device": "cpu"},
}
GRID_PROPS: dict[str, Any] = {
    **{"behaviour_steps": 16, "behaviour_rate": 0.1, "behaviour_epochs": 64},
    **{"behaviour_minibatches": 1, "behaviour_kl": 0.05},
}


def gradient_of(logits: torch.Tensor, weights: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """The policy gradient of a softmax in one-step worlds, [..., S, A].

    Args:
        logits: [S, A].
        weights: of the pairs of a state and an action, [..., S, A]: their probabilities for the
            exact gradient, their frequencies for an estimate.
        rewards: of the pairs, [S, A].
    """
    paid = weights * rewards
    return paid - logits.softmax(-1) * paid.sum(-1, keepdim=True)


def sampled(sampler: str, seed: int, scale: float) -> dict[str, float]:
    """Sampling error and squared error of the policy gradient, means over `REPEATS` data sets."""
    rng = np.random.default_rng(seed)
    world: dict[str, Any] = {"states": STATES, "actions": ACTIONS, "branching": 0, "horizon": 1}
    env = make_sb3("Garnet-v0", REPEATS, seed * REPEATS, **world, rewards="normal", instance=seed)
    rewards = torch.as_tensor(core_of(env).R[0])
    logits = torch.as_tensor(rng.standard_normal((STATES, ACTIONS)))
    target = logits.log_softmax(-1)
    exact = gradient_of(logits, target.exp() / STATES, rewards)
    counts = torch.zeros(REPEATS, STATES, ACTIONS, dtype=torch.float64)
    behaviour, row, metrics = logits.expand_as(counts), torch.arange(REPEATS), {}
    states = torch.as_tensor(np.asarray(env.reset()))
    sizes = [max(int(size * scale), 1) for size in SIZES]
    for step in range(sizes[-1]):
        if sampler == "ROS":
            behaviour = tabular_descent(
                logits.expand_as(counts), counts, rate=RATES[sampler], epsilon=1.0, steps=1
            )
        elif sampler == "PROPS" and step % 16 == 0:
            behaviour = tabular_descent(logits.expand_as(counts), counts, rate=RATES[sampler])
        levels = behaviour[row, states].softmax(-1).cumsum(-1)
        drawn = torch.as_tensor(rng.random((REPEATS, 1)))  # the same of all arms
        actions = (drawn > levels[:, :-1]).sum(-1)
        counts[row, states, actions] += 1
        states = torch.as_tensor(np.asarray(env.step(actions.numpy())[0]))
        if step + 1 in sizes:
            found = gradient_of(logits, counts / (step + 1), rewards)
            squared = ((found - exact) ** 2).sum((-2, -1)).mean()
            size = SIZES[sizes.index(step + 1)]
            metrics[f"sampling error, n = {size}"] = float(sampling_error(counts, target).mean())
            metrics[f"gradient error, n = {size}"] = float(squared)
    return metrics


def core_of(env: Any) -> FiniteMDP:
    """The tables of a native vector."""
    core = env.get_attr("core")[0]
    assert isinstance(core, FiniteMDP)
    return core


def laws_of(agent: ProximalAlgorithm, states: int) -> torch.Tensor:
    """Probabilities of all actions in all states that an agent observes by number, [S, A]."""
    with torch.no_grad():
        observations = torch.arange(states, device=agent.device)[:, None]
        return agent.policy.get_distribution(observations).distribution.probs  # type: ignore[union-attr]


def better_exit(core: FiniteMDP, laws: NDArray[np.float64]) -> float:
    """Probability that an episode on the grid ends in the last cell."""
    moves, law, found = np.einsum("sa,sat->st", laws, core.P[0]), core.d0, 0.0
    for _ in range(GRID["max_steps"]):
        law = law @ moves
        found += law[-1]
        law[[0, -1]] = 0
    return float(found)


class BatchErrors(BaseCallback):
    """Notes the sampling error of every batch under the policy that it is for."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.states, self.errors = states, list[float]()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        agent = self.model
        assert isinstance(agent, BufferPPO)
        observations, actions = agent.pairs(agent.rows())
        laws = laws_of(agent, self.states)
        counts = torch.zeros_like(laws)
        places = observations.long().flatten(), actions
        counts.index_put_(places, torch.ones(len(actions)), accumulate=True)
        self.errors.append(float(sampling_error(counts, laws.log())))


def walked(agent_class: type[BufferPPO], seed: int, scale: float, **arguments: Any) -> Outcome:
    """How surely agents leave the grid by the better exit, and how far their batches were off."""
    exits, errors = [], []
    for run in range(seed * GRID_RUNS, (seed + 1) * GRID_RUNS):
        env = gym.make("GridWorld-v0", **GRID)
        core: FiniteMDP = env.unwrapped.core  # type: ignore[attr-defined]
        agent = agent_class("MlpPolicy", env, seed=run, **GRID_PPO, **arguments)
        watch = BatchErrors(core.states)
        agent.learn(max(int(GRID_STEPS * scale), 1), watch)
        exits.append(better_exit(core, laws_of(agent, core.states).double().numpy()))
        errors.append(np.mean(watch.errors))
    return Outcome(
        {"better exit": float(np.mean(exits)), "sampling error on the grid": float(np.mean(errors))}
    )


def props_arm(seed: int, scale: float) -> Outcome:
    """PROPS, in tables and around PPO."""
    metrics = sampled("PROPS", seed, scale)
    return Outcome({**metrics, **walked(PROPS, seed, scale, **GRID_PROPS).metrics})


def on_policy_arm(seed: int, scale: float) -> Outcome:
    """Draws from the target policy; on the grid PPO."""
    metrics = sampled("on-policy", seed, scale)
    return Outcome({**metrics, **walked(BufferPPO, seed, scale).metrics})


def ros_arm(seed: int, scale: float) -> Outcome:
    """ROS, in tables."""
    return Outcome(sampled("ROS", seed, scale))


PROPS.claim = Claim(
    text="In one-step worlds with 5 states and 4 actions, the 128 and the 512 actions that PROPS "
    "draws have a smaller sampling error, and give a policy gradient with a smaller squared error, "
    "than as many drawn from the target policy. On a 5 x 5 grid with two exits, agents that "
    "collect batches of 128 steps with PROPS leave by the better one at least as often as PPO's, "
    "but for 0.05.",
    arms={"PROPS": props_arm, "on-policy": on_policy_arm, "ROS": ros_arm},
    criteria=(
        *(
            Superior(f"{name} error, n = {size}", "PROPS", "on-policy", higher_is_better=False)
            for name in ("sampling", "gradient")
            for size in SIZES
        ),
        NotInferior("better exit", "PROPS", "on-policy", margin=0.05),
    ),
    seeds=10,
    core_minutes=3.0,
)
