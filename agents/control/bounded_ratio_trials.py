"""What BPO's claim compares by: the exact step, softmax policies in tables, and a pendulum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy.optimize import linprog

from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.planning.discounted import backup, evaluate
from ...wrappers.sb3 import make_sb3
from ..base.declare import Outcome
from ..base.ppo import ProximalAlgorithm
from .bounded_step import hard_ratio, soft_ratio, soft_threshold, target_ratio

PROBLEMS = 200  # of the exact step, per seed
WORLD: dict[str, Any] = {"states": 12, "actions": 5, "branching": None, "concentration": 0.3}
GAMMA, BOUND, SLACK, LAM = 0.9, 0.2, 0.05, 1e-3
ITERATIONS, SAMPLES, EPOCHS, MINIBATCH = 40, 256, 10, 32
RATES = (0.25, 0.5, 1.0, 8.0)
JUDGED = RATES[:3]  # the last is only told: there the pull back to the target oscillates

# Loss [..., B] of log-ratios, advantages and target ratios, [..., B] each.
TabularLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

PENDULUM_STEPS, PENDULUMS = 100_000, 8
PENDULUM: dict[str, Any] = {
    **{"n_steps": 256, "batch_size": 128, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.9},
    **{"max_grad_norm": 1.0, "policy_kwargs": {"net_arch": [64, 64]}, "device": "cpu"},
}


def optimal_value(
    probabilities: np.ndarray[Any, Any], values: np.ndarray[Any, Any], low: float, high: float
) -> float:
    """The largest expected value between the bounds [A], by linear programming."""
    found = linprog(
        -probabilities * values,
        A_eq=probabilities[None],
        b_eq=[1.0],
        bounds=(1 - low, 1 + high),
    )
    return -float(found.fun)


def exact_arm(seed: int, scale: float) -> Outcome:
    """Random problems of the exact step: how far the hard ratio is from the optimum and from the
    constraints, and how often the soft one is worse than the old policy."""
    rng = np.random.default_rng(seed)
    error, worse = 0.0, 0
    for _ in range(max(int(PROBLEMS * scale), 1)):
        actions = int(rng.integers(2, 9))
        law, values = rng.dirichlet(np.ones(actions)), rng.standard_normal(actions)
        low, high, lam = rng.uniform(0.05, 1.0), rng.uniform(0.05, 2.0), 10 ** rng.uniform(-3, 1)
        p, q = torch.as_tensor(law), torch.as_tensor(values)
        hard, soft = hard_ratio(p, q, low, high), soft_ratio(p, q, lam, low, high)
        error = max(
            error,
            abs(float((p * hard * q).sum()) - optimal_value(law, values, low, high)),
            *(abs(float((p * rho).sum()) - 1) for rho in (hard, soft)),
            float((1 - low - hard).max()),
            float((hard - 1 - high).max()),
        )
        worse += float((p * soft * q).sum()) < float((p * q).sum()) - 1e-9
    return Outcome({"error of the exact step": error, "soft steps that lose": float(worse)})


def log_probs_of(logits: torch.Tensor, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """log pi(a | s), [n, B], of n softmax policies [n, S, A]; states and actions int [n, B]."""
    return logits.log_softmax(-1)[torch.arange(len(logits))[:, None], states, actions]


def in_tables(loss: TabularLoss, seed: int, scale: float) -> dict[str, float]:
    """A softmax in tables that learns by plain gradient steps, for all rates at once: the share of
    samples that the update leaves out of bounds, and the value at the end by the optimal one.

    A sample is a step from a pair (s, a) on, with the exact value of what follows; so its noise is
    that of the next state. V is exact, and u is where the head of the medians would settle.
    """
    rates, n = torch.tensor(RATES).double()[:, None, None], len(RATES)
    name, arguments = "Garnet-v0", {**WORLD, "gamma": GAMMA, "instance": seed}
    env = gym.make_vec(name, n * SAMPLES, vectorization_mode="vector_entry_point", **arguments)
    core: FiniteMDP = env.unwrapped.core  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    P, R, row = core.P[0], core.R[0], torch.arange(n)[:, None]
    states = torch.as_tensor(env.reset(seed=seed * n * SAMPLES)[0]).reshape(n, -1)
    logits, outside = torch.zeros(n, *R.shape, dtype=torch.float64), []
    for _ in range(max(int(ITERATIONS * scale), 1)):
        laws = logits.softmax(-1)
        values = evaluate(P, R, laws.numpy(), GAMMA)
        medians = soft_threshold(laws, torch.as_tensor(backup(P, R, values, GAMMA)), 1.0)
        drawn = torch.as_tensor(rng.random((n, SAMPLES, 1)))  # the same of all arms
        actions = (drawn > laws.cumsum(-1)[row, states][..., :-1]).sum(-1)
        step = env.step(actions.flatten().numpy())
        after, rewards = (torch.as_tensor(found).reshape(n, -1) for found in step[:2])
        V = torch.as_tensor(values)
        returns = rewards + GAMMA * V[row, after]
        advantages = returns - V[row, states]
        targets = target_ratio((returns - medians[row, states]) / LAM, BOUND, BOUND)
        advantages = advantages / advantages.std(-1, keepdim=True)
        before = log_probs_of(logits, states, actions)
        for _ in range(EPOCHS):
            for rows in torch.as_tensor(rng.permutation(SAMPLES)).split(MINIBATCH):
                logits.requires_grad_()
                now = log_probs_of(logits, states[:, rows], actions[:, rows])
                terms = loss(now - before[:, rows], advantages[:, rows], targets[:, rows])
                (slope,) = torch.autograd.grad(terms.mean(-1).sum(), logits)
                logits = logits.detach() - rates * slope
        ratio = (log_probs_of(logits, states, actions) - before).exp()
        outside.append(((ratio - 1).abs() > BOUND + SLACK).double().mean(-1))
        states = after
    final = evaluate(P, R, logits.softmax(-1).numpy(), GAMMA) @ core.d0
    shares = final / float(core.plan(GAMMA).values @ core.d0)
    found = torch.stack(outside).mean(0)
    return {
        **{f"outside, rate {rate:g}": float(x) for rate, x in zip(RATES, found, strict=True)},
        **{f"value, rate {rate:g}": float(x) for rate, x in zip(RATES, shares, strict=True)},
    }


def on_the_pendulum(
    agent_class: type[ProximalAlgorithm], seed: int, scale: float
) -> tuple[list[float], list[float]]:
    """Steps, and mean returns of the episodes that end there, over all of learning."""
    env = make_sb3("TorquePendulum-v0", PENDULUMS, seed)
    agent = agent_class("MlpPolicy", env, seed=seed, **PENDULUM)
    steps, curve = list[float](), list[float]()

    def watch(found: dict[str, Any], *_: Any) -> bool:
        ended = [info["episode"]["r"] for info in found["infos"] if "episode" in info]
        if ended:
            steps.append(float(agent.num_timesteps))
            curve.append(float(np.mean(ended)))
        return True

    agent.learn(max(int(PENDULUM_STEPS * scale), 1_600), watch)  # an episode of each at least
    return steps, curve
