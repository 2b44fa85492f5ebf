"""DetaN: the deep form of stock-augmented distributional dynamic programming.

Bernardo Avila Pires, Mark Rowland, Diana Borsa, Zhaohan Daniel Guo, Khimya Khetarpal, Andre
Barreto, David Abel, Remi Munos, Will Dabney: Optimizing Return Distributions with Distributional
Dynamic Programming (JMLR 2025, arXiv 2501.13028). The exact form is in `distributional_dp.py`.

QR-DQN whose observations carry a stock c (`StockWrapper`) and whose greedy action weighs it,

    score(s, c, a) = mean_i f(c + theta_i(s, c, a)),    c' = (c + r) / gamma.

Start stocks are drawn anew for every episode, so that one network serves all of them, and with
f(x) = min(x, 0) all levels of the conditional value at risk: a level only decides where to start,
at argmax_c { -c + score(s_0, c) / level }. What happens in the environment does not depend on the
stock, so a transition is as good an example of one stock as of any other: `replay_stocks` has them
drawn anew whenever a transition is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from ...envs.checks import check_number
from ...envs.tabular.grid_world import GridWorld
from ...envs.tabular.planning.laws import Floats, Law, cvar
from ...envs.tabular.planning.stock import (
    Layer,
    best_start_stock,
    next_stock,
    stock_layers,
    stock_policy_evaluation,
    stock_value_iteration,
)
from ...wrappers.stock import OBSERVATION, STOCK, StockWrapper, check_stocks
from ..base.declare import Example, Outcome
from ..base.quantile_dqn import (
    QRDQN,
    QuantileMultiInputPolicy,
    QuantileNetwork,
    QuantilePolicy,
)
from ..base.stock_planning import outcomes_by_step
from ..base.utility import SHORTFALL, Utility, check_utility, expected

Integers = NDArray[np.int64]


def stock_of(obs: Any) -> Any:
    """The stocks [n, 1] of observations."""
    return obs[STOCK] if isinstance(obs, dict) else obs[:, -1:]


def with_stock(obs: Any, stock: Any) -> Any:
    """Observations with other stocks [n, 1]."""
    if isinstance(obs, dict):
        return {**obs, STOCK: stock}
    changed = obs.clone() if isinstance(obs, torch.Tensor) else obs.copy()
    changed[:, -1:] = stock
    return changed


class StockNetwork(QuantileNetwork):
    """Quantiles that depend on the stock, and the mean of f(c + theta_i) as an action's score.

    Beside what the extractor makes of it, the stock goes through a layer of its own.

    Args:
        utility: f.
        stock_features: size of that layer.
        stock_range: (low, high), beyond which a stock counts as the nearer end; None: no bounds.
        arguments: of `QuantileNetwork`.
    """

    def __init__(
        self,
        *,
        utility: Utility,
        stock_features: int,
        stock_range: Sequence[float] | None,
        **arguments: Any,
    ) -> None:
        self.extra_features = stock_features
        super().__init__(**arguments)
        self.utility, self.stock_range = utility, stock_range
        self.stock_net = nn.Sequential(nn.Linear(1, stock_features), self.activation_fn())

    def features(self, obs: PyTorchObs) -> torch.Tensor:
        """What the last layers see of observations, [n, F]."""
        obs = with_stock(obs, self.counted(obs))
        return torch.cat([super().features(obs), self.stock_net(stock_of(obs))], dim=1)

    def counted(self, obs: PyTorchObs) -> torch.Tensor:
        """The stocks as they count, [n, 1]."""
        stock: torch.Tensor = stock_of(obs)
        return stock if self.stock_range is None else stock.clamp(*self.stock_range)

    def score(self, obs: PyTorchObs, theta: torch.Tensor) -> torch.Tensor:
        """mean_i f(c + theta_i), [n, A], for laws [n, A, N]."""
        scores: torch.Tensor = self.utility(self.counted(obs)[:, :, None] + theta).mean(dim=2)
        return scores


class StockPolicy(QuantilePolicy):
    """`QuantilePolicy` with a `StockNetwork`.

    Args:
        observation_space, action_space, lr_schedule, arguments: as in `QuantilePolicy`.
        utility: f, as in `DetaN`.
        stock_features: size of the layer that only the stock goes through.
        stock_range: as in `StockNetwork`.
    """

    network_class = StockNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Any,
        utility: Any = SHORTFALL,
        stock_features: int = 32,
        stock_range: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        flat = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        shown = isinstance(observation_space, spaces.Dict) and STOCK in observation_space.spaces
        if not flat and not shown:
            raise ValueError(f"there is no stock in {observation_space}: use StockWrapper")
        self.stock_kwargs = {
            "utility": check_utility(utility),
            "stock_features": stock_features,
            "stock_range": stock_range,
        }
        super().__init__(observation_space, action_space, lr_schedule, **arguments)

    def make_q_net(self) -> QuantileNetwork:
        """A network of its own features."""
        self.network_kwargs |= self.stock_kwargs
        return super().make_q_net()


class StockMultiInputPolicy(StockPolicy, QuantileMultiInputPolicy):
    """`StockPolicy` for dictionaries of observations."""


def example_env(env: gym.Env[Any, Any]) -> StockWrapper:
    """Incomes and gambles with any stock that can matter in them."""
    return StockWrapper(env, stock=(-12.0, 2.0))


class DetaN(QRDQN):
    """Stock-augmented QR-DQN: acts for E f(c + return), with the arguments of SB3's `DQN`.

    Args:
        policy: "MultiInputPolicy", or "MlpPolicy" where the stock is concatenated.
        env: in a `StockWrapper` with this agent's gamma, and start stocks from a range.
        utility: f, a `Utility` or its numbers (above, below, power): `SHORTFALL` for the
            conditional value at risk, `CLOSENESS` for a set point, `IDENTITY` for the mean.
        replay_stocks: range (low, high) from which replayed transitions get a stock; None: that
            which they were seen with. The network knows no others: a stock beyond counts as the
            nearer end, which loses nothing for a utility that is linear on either side of 0 where
            the range holds minus every return that can matter.
        quantiles, kappa, arguments: as in `QRDQN`.

    Raises:
        ValueError: an argument is out of range, or the observations have no stock.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": StockPolicy,
        "MultiInputPolicy": StockMultiInputPolicy,
    }
    example = Example(
        "IncomeGamble-v0",
        policy="MultiInputPolicy",
        kwargs={**QRDQN.example.kwargs, "replay_stocks": [-12.0, 2.0]},
        steps=240,
        wrapper=example_env,
    )
    q_net: StockNetwork

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        utility: Any = SHORTFALL,
        replay_stocks: ArrayLike | None = None,
        gamma: float = 0.99,
        **arguments: Any,
    ) -> None:
        self.utility = check_utility(utility)
        next_stock(0.0, 0.0, gamma)  # refuses a gamma for which there is no stock
        self.replay_stocks = None
        if replay_stocks is not None:
            low, high = (check_number("replay_stocks", end) for end in np.asarray(replay_stocks))
            if not low < high:
                raise ValueError(f"replay_stocks={replay_stocks!r} must be (low, high)")
            self.replay_stocks = [low, high]
        super().__init__(policy, env, gamma=gamma, **arguments)

    def network_arguments(self) -> dict[str, Any]:
        """As the base's, with f."""
        own = {"utility": self.utility, "stock_range": self.replay_stocks}
        return {**super().network_arguments(), **own}

    def _setup_learn(self, *arguments: Any, **named: Any) -> tuple[int, BaseCallback]:
        """As SB3's; refuses an environment that keeps another stock."""
        assert self.env is not None
        check_stocks(self.env, self.gamma)
        return super()._setup_learn(*arguments, **named)

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Transitions to learn from, with other stocks where that is asked for."""
        batch = super().sample(batch_size)
        if self.replay_stocks is None:
            return batch
        low, high = self.replay_stocks
        stocks = low + (high - low) * torch.rand_like(batch.rewards)
        discount = self.gamma if batch.discounts is None else batch.discounts
        return batch._replace(
            observations=with_stock(batch.observations, stocks),
            next_observations=with_stock(
                batch.next_observations, (stocks + batch.rewards) / discount
            ),
        )

    def scores(self, observation: Any, stocks: ArrayLike) -> np.ndarray[Any, Any]:
        """Best mean of f(stock + theta_i) in an observation with each of the stocks [M].

        Args:
            observation: a single one; the stock that it shows does not matter.
            stocks: [M].
        """
        points = np.asarray(stocks, dtype=np.float32)[:, None]
        single, _ = self.policy.obs_to_tensor(observation)
        alike = np.zeros(len(points), np.int64)
        if isinstance(single, dict):
            rows: Any = {name: part[alike] for name, part in single.items()}
        else:
            rows = single[alike]
        with torch.no_grad():
            asked = with_stock(rows, torch.as_tensor(points, device=self.device))
            return self.q_net(asked).max(dim=1).values.cpu().numpy().astype(np.float64)

    def start_stock(self, observation: Any, stocks: ArrayLike, level: float) -> tuple[float, float]:
        """Where to start for the conditional value at risk, and what it promises to be.

        Args:
            observation: the first one of an episode.
            stocks: increasing candidates [M].
            level: in (0, 1]; 1 is the mean.

        Raises:
            ValueError: f is not min(x, 0), or level is out of range.
        """
        if self.utility != SHORTFALL:
            raise ValueError(f"the utility is {self.utility}; levels of risk need {SHORTFALL}")
        best, value = best_start_stock(stocks, self.scores(observation, stocks), level)
        return float(np.asarray(stocks)[best]), value


# -- the claim's part: a slippery walk through two rooms -------------------------------------------

TWO_ROOMS: dict[str, Any] = {
    **{"layout": "two_rooms", "size": 7, "slip": 0.1, "step_reward": -0.05, "max_steps": 40},
}
LEVELS = (0.25, 1.0)
STARTS = np.arange(-12, 7) * 0.05  # minus every return that is worth thinking of
# Minus every return that is still possible (the goal pays 1) and then some: where f(c + theta) is 0
# whatever is done, nothing corrects a theta that is too high.
REPLAYED = [-2.0, 0.3]
WALKS, STEPS = 16, 60_000
TUNING: dict[str, Any] = {
    **{"gamma": 1.0, "quantiles": 32, "learning_rate": LinearSchedule(1e-3, 1e-4, 1.0)},
    **{"buffer_size": STEPS, "learning_starts": 8_000, "batch_size": 64},
    **{"train_freq": 4, "gradient_steps": 16, "target_update_interval": 400},
    **{"exploration_fraction": 0.8, "exploration_final_eps": 0.2},
}


@cache
def exact_walk() -> tuple[list[Layer], list[Floats]]:
    """Pairs of the walk, step by step from the STARTS, and the best E min(c + G, 0) in them."""
    outcomes = outcomes_by_step(GridWorld(**TWO_ROOMS))[0]
    layers = stock_layers(outcomes, 0, STARTS, 1.0, TWO_ROOMS["max_steps"])
    score = expected(SHORTFALL)
    plan = stock_value_iteration(layers, score, 1.0)
    return layers, plan.scores


def walked(policy: Callable[[Integers, Floats], Integers]) -> Law:
    """Laws of the return of a walk from each of the STARTS, exactly.

    Args:
        policy: from states [n] and stocks [n] to actions [n].
    """
    layers, _ = exact_walk()
    actions = [policy(layer.states, layer.stocks) for layer in layers]
    return stock_policy_evaluation(layers, actions, 1.0)[0]


def shares(law: Law, rows: Sequence[int]) -> dict[str, float]:
    """Conditional values at risk, each from its own start, and how near they are to the best.

    Args:
        law: from each of the STARTS.
        rows: which start is taken for each of the LEVELS.
    """
    _, scores = exact_walk()
    found: dict[str, float] = {}
    for level, row in zip(LEVELS, rows, strict=True):
        value = float(cvar(law, level)[row])
        found[f"CVaR {level:g}"] = value
        found[f"share of exact CVaR {level:g}"] = (
            value / best_start_stock(STARTS, scores[0], level)[1]
        )
    return found


def detan_arm(seed: int, scale: float) -> Outcome:
    """One network for all levels of risk."""

    def make() -> StockWrapper:
        return StockWrapper(gym.make("GridWorld-v0", **TWO_ROOMS), stock=(STARTS[0], STARTS[-1]))

    agent = DetaN(
        "MultiInputPolicy",
        DummyVecEnv([make] * WALKS),
        seed=seed,
        device="cpu",
        replay_stocks=REPLAYED,
        **TUNING,
    ).learn(int(STEPS * scale), log_interval=None)

    def policy(states: Integers, stocks: Floats) -> Integers:
        seen: dict[str, Any] = {OBSERVATION: states, STOCK: stocks[:, None].astype(np.float32)}
        return agent.predict(seen, deterministic=True)[0]

    first = {OBSERVATION: np.zeros((), np.int64), STOCK: np.zeros(1, np.float32)}
    promised = [agent.start_stock(first, STARTS, level) for level in LEVELS]
    rows = [int(np.flatnonzero(STARTS == stock)[0]) for stock, _ in promised]
    metrics = shares(walked(policy), rows)
    for level, (_, value) in zip(LEVELS, promised, strict=True):
        metrics[f"promised CVaR {level:g}"] = value
    return Outcome(metrics)


def qr_dqn_arm(seed: int, scale: float) -> Outcome:
    """Without a stock: the mean of the same number of quantiles, with the same tuning."""

    def make() -> gym.Env[Any, Any]:
        return gym.make("GridWorld-v0", observation="onehot", **TWO_ROOMS)

    agent = QRDQN("MlpPolicy", DummyVecEnv([make] * WALKS), seed=seed, device="cpu", **TUNING)
    agent.learn(int(STEPS * scale), log_interval=None)

    def policy(states: Integers, stocks: Floats) -> Integers:
        shown = np.eye(TWO_ROOMS["size"] ** 2, dtype=np.float32)
        return agent.predict(shown[states], deterministic=True)[0]

    return Outcome(shares(walked(policy), [0] * len(LEVELS)))
