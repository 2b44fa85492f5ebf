"""Distributional dynamic programming over states with a stock.

Bernardo Avila Pires, Mark Rowland, Diana Borsa, Zhaohan Daniel Guo, Khimya Khetarpal, Andre
Barreto, David Abel, Remi Munos, Will Dabney: Optimizing Return Distributions with Distributional
Dynamic Programming (JMLR 2025, arXiv 2501.13028).

What is optimised is a functional K of the law of the return, not its mean. Classic dynamic
programming cannot do that, as the best action depends on what was earned before. One number more in
the state says enough, the stock c: after a reward r it is (c + r) / gamma. With eta(s, c) the law
of the return G from there,

    (T_pi eta)(s, c) = law(R + gamma G'),     A ~ pi(s, c), G' ~ eta(S', (c + R) / gamma)
    greedy(eta)(s, c) = argmax_a K law(c + R + gamma G')

value iteration applies T of the greedy policy, policy iteration evaluates and improves in turn.
Here K is an expected utility, E f(X); it must rank laws alike when they are multiplied by gamma.
The conditional value at risk is max_c { -c + E min(c + G, 0) / level }: f(x) = min(x, 0) solves it
for all levels at once, and a level only decides with which stock to start. With f(x) = -|x| and a
start at minus a set point the return is kept near that.

With a horizon all pairs of state and stock that can be reached are planned exactly; without one
stocks and returns live on grids. Operators are those of `envs/tabular/planning`, stocks are shown
by `wrappers/stock.py`, and the deep form is in `detan.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer
from ...envs.tabular.income_gamble import IncomeGamble
from ...envs.tabular.planning.distributional import (
    Outcomes,
    Reduce,
    distributional_evaluation,
    nothing,
)
from ...envs.tabular.planning.laws import Floats, Law, Score, cvar, shift
from ...envs.tabular.planning.stock import (
    Layer,
    StockPlan,
    best_start_stock,
    improve,
    stock_layers,
    stock_policy_evaluation,
    stock_value_iteration,
)
from ...envs.tabular.planning.stock_grid import grid_policy_evaluation
from ...wrappers.stock import StockWrapper
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.stock_planning import StockPlanner, outcomes_by_step
from ..base.utility import CLOSENESS, SHORTFALL, expected
from .detan import detan_arm, qr_dqn_arm

# -- the paper's computation ----------------------------------------------------------------------


def greedy_sweep(
    layers: Sequence[Layer], laws: Sequence[Law], score: Score, gamma: float, reduce: Reduce
) -> StockPlan:
    """T of the greedy policy: in every pair of every layer the best action, its law and its score.

    Args:
        layers: pairs and what follows them, step by step; of a grid the one layer.
        laws: of the return after each layer, [n, K].
        score: K.
        gamma: discount factor.
        reduce: what keeps laws short.
    """
    improved = [
        improve(layer, law, score, gamma, reduce) for layer, law in zip(layers, laws, strict=True)
    ]
    policies, found, scores = zip(*improved, strict=True)
    return StockPlan(layers, list(policies), list(found), list(scores))


# -- agents ---------------------------------------------------------------------------------------


def in_stock(env: gym.Env[Any, Any]) -> StockWrapper:
    """An example's environment, discounted, with any start stock that can matter."""
    return StockWrapper(env, gamma=0.9, stock=(-6.0, 4.0))


EXAMPLE = Example(
    "FiniteMDP-v0",
    {"max_steps": 20},
    policy="StockTablePolicy",
    kwargs={
        "gamma": 0.9,
        "stocks": np.linspace(-8, 6, 29).tolist(),
        "returns": np.linspace(-8, 8, 33).tolist(),
    },
    steps=40,
    wrapper=in_stock,
)


class DistributionalVI(StockPlanner):
    """Value iteration on laws of returns over pairs of state and stock.

    With a horizon the first sweep is backward induction and leaves nothing to do. Without one the
    error falls as gamma^sweeps, down to what the grids leave.

    Args:
        policy, env, stocks, ...: as in `StockPlanner`.
    """

    paper = Paper(
        slug="distributional_dp",
        title="Optimizing Return Distributions with Distributional Dynamic Programming",
        authors="Bernardo Avila Pires, Mark Rowland, Diana Borsa, Zhaohan Daniel Guo, Khimya "
        "Khetarpal, Andre Barreto, David Abel, Remi Munos, Will Dabney",
        year=2025,
        arxiv="2501.13028",
    )
    example = EXAMPLE

    def sweep(self) -> StockPlan:
        """Backward induction, or T of the greedy policy once."""
        if self.timed:
            return stock_value_iteration(self.layers, self.score, self.gamma, self.reduce)
        law = self.policy.first_law
        return greedy_sweep(self.layers, [law], self.score, self.gamma, self.reduce)


class DistributionalPI(DistributionalVI):
    """Policy iteration on laws of returns over pairs of state and stock.

    A sweep evaluates the policy and improves it in every pair at once; with a horizon it stays
    after at most as many sweeps as there are steps.

    Args:
        evaluation_sweeps: backups of an evaluation without a horizon.
        policy, env, stocks, ...: as in `StockPlanner`.
    """

    example = replace(EXAMPLE, kwargs={**EXAMPLE.kwargs, "evaluation_sweeps": 5})

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        evaluation_sweeps: int = 50,
        **arguments: Any,
    ) -> None:
        self.evaluation_sweeps = check_integer("evaluation_sweeps", evaluation_sweeps, 1)
        super().__init__(policy, env, **arguments)

    def sweep(self) -> StockPlan:
        """Evaluation and improvement."""
        layers, common = self.layers, (self.gamma, self.reduce)
        actions = self.policy.actions.numpy()
        policy = [actions[self.policy.layer(step)] for step in range(len(layers))]
        if self.timed:
            laws = stock_policy_evaluation(layers, policy, *common)
            after = [*laws[1:], nothing(1)]
        else:
            sweeps = self.evaluation_sweeps
            after = [grid_policy_evaluation(layers[0], policy[0], self.gamma, sweeps, self.reduce)]
        return greedy_sweep(layers, after, self.score, *common)


# -- the claim in miniature -----------------------------------------------------------------------

INSTANCES, HORIZON, STOCKS = 20, 6, np.arange(-30.0, 10.0)
OBJECTIVES = ("CVaR 0.5", "CVaR 0.75", "set point")
BETTER = 1e-9


def objectives(law: Law, set_point: float) -> Floats:
    """What laws [..., K] are worth: two levels of risk and the distance from a set point,
    [..., 3]."""
    distance = expected(CLOSENESS)(shift(law, -set_point))
    return np.stack([cvar(law, 0.5), cvar(law, 0.75), distance], axis=-1)


def stock_values(core: IncomeGamble, outcomes: Outcomes) -> Floats:
    """The three objectives, each with the policy that is best for it among those with a stock."""
    start = int(core.d0.argmax())
    layers = stock_layers(outcomes, start, STOCKS, 1.0, HORIZON)
    plan = stock_value_iteration(layers, expected(SHORTFALL), 1.0)
    found = [
        float(cvar(plan.laws[0], level)[best_start_stock(STOCKS, plan.scores[0], level)[0]])
        for level in (0.5, 0.75)
    ]
    held = stock_layers(outcomes, start, [-core.set_point], 1.0, HORIZON)
    kept = stock_value_iteration(held, expected(CLOSENESS), 1.0)
    return np.array([*found, kept.scores[0][0]])


def markov_values(core: IncomeGamble, outcomes: Outcomes) -> Floats:
    """Each objective under the best of all deterministic policies of step and state, which choose
    in every other step."""
    choices = HORIZON // 2
    policies = np.zeros((HORIZON, 2**choices, 2), np.int64)
    policies[1::2, :, 1] = np.indices((2,) * choices).reshape(choices, -1)
    laws = distributional_evaluation([outcomes] * HORIZON, list(policies), nothing(2), 1.0)[0]
    values = objectives(laws, float(core.set_point))
    return np.asarray(values[:, int(core.d0.argmax())].max(axis=0))


def neutral_values(core: IncomeGamble, outcomes: Outcomes) -> Floats:
    """The objectives under the policy with the best mean."""
    policy = list(core.plan(1.0).policy)
    laws = distributional_evaluation([outcomes] * HORIZON, policy, nothing(2), 1.0)[0]
    return np.asarray(objectives(laws, float(core.set_point))[int(core.d0.argmax())])


def gambles(seed: int, values: Callable[[IncomeGamble, Outcomes], Floats]) -> Floats:
    """The objectives in the seed's 20 worlds, [20, 3]."""
    cores = [IncomeGamble(HORIZON, instance=INSTANCES * seed + k) for k in range(INSTANCES)]
    return np.stack([values(core, outcomes_by_step(core)[0]) for core in cores])


def named(values: Floats, prefix: str = "") -> dict[str, float]:
    """The objectives [3] by name."""
    return {f"{prefix}{name}": float(value) for name, value in zip(OBJECTIVES, values, strict=True)}


def stock_arm(seed: int, scale: float) -> Outcome:
    """Planning with a stock, and in how many worlds it is better than the others."""
    ours = gambles(seed, stock_values)
    metrics = named(ours.mean(axis=0))
    for other, values in (("Markov", markov_values), ("neutral", neutral_values)):
        gains = ours - gambles(seed, values)
        metrics |= named((gains > BETTER).mean(axis=0), f"better than {other}: ")
        metrics[f"worst loss against {other}"] = float(np.maximum(-gains, 0.0).max())
    return Outcome(metrics)


def markov_arm(seed: int, scale: float) -> Outcome:
    """The best policy of step and state, for each objective."""
    return Outcome(named(gambles(seed, markov_values).mean(axis=0)))


def neutral_arm(seed: int, scale: float) -> Outcome:
    """The policy with the best mean."""
    return Outcome(named(gambles(seed, neutral_values).mean(axis=0)))


def least_arm(seed: int, scale: float) -> Outcome:
    """What must be exceeded."""
    shares = np.full(3, 0.15)
    return Outcome(
        named(shares, "better than Markov: ")
        | named(shares, "better than neutral: ")
        | {"share of exact CVaR 0.25": 0.9, "share of exact CVaR 1": 0.9}
    )


DistributionalVI.claim = Claim(
    text="In worlds of uncertain incomes and gambles planning with a stock is nowhere worse than "
    "the best of all policies of step and state, or than the one with the best mean; in more than "
    "15 percent of the worlds it is strictly better than either at levels 0.5 and 0.75 of the "
    "conditional value at risk, and at staying near a set point. On a slippery walk through two "
    "rooms DetaN, one network for all levels, reaches more than 90 percent of the conditional "
    "value at risk that exact planning finds, at levels 0.25 and 1.",
    arms={
        "stock": stock_arm,
        "Markov": markov_arm,
        "neutral": neutral_arm,
        "DetaN": detan_arm,
        "QR-DQN": qr_dqn_arm,
        "least": least_arm,
    },
    criteria=(
        Exact("worst loss against Markov", "stock", value=0.0, tolerance=1e-9),
        Exact("worst loss against neutral", "stock", value=0.0, tolerance=1e-9),
        *(
            Superior(f"better than {other}: {name}", "stock", "least")
            for other in ("Markov", "neutral")
            for name in OBJECTIVES
        ),
        Superior("share of exact CVaR 0.25", "DetaN", "least"),
        Superior("share of exact CVaR 1", "DetaN", "least"),
    ),
    seeds=10,
    core_minutes=15.0,
    modules=("agents.base.off_policy", "agents.base.quantile_dqn", "agents.tabular.detan"),
)
