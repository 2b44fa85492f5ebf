"""SQIRL: Shallow Q-Iteration via Reinforcement Learning.

Cassidy Laidlaw, Banghua Zhu, Stuart Russell, Anca Dragan: The Effective Horizon Explains Deep RL
Performance in Stochastic Environments (ICLR 2024, arXiv 2312.08369).

It explores only at random, and learns one step of the episode after the other. For step i = 0, 1,
... H - 1 it plays episodes with the greedy policies of the steps before, that are fixed, and with
random actions from step i on, and learns from them k functions of the state and action,

    f_1 <- G_t = sum over u >= t of gamma^{u - t} r_u            the values of playing at random
    f_j <- r_t + gamma max_a f_{j-1}(s_{t+1}, a),  j = 2 .. k    one step of value iteration each

by least squares. The greedy policy of f_k is what step i plays from then on. The values come from
`sqirl_policies.py`, in tables or as heads of a network.

This finds the best policy wherever being greedy after k - 1 steps of value iteration on the random
policy's values is optimal, with a number of episodes that is exponential in the effective horizon
only (`envs/tabular/planning/effective_horizon.py`, `palaestra analyse effective-horizon ENV`). The
paper finds that deep reinforcement learning succeeds where this does.

An episode that is cut counts as one that ends: the horizon is part of the task.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.checks import check_integer
from ...envs.tabular.door_chain import DoorChain
from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.planning.effective_horizon import effective_horizon
from ...envs.tabular.planning.finite_horizon import evaluate
from ...envs.tabular.planning.tables import check_gamma
from ...envs.tabular.pool import PooledTask, pool
from ...wrappers.sb3 import SB3VecEnv, make_sb3
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.episodic import EpisodicAlgorithm
from ..base.on_policy import PPO
from .sqirl_policies import StepNetworks, StepPolicy, StepTable

PATIENCE = 10  # steps in a row that no episode reaches, after which there are no more


class SQIRL(EpisodicAlgorithm):
    """Shallow Q-iteration, for environments with a horizon and `Discrete` actions.

    An update learns one step of the episode; after the last one learning ends, whatever
    `total_timesteps` is. A `learn` that counts timesteps from zero starts at the first step; one
    that goes on continues where the last one stopped, and where that was the end, it starts over
    with twice as many episodes.

    Logged: `rollout/return` of the episodes, `train/loss`, `train/step`.

    Args:
        policy: "TabularPolicy" (`StepTable`, for `Discrete` observations) or "MlpPolicy"
            (`StepNetworks`, with `policy_kwargs`).
        env: with episodes that end after at most a known number of steps.
        depth: k, at least 1; it need not be larger than the horizon.
        episodes: m, from which a step is learned.
        gamma: discount factor in [0, 1].
        learning_rate: of networks; the paper's code has 1e-4, for millions of timesteps.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Raises:
        ValueError: an argument is out of range, actions are not `Discrete`, or the environment has
            no horizon.
    """

    paper = Paper(
        slug="sqirl",
        title="The Effective Horizon Explains Deep RL Performance in Stochastic Environments",
        authors="Cassidy Laidlaw, Banghua Zhu, Stuart Russell, Anca Dragan",
        year=2024,
        arxiv="2312.08369",
        code="github.com/cassidylaidlaw/effective-horizon",
    )
    example = Example(
        "RiverSwim-v0",
        {"states": 4, "horizon": 8},
        policy="TabularPolicy",
        kwargs={"depth": 2, "episodes": 20},
        steps=1_280,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "TabularPolicy": StepTable,
        "MlpPolicy": StepNetworks,
    }
    policy: StepPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        depth: int = 2,
        episodes: int = 200,
        gamma: float = 1.0,
        learning_rate: float | Schedule = 1e-3,
        **common: Any,
    ) -> None:
        check_gamma(gamma, one=True)
        self.depth = check_integer("depth", depth, 1)
        self.episodes = check_integer("episodes", episodes, 1)
        self.gamma = gamma
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def _setup_model(self) -> None:
        self.policy_kwargs = {**self.policy_kwargs, "depth": self.depth}
        super()._setup_model()
        self.restart(0)

    def restart(self, passes: int) -> None:
        """Learn the first step next, with 2^passes times as many episodes."""
        self.passes, self.step, self.missed = passes, 0, 0

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As the base's.

        Raises:
            ValueError: the new environment has another horizon.
        """
        super().set_env(env, force_reset)
        if self.horizon != self.policy.horizon:
            raise ValueError(
                f"there is a policy for each of {self.policy.horizon} steps, and the new "
                f"environment's horizon is {self.horizon}"
            )

    def begin(self) -> None:
        """From the first step, or on from where learning stopped."""
        super().begin()
        if self.num_timesteps == 0:
            self.restart(0)
        elif self.exhausted():
            self.restart(self.passes + 1)

    def exhausted(self) -> bool:
        """Whether all steps are learned."""
        return self.step >= self.policy.horizon

    def update(self) -> dict[str, float]:
        """Learn one step."""
        self.policy.explores_from = self.step
        try:
            episodes = self.play(self.episodes * 2**self.passes)
        finally:
            self.policy.explores_from = None
        self.note(episodes)
        metrics = {
            "rollout/return": float(episodes.rewards.sum(0).mean()),
            "train/step": float(self.step),
        }
        if self.step < len(episodes.taken):
            rate = self.lr_schedule(self._current_progress_remaining)
            metrics["train/loss"] = self.policy.fit(self.step, episodes, self.gamma, rate)
            self.missed = 0
        else:
            self.policy.copy_step(self.step)
            self.missed += 1
        self.step += 1
        if self.missed == PATIENCE:
            for step in range(self.step, self.policy.horizon):
                self.policy.copy_step(step)
            self.step = self.policy.horizon
        self.policy.learned.fill_(max(self.step, int(self.policy.learned)))
        return metrics

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the step to learn next."""
        values, tensors = super().extra_state()
        return {**values, "place": [self.passes, self.step, self.missed]}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.passes, self.step, self.missed = values["place"]


# -- the claim in miniature -----------------------------------------------------------------------

EPISODES, SAFE = 200, 0.3
CHAINS = [(depth, slip) for slip in (0.0, 0.1) for depth in (3, 4, 5, 6)]


def name_of(depth: int, slip: float) -> str:
    """What metrics call a chain of doors."""
    return f"{depth} doors, slip {slip:g}"


def expected_return(core: FiniteMDP, laws: NDArray[np.float64]) -> float:
    """Exact, of a policy [H, S, A]."""
    going = ~np.isin(np.arange(core.states), core.terminal_states)
    return float(core.d0 @ evaluate(core.P, core.R, laws, continues=going)[0])


def share(doors: int, slip: float, depth: int, seed: int, scale: float) -> float:
    """What SQIRL earns of the optimum of a chain of doors."""
    core = DoorChain(doors, SAFE, slip)
    env = make_sb3("DoorChain-v0", num_envs=1, depth=doors, safe=SAFE, slip=slip)
    episodes = max(int(EPISODES * scale), 1)
    agent = SQIRL("TabularPolicy", env, depth=depth, episodes=episodes, seed=seed, device="cpu")
    agent.learn(episodes * doors * doors)
    assert isinstance(agent.policy, StepTable)
    greedy = agent.policy.values.argmax(dim=-1).numpy()
    best = float(core.d0 @ core.plan(1.0).values[0])
    return expected_return(core, np.eye(2)[greedy]) / best


def shares(depths: dict[int, int], seed: int, scale: float) -> dict[str, float]:
    """`share` of each chain, with a depth for each number of doors."""
    return {
        name_of(doors, slip): share(doors, slip, depths[doors], seed, scale)
        for doors, slip in CHAINS
        if doors in depths
    }


def shallow_arm(seed: int, scale: float) -> Outcome:
    """k = 1: greedy on the values of the random policy."""
    return Outcome(shares(dict.fromkeys((3, 4, 5, 6), 1), seed, scale))


def deep_arm(seed: int, scale: float) -> Outcome:
    """k = d."""
    return Outcome(shares({doors: doors for doors in (3, 4, 5, 6)}, seed, scale))


def between_arm(seed: int, scale: float) -> Outcome:
    """1 < k < d."""
    metrics: dict[str, float] = {}
    for k in (2, 3, 4, 5):
        depths = {doors: k for doors in (3, 4, 5, 6) if k < doors}
        found = shares(depths, seed, scale)
        metrics |= {f"{name}, k = {k}": value for name, value in found.items()}
    return Outcome(metrics)


def failing_arm(seed: int, scale: float) -> Outcome:
    """The most that the claim allows k = 1."""
    return Outcome({name_of(doors, slip): 0.4 if slip == 0 else 0.65 for doors, slip in CHAINS})


def solving_arm(seed: int, scale: float) -> Outcome:
    """The least that the claim asks of k = d, and of the rank correlation."""
    return Outcome({**{name_of(*chain): 0.9 for chain in CHAINS}, "rank correlation": 0.4})


BUDGET, ENVS, ENOUGH = 4_000, 8, 0.95
EVERY, STAYS = 4, 3  # episodes of each environment between two looks, looks that must agree
SMALL: dict[str, Any] = {"gamma": 1.0, "policy_kwargs": {"net_arch": [32]}, "device": "cpu"}
LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {"learning_rate": 3e-3, "n_epochs": 4, "batch_size": 32}),
    "DQN": (
        stable_baselines3.DQN,
        {
            **{"learning_rate": 3e-3, "buffer_size": 20_000, "learning_starts": 200},
            **{"train_freq": 1, "gradient_steps": 1, "target_update_interval": 400},
            **{"exploration_fraction": 0.5, "exploration_final_eps": 0.1},
        },
    ),
}


def bound_of(task: PooledTask) -> float:
    """The effective horizon of a task of the pool, whose rewards are divided by the optimum."""
    core = task.mdp
    going = ~np.isin(np.arange(core.states), core.terminal_states)
    tables = (core.P, core.R, core.d0, core.horizon)
    return float(effective_horizon(*tables, scale=1.0, continues=going).horizon)


def laws_of(agent: Any, states: int) -> NDArray[np.float64]:
    """The policy of PPO as it acts, or the greedy one of DQN, at one-hot observations; [S, A]."""
    seen = torch.eye(states)
    with torch.no_grad():
        if isinstance(agent, stable_baselines3.DQN):
            values = agent.q_net(seen)
            return np.eye(values.shape[-1])[values.argmax(dim=-1).numpy()]
        found = agent.policy.get_distribution(seen).distribution.probs.double().numpy()
    return np.asarray(found / found.sum(axis=-1, keepdims=True))  # to double precision


def episodes_to_solve(name: str, task: PooledTask, seed: int, scale: float) -> float:
    """Episodes after which a learner earns 0.95 of the optimum, and does at the next looks too; all
    that there are, if it never does."""
    core = task.mdp
    horizon = len(core.plan(1.0).policy)
    env = SB3VecEnv(task.make_vec(ENVS, observation="onehot", autoreset_mode="SameStep"))
    learner, setting = LEARNERS[name]
    rollout = {"n_steps": EVERY * horizon} if name == "PPO" else {}
    agent = learner("MlpPolicy", env, seed=seed, **SMALL, **setting, **rollout)
    budget = max(BUDGET * scale, 1.0)
    ended = 0
    solved: list[float] = []

    def watch(found: dict[str, Any], *_: Any) -> bool:
        nonlocal ended, solved
        ended += int(found["dones"].sum())
        if agent.num_timesteps % (ENVS * EVERY * horizon) == 0:
            laws = np.tile(laws_of(agent, core.states), (horizon, 1, 1))
            solved = [*solved, float(ended)] if expected_return(core, laws) >= ENOUGH else []
        return len(solved) < STAYS and ended < budget

    agent.learn(int(budget) * horizon, callback=watch)
    return solved[0] if len(solved) == STAYS else float(ended)


def deep_learning_arm(seed: int, scale: float) -> Outcome:
    """PPO and DQN on the pool, and how the episodes of the quicker of them follow the effective
    horizon; those of each alone are told, too."""
    tasks = pool()
    bounds = [bound_of(task) for task in tasks]
    needed = {name: [episodes_to_solve(name, x, seed, scale) for x in tasks] for name in LEARNERS}
    quicker = np.min(list(needed.values()), axis=0)
    metrics = {"rank correlation": rank_correlation(bounds, quicker)}
    for name, episodes in needed.items():
        metrics[f"rank correlation, {name} alone"] = rank_correlation(bounds, episodes)
        metrics |= {
            f"{name} on {task.name}": found for task, found in zip(tasks, episodes, strict=True)
        }
    return Outcome(metrics)


def rank_correlation(bounds: ArrayLike, episodes: ArrayLike) -> float:
    """Spearman's, of effective horizons and the logarithm of episodes, which has the same ranks."""
    return float(spearmanr(bounds, np.log(episodes)).statistic)


SQIRL.claim = Claim(
    text="With 200 episodes for each step, SQIRL with k = 1 earns at most 0.4 of the optimum of "
    "chains of 3 to 6 doors, and at most 0.65 where 4 to 6 doors slip; with k as large as the "
    "chain is long it earns at least 0.9. Over a pool of 19 small worlds the effective horizon and "
    "the episodes that the quicker of PPO and DQN needs have a rank correlation above 0.4.",
    arms={
        "k = 1": shallow_arm,
        "k = d": deep_arm,
        "1 < k < d": between_arm,
        "deep learning": deep_learning_arm,
        "most": failing_arm,
        "least": solving_arm,
    },
    criteria=(
        *(
            NotInferior(name_of(*chain), "k = 1", "most", margin=0.0, higher_is_better=False)
            for chain in CHAINS
            if chain != (3, 0.1)
        ),
        *(
            NotInferior(name_of(*chain), "k = d", "least", margin=0.0)
            for chain in CHAINS
            if chain != (3, 0.1)
        ),
        Superior("rank correlation", "deep learning", "least"),
    ),
    seeds=10,
    core_minutes=8.0,
)
