"""Base of the agents that plan over pairs of state and stock, and the policy that they make.

The operators are those of `envs/tabular/planning/{stock,stock_grid}.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.tabular.planning.distributional import (
    WIDTH,
    Outcomes,
    Reduce,
    merge,
    nothing,
    outcomes_of,
    project_categorical,
)
from ...envs.tabular.planning.laws import (
    Floats,
    Law,
    Score,
    increasing,
    ranks_alike,
)
from ...envs.tabular.planning.stock import (
    Layer,
    StockPlan,
    best_start_stock,
    next_stock,
    stock_actions,
    stock_layers,
)
from ...envs.tabular.planning.stock_grid import stock_grid
from ...wrappers.stock import OBSERVATION, STOCK, check_stocks
from .algorithm import Algorithm
from .stepping import check_discrete, on_cpu
from .utility import SHORTFALL, Utility, check_utility, expected

Integers = NDArray[np.int64]

NEAR = 1e-6  # relative error of a stock that is shown as float32


def outcomes_by_step(core: Any) -> list[Outcomes]:
    """The outcomes of a `FiniteMDP`, one for each of its T tables."""
    tables: dict[str, Any] = core.tables()
    parts: list[Any] = [tables[name] for name in ("P", "low", "high", "q")]
    found = []
    for step in range(len(core.P)):
        P, low, high, q = (None if part is None else part[step] for part in parts)
        found.append(outcomes_of(P, low, high, q, tables["terminal"]))  # type: ignore[arg-type]
    return found


class StockTablePolicy(BasePolicy):
    """The plan for pairs of state and stock: of every step, or one for all.

    `predict` counts steps in `state` where the plan changes with them: hand back what it returned,
    and say with `episode_start` where an episode begins. Without `state` it is asked about first
    steps.

    Args:
        observation_space: `Dict` of "observation", `Discrete`, and "stock".
        action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    bounds: torch.Tensor
    states: torch.Tensor
    stocks: torch.Tensor
    actions: torch.Tensor
    scores: torch.Tensor
    values: torch.Tensor
    probabilities: torch.Tensor
    timed: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        if set(parts) != {OBSERVATION, STOCK}:
            raise ValueError(
                f"a plan needs a state and a stock (StockWrapper), got {observation_space}"
            )
        check_discrete(parts[OBSERVATION], "observations", "a table")
        check_discrete(action_space, "actions", "a table")
        for name in ("bounds", "states", "actions"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        for name in ("stocks", "scores", "values", "probabilities"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        self.register_buffer("timed", torch.zeros((), dtype=torch.bool))

    def put(self, plan: StockPlan, timed: bool) -> None:
        """Take over a plan; the laws are kept of its first layer only."""
        sizes = [0, *(len(layer.states) for layer in plan.layers)]
        new = {
            "bounds": np.cumsum(sizes),
            "states": np.concatenate([layer.states for layer in plan.layers]),
            "stocks": np.concatenate([layer.stocks for layer in plan.layers]),
            "actions": np.concatenate(plan.policy),
            "scores": np.concatenate(plan.scores),
            "values": plan.laws[0].values,
            "probabilities": plan.laws[0].probabilities,
            "timed": np.array(timed),
        }
        for name, value in new.items():
            self._buffers[name] = torch.from_numpy(np.array(value))

    def layer(self, step: int) -> slice:
        """The pairs of a step."""
        return slice(int(self.bounds[step]), int(self.bounds[step + 1]))

    @property
    def first_law(self) -> Law:
        """Laws of the return from the first layer's pairs, [n, K]."""
        return Law(self.values.numpy(), self.probabilities.numpy())

    def load_state_dict(self, state_dict: Any, *arguments: Any, **named: Any) -> Any:
        """As torch's; the sizes are those of the plan that is loaded."""
        for name, value in state_dict.items():
            if name in self._buffers:
                self._buffers[name] = torch.empty_like(value, device="cpu")
        return super().load_state_dict(state_dict, *arguments, **named)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], Any]:
        """As SB3's; a plan does not draw, `deterministic` or not.

        Raises:
            ValueError: a step is beyond the horizon, or play cannot come to a state with a stock.
        """
        seen, batched = self.obs_to_tensor(observation)
        assert isinstance(seen, dict)
        states = seen[OBSERVATION].numpy().reshape(-1).astype(np.int64)
        stocks = seen[STOCK].numpy().reshape(-1).astype(np.float64)
        steps = np.zeros(len(states), np.int64)
        if self.timed:
            steps = steps if state is None else np.array(state[0])
            if episode_start is not None:
                steps[np.asarray(episode_start, dtype=bool)] = 0
            state = (steps + 1,)
        actions = np.empty(len(states), np.int64)
        for step in np.unique(steps):
            rows = steps == step
            actions[rows] = self._planned(int(step), states[rows], stocks[rows])
        return actions if batched else actions[0], state

    def _planned(self, step: int, states: Integers, stocks: Floats) -> Integers:
        """The actions of one step: those of the nearest stock."""
        if step >= len(self.bounds) - 1:
            raise ValueError(
                f"step {step} is beyond the horizon {len(self.bounds) - 1}: say with "
                "`episode_start` where an episode begins"
            )
        rows = self.layer(step)
        empty = np.zeros((0, 0, 0))
        nowhere = Outcomes(empty, empty.astype(np.int64), empty)
        kept, held = self.states[rows].numpy(), self.stocks[rows].numpy()
        layer = Layer(kept, held, nowhere)
        # The steps before are not looked at, but counted where a pair is refused.
        plan = StockPlan([layer] * (step + 1), [self.actions[rows].numpy()] * (step + 1), [], [])
        return stock_actions(plan, step, states, stocks, within=NEAR if self.timed else np.inf)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return torch.from_numpy(np.atleast_1d(self.predict(observation)[0]))


class StockPlanner(Algorithm):
    """Base of the agents that plan over pairs of state and stock. A subclass writes `sweep`.

    A timestep is a step of an environment, with the plan so far; a sweep over all pairs follows.

    Args:
        policy: "StockTablePolicy".
        env: a `FiniteMDP` in a `StockWrapper` with this gamma. With a horizon, its episodes start
            in one state and with one of `stocks`.
        gamma: discount factor in (0, 1].
        utility: f of K = E f: a `Utility` or its numbers, or a function of arrays, with which an
            agent cannot be saved.
        stocks: increasing; with a horizon those to start with, else the grid of all. None: 41 up
            to the largest return that rewards allow, in size.
        returns: increasing, the grid of returns without a horizon (`project_categorical`). None: 81
            in the same range.
        width: stocks and returns that round to the same multiple of it are one, with a horizon.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`; a table lives on
            the CPU.

    Raises:
        ValueError: an argument is out of range, or the environment is none of these.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"StockTablePolicy": StockTablePolicy}
    policy: StockTablePolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        stocks: ArrayLike | None = None,
        utility: Any = SHORTFALL,
        gamma: float = 1.0,
        returns: ArrayLike | None = None,
        width: float = WIDTH,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        next_stock(0.0, 0.0, gamma)  # refuses a gamma for which there is no stock
        self.gamma, self.width = gamma, width
        self.stocks = None if stocks is None else increasing("stocks", stocks).tolist()
        self.returns = None if returns is None else increasing("returns", returns).tolist()
        function = callable(utility) and not isinstance(utility, Utility)
        self.utility = utility if function else check_utility(utility)
        if gamma < 1 and not ranks_alike(self.utility.__call__, gamma):
            warnings.warn(
                f"utility={utility!r} may rank laws otherwise when they are multiplied by "
                f"gamma={gamma}: the greedy step is then not that of the whole return",
                stacklevel=2,
            )
        self._memory: Any = None
        super().__init__(policy, env, device=on_cpu(device), **common)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        if self.env is not None:
            self._look()

    def _setup_learn(self, *arguments: Any, **named: Any) -> tuple[int, BaseCallback]:
        """As the base's; what was planned for another world is forgotten."""
        found = super()._setup_learn(*arguments, **named)
        if np.all(self._last_episode_starts):
            self._memory = None
        self._look()
        return found

    def _look(self) -> None:
        """Read the environment's tables; where they are new, start from action 0."""
        assert self.env is not None
        check_stocks(self.env, self.gamma)
        core: Any = self.env.get_attr("core")[0] if self.env.has_attr("core") else None
        if not hasattr(core, "tables"):
            raise ValueError(f"{type(self).__name__} needs a FiniteMDP, got {self.env}")
        outcomes, self.timed = outcomes_by_step(core), core.horizon is not None
        self._start, self._points = np.asarray(core.d0), self._grid("stocks", 41, core, outcomes)
        if self.timed:
            if np.count_nonzero(core.d0) > 1:
                raise ValueError("with a horizon, all episodes must start in one state")
            steps = outcomes * (core.horizon // len(outcomes))
            start = int(core.d0.argmax())
            layers = stock_layers(
                steps, start, self._points, self.gamma, core.horizon, width=self.width
            )
            self.reduce: Reduce = partial(merge, width=self.width)
        else:
            layers = [stock_grid(outcomes[0], self._points, self.gamma)]
            grid = self._grid("returns", 81, core, outcomes)
            self.reduce = partial(project_categorical, grid=grid)
        self.layers, policy = layers, self.policy
        states, stocks = (np.concatenate([layer[k] for layer in layers]) for k in (0, 1))
        if not (np.array_equal(policy.states, states) and np.array_equal(policy.stocks, stocks)):
            idle = [np.zeros(len(layer.states), np.int64) for layer in layers]
            scores = [self.utility(layer.stocks) for layer in layers]
            policy.put(StockPlan(layers, idle, [nothing(len(idle[0]))], scores), self.timed)

    def _grid(self, name: str, size: int, core: Any, outcomes: Sequence[Outcomes]) -> Floats:
        """The argument of that name, or as many values up to the largest return in size."""
        if (given := getattr(self, name)) is not None:
            return np.array(given)
        if not self.timed and self.gamma == 1:
            raise ValueError(f"without a horizon and with gamma=1, give a grid: {name}=[...]")
        largest = max(float(np.abs(step.reward).max()) for step in outcomes)
        steps = (
            (self.gamma ** np.arange(core.horizon)).sum() if self.timed else 1 / (1 - self.gamma)
        )
        bound = max(largest * float(steps), 1.0)
        return np.linspace(-bound, bound, size)

    @property
    def score(self) -> Score:
        """K."""
        return expected(self.utility)

    def sweep(self) -> StockPlan:
        """All pairs once: a plan for `layers`, with this `score`, `gamma` and `reduce`."""
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        """One step of every environment, and a sweep."""
        assert self.env is not None
        assert isinstance(self._last_obs, dict) and self._last_episode_starts is not None
        actions, self._memory = self.predict(
            self._last_obs, self._memory, self._last_episode_starts, deterministic=True
        )
        following, rewards, dones, infos = self.env.step(actions)
        assert isinstance(following, dict)
        self._last_obs, self._last_episode_starts = following, dones
        self.num_timesteps += self.env.num_envs
        self._update_info_buffer(infos, dones)
        before = self.policy.actions.numpy()
        self.policy.put(self.sweep(), self.timed)
        return {
            "train/score": float(self.policy.scores[self.policy.layer(0)].mean()),
            "train/changed": float((self.policy.actions.numpy() != before).sum()),
            "rollout/reward": float(rewards.mean()),
            "rollout/stock": float(following[STOCK].mean()),
        }

    def return_law(self, stock: float) -> Law:
        """The law of the return of an episode that starts with one of `stocks`, [K].

        Raises:
            ValueError: it is none of them.
        """
        found = np.flatnonzero(np.isclose(self._points, stock, rtol=NEAR, atol=NEAR))
        if not len(found):
            raise ValueError(f"stock={stock} is none of the planned ones")
        law, row = self.policy.first_law, int(found[0])
        if self.timed:
            return merge(Law(law.values[row], law.probabilities[row]))
        rows = np.arange(len(self._start)) * len(self._points) + row
        return merge(Law(law.values[row], self._start @ law.probabilities[rows]))

    def start_stock(self, level: float) -> tuple[float, float]:
        """Where to start for the conditional value at risk at a level, and its dual value.

        Raises:
            ValueError: f is not min(x, 0), or level is outside (0, 1].
        """
        if self.utility != SHORTFALL:
            raise ValueError(f"the utility is {self.utility}; levels of risk need {SHORTFALL}")
        scores = self.policy.scores[self.policy.layer(0)].numpy()
        if not self.timed:
            scores = self._start @ scores.reshape(-1, len(self._points))
        best, value = best_start_stock(self._points, scores, level)
        return float(self._points[best]), value

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Where episodes start, and the start stocks."""
        tensors = {"start": self._start, "points": self._points}
        found = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
        return {"timed": self.timed}, found

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.timed = values["timed"]
        self._start, self._points = (tensors[name].numpy().copy() for name in ("start", "points"))

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Steps taken in the present episodes."""
        return {"steps": None if self._memory is None else self._memory[0].tolist()}, {}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self._memory = None if values["steps"] is None else (np.array(values["steps"]),)
