"""A stock beside the observation: one number that accounts for what an episode has earned.

env = StockWrapper(gym.make("IncomeGamble-v0"), stock=(-8.0, 2.0))
env.reset(options={"stock": -5.0})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ..envs.checks import check_number
from ..envs.tabular.planning.stock import next_stock
from .episode_noise import EpisodeNoise

OBSERVATION, STOCK = "observation", "stock"
Start = float | Sequence[float] | Callable[[np.random.Generator], float]


class StockWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Shows a stock c with which an agent can optimise more than the mean of the return.

        c' = (c + r) / gamma,   so that   c + r + gamma G' = gamma (c' + G')

    after a reward r: the stock plus the discounted return to come is the same number throughout an
    episode, up to powers of gamma. Whoever wants a law of c_0 + G that is best for something (its
    conditional value at risk, its distance from 0) needs to know c, and nothing else of the past.

    The start stock is drawn by a generator of the wrapper's own, seeded with the reset; starts and
    steps of the environment are those that it has without the wrapper.

    Observation: `Dict` of "observation" (the environment's; those of a `Dict` as they are) and
    "stock", `Box(-inf, inf, (1,))`, float32. With `concatenate` a flat `Box` of floats, the stock
    last. `info["stock"]` holds it in full precision.

    `reset(options={"stock": x})` starts with x; other options go to the environment.

    Args:
        env: any environment with scalar rewards.
        gamma: discount factor in (0, 1], that of the agent.
        stock: with which episodes start: a number, a range (low, high) from which it is drawn
            uniformly, or a function of a generator.
        concatenate: one flat vector instead of a dictionary.

    Attributes:
        stock: the present one.
        stock_gamma: gamma, under a name that an environment does not have itself.

    Raises:
        ValueError: gamma is outside (0, 1], the start is no number or range, the environment shows
            a "stock" already, or its observations are no flat `Box` of floats to append to.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        gamma: float = 1.0,
        stock: Start = 0.0,
        *,
        concatenate: bool = False,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, gamma=gamma, stock=stock, concatenate=concatenate
        )
        super().__init__(env)
        next_stock(0.0, 0.0, gamma)  # refuses a gamma for which there is no stock
        self.stock_gamma, self.stock = float(gamma), 0.0
        self._start, self._concatenate = _check_start(stock), concatenate
        self.observation_space = _space(env.observation_space, concatenate)
        self._noise = EpisodeNoise(self)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode; `options["stock"]` is what it starts with.

        Raises:
            ValueError: that is no finite number.
        """
        rest = dict(options or {})
        generator, asked = self._noise.begin(seed), STOCK in rest
        given = rest.pop(STOCK, None)
        drawn = self._start(generator) if callable(self._start) else self._start
        # Drawn all the same, so that later episodes do not depend on what was asked for.
        self.stock = check_number("options['stock']", given) if asked else float(drawn)
        seen, info = self.env.reset(seed=seed, options=rest or None)
        return self._with_stock(seen), {**info, STOCK: self.stock}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the environment; its reward goes into the stock."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        self.stock = float(next_stock(self.stock, float(reward), self.stock_gamma))
        info = {**info, STOCK: self.stock}
        return self._with_stock(seen), reward, terminated, truncated, info

    def get_state(self) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """The stock, and what decides with which later episodes start."""
        return {STOCK: np.array(self.stock)}, [self._noise.get_state()]

    def set_state(
        self, arrays: Mapping[str, NDArray[Any]], generators: Sequence[Mapping[str, Any]]
    ) -> None:
        """Go on from what `get_state` returned."""
        self.stock = float(arrays[STOCK])
        self._noise.set_state(generators[0])

    def _with_stock(self, seen: Any) -> Any:
        stock = np.array([self.stock], dtype=np.float32)
        if self._concatenate:
            return np.concatenate([seen, stock]).astype(self.observation_space.dtype)
        return {**(seen if isinstance(seen, dict) else {OBSERVATION: seen}), STOCK: stock}


def _check_start(stock: Any) -> float | Callable[[np.random.Generator], float]:
    if callable(stock):
        return stock
    if np.ndim(stock) == 0:
        return check_number("stock", stock)
    ends = [check_number("stock", end) for end in stock]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"stock={stock!r} must be a number, a range (low, high) or a function")
    return lambda generator: float(generator.uniform(ends[0], ends[1]))


def _space(seen: spaces.Space[Any], concatenate: bool) -> spaces.Space[Any]:
    """Observations with a stock."""
    stock = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    if not concatenate:
        parts = dict(seen.spaces) if isinstance(seen, spaces.Dict) else {OBSERVATION: seen}
        if STOCK in parts:
            raise ValueError(f"the environment shows a {STOCK!r} already: {seen}")
        return spaces.Dict({**parts, STOCK: stock})
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1 or seen.dtype.kind != "f":
        raise ValueError(f"a stock is concatenated to a flat Box of floats, got {seen}")
    low, high = np.append(seen.low, stock.low), np.append(seen.high, stock.high)
    return spaces.Box(low, high, dtype=seen.dtype.type)


def check_stocks(env: VecEnv, gamma: float) -> None:
    """ValueError unless an environment shows stocks, kept with this gamma."""
    if not env.has_attr("stock_gamma"):
        raise ValueError(f"{env} shows no stock: use StockWrapper")
    if wrong := [found for found in env.get_attr("stock_gamma") if found != gamma]:
        raise ValueError(f"the agent has gamma={gamma}, its StockWrapper {wrong[0]}")
