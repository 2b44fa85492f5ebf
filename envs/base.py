"""One batched core, three faces: what every array environment of the suite stands on.

An environment is a subclass of `ArrayCore`: pure functions over a batch of independent episodes,
written with the array API so that they run on NumPy arrays and on torch tensors. From that one
class come

- `ArrayEnv`, a `gymnasium.Env` (a batch of one),
- `ArrayVectorEnv`, a native `gymnasium.vector.VectorEnv`,
- `ArrayCore.torch()`, the same functions on tensors, differentiable where the dynamics are.

Everything random that does not depend on the agent is drawn at reset into the *tape*, from the
generator of that sub-environment alone. Sub-environment `i` of a vector reset with seed `s` is
therefore the single environment reset with `s + i`, bit for bit, whatever the other
sub-environments do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    import torch

# A dictionary of arrays (NumPy or torch) whose first axis is the batch of episodes.
Arrays = dict[str, Any]


class ArrayCore:
    """The dynamics of an environment as pure functions over a batch of `n` episodes.

    A subclass sets `observation_space` and `action_space` (of one environment) and writes the
    functions below. None of them may change its arguments. Randomness lives in the tape only.

    Attributes:
        arrays: names of the attributes that `torch()` turns into tensors.
        reward_scale: rewards are reported per this many units (e.g. stores); it never enters
            `reward`.
        block: for a continuing task, the number of steps that one tape lasts; then a new one is
            drawn from the same generator. None: an episode never outlives its tape.
        horizon: steps after which an episode is over at the latest; None where there is no bound,
            or none that a planner may count on (`FiniteMDP` with `max_steps`).
        ignore: warm-up steps at the start of an episode that reports leave out.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}
    arrays: ClassVar[tuple[str, ...]] = ()
    observation_space: gym.Space
    action_space: gym.Space
    reward_scale: float = 1.0
    block: int | None = None
    horizon: int | None = None
    ignore: int = 0

    # -- the functions that an environment writes -------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Draw the exogenous randomness of ONE episode: arrays without a batch axis."""
        raise NotImplementedError

    def initial(self, tape: Arrays) -> Arrays:
        """First state of each episode of a batched tape. State `t` [n] counts the steps of the
        tape."""
        raise NotImplementedError

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """State after one step."""
        raise NotImplementedError

    def observation(self, state: Arrays) -> Any:
        """What the agent sees, [n, ...]; a dictionary of such arrays where the space is a
        `Dict`."""
        raise NotImplementedError

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Reward of a step, [n]."""
        raise NotImplementedError

    def terminal(self, state: Arrays) -> Any:
        """Whether the task has ended in this state, bool [n]."""
        return np.zeros(len(state["t"]), dtype=bool)

    def truncated(self, state: Arrays) -> Any:
        """Whether the episode is cut here (the value beyond is bootstrapped), bool [n]."""
        return np.zeros(len(state["t"]), dtype=bool)

    def info(self, state: Arrays) -> Arrays:
        """What `info` reports of a state, arrays [n, ...]."""
        return {}

    def action_masks(self, state: Arrays) -> Any | None:
        """Feasible actions, bool [n, actions]; None where every action is always feasible."""
        return None

    def check_action(self, action: Any, state: Arrays) -> Any:
        """Return the batched action as an array, or say what is wrong with it.

        Raises:
            ValueError: wrong shape, not a number, or outside the action space.
        """
        return check_in_space(self.action_space, action)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """Picture of episode `index`, uint8 [height, width, 3]."""
        raise NotImplementedError

    # -- what every environment gets --------------------------------------------------------------

    def tapes(
        self, n: int, seed: int, options: Sequence[Mapping[str, Any]] | None = None
    ) -> Arrays:
        """Batched tape of `n` episodes; episode i is the one of `env.reset(seed=seed + i)`.

        Args:
            n: number of episodes.
            seed: seed of the first one.
            options: reset options of each episode.
        """
        choices = options or [{}] * n
        return stack(
            [self.draw_tape(np.random.default_rng(seed + i), choices[i]) for i in range(n)]
        )

    def scenarios(self, n: int, seed: int) -> Arrays:
        """Tapes to learn from: `n` episodes by default; all series of a recorded trace, for
        instance."""
        return self.tapes(n, seed)

    def validation(self) -> ArrayCore:
        """The core on which a learner chooses its best parameters; the same law, if nothing else is
        set."""
        return self

    def describe(self) -> dict[str, Any]:
        """What a saved policy must know of the task, as JSON; `from_description` is the inverse."""
        return {}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ArrayCore:
        """A core good for predicting: spaces, network and statistics, without the means to draw
        tapes."""
        raise NotImplementedError(f"{cls.__name__} describes nothing")

    def torch(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> ArrayCore:
        """Face 3: a copy of this core whose functions take and return torch tensors.

        Args:
            device: where the parameters of the dynamics are put.
            dtype: floating point type, float32 by default.
        """
        core = copy.copy(self)
        for name in self.arrays:
            value = getattr(self, name)
            tensor = (
                value.torch(device) if isinstance(value, Groups) else to_torch(value, device, dtype)
            )
            setattr(core, name, tensor)
        return core


class Groups:
    """Sums of columns that belong to the same group; in NumPy bit-identical for every batch size.

    Args:
        index: int [columns], group of each column.
        size: number of groups.
    """

    def __init__(self, index: np.ndarray, size: int) -> None:
        self.size = size
        self.index: Any = index
        self.order = np.argsort(index, kind="stable")
        self.in_order = bool((self.order == np.arange(len(index))).all())
        self.present, self.starts = np.unique(index[self.order], return_index=True)

    def sum(self, values: Any) -> Any:
        """[n, columns] -> [n, size], zero for groups without a column."""
        if not isinstance(values, np.ndarray):
            return values.new_zeros(len(values), self.size).index_add(1, self.index, values)
        result = np.zeros((len(values), self.size), dtype=values.dtype)
        if len(self.present):
            ordered = values if self.in_order else values[:, self.order]
            result[:, self.present] = np.add.reduceat(ordered, self.starts, axis=1)
        return result

    def torch(self, device: str | torch.device) -> Groups:
        """The same sums for tensors on `device`."""
        groups = copy.copy(self)
        groups.index = to_torch(self.index, device)
        return groups


def check_in_space(space: gym.Space, action: Any) -> np.ndarray:
    """The batched action [n, ...] as an array of the space's type.

    Raises:
        ValueError: says which entry lies outside and what is allowed.
    """
    given = np.asarray(action)
    if given.shape[1:] != space.shape:
        raise ValueError(f"action has shape {given.shape[1:]}, the action space is {space}")
    if isinstance(space, gym.spaces.Box):
        if given.dtype.kind not in "iuf":
            raise ValueError(
                f"action has type {given.dtype}, the action space {space} takes numbers"
            )
        outside = ~((given >= space.low) & (given <= space.high))  # also true for NaN
        if outside.any():
            row, *place = np.argwhere(outside)[0]
            where = tuple(int(i) for i in place)
            raise ValueError(
                f"action {given[row][where]} at {where} of sub-environment {row} is outside "
                f"[{space.low[where]}, {space.high[where]}]"
            )
        return given.astype(np.float64)
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"action has type {given.dtype}, the action space {space} takes integers")
    if isinstance(space, gym.spaces.Discrete):
        low, high = space.start, space.start + space.n
    elif isinstance(space, gym.spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec
    elif isinstance(space, gym.spaces.MultiBinary):
        low, high = 0, 2
    else:
        raise ValueError(f"array environments have no actions of the kind {space}")
    outside = (given < low) | (given >= high)
    if np.any(outside):
        row = int(np.argwhere(outside)[0][0])
        raise ValueError(f"action {given[row]} of sub-environment {row} is outside {space}")
    return given.astype(np.int64)


def stack(tapes: Sequence[Arrays]) -> Arrays:
    """One batched tape from the tapes of single episodes."""
    return {name: np.stack([tape[name] for tape in tapes]) for name in tapes[0]}


def take(arrays: Arrays, rows: Any) -> Arrays:
    """The chosen rows of every array."""
    return {name: value[rows] for name, value in arrays.items()}


def put(arrays: Arrays, rows: Any, values: Arrays) -> Arrays:
    """A copy of `arrays` in which the chosen rows are replaced."""
    result = {}
    for name, value in arrays.items():
        result[name] = value.copy()
        result[name][rows] = values[name]
    return result


def to_torch(
    arrays: Any, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Any:
    """NumPy arrays (or a dictionary of them) as tensors; floats become `dtype` (default
    float32)."""
    import torch

    if isinstance(arrays, Mapping):
        return {name: to_torch(value, device, dtype) for name, value in arrays.items()}
    tensor = torch.as_tensor(np.array(arrays), device=device)
    return tensor.to(dtype or torch.float32) if tensor.is_floating_point() else tensor
