"""How attributes and methods of the sub-environments of a Gymnasium vector are reached.

Gymnasium has no common way: a `SyncVectorEnv` holds environments, an `AsyncVectorEnv` talks to
other processes, and in a native vector a sub-environment is one row of a batch.
`sub_environments(vector)` returns the `SubEnvironments` that fits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

# Methods of a native vector that answer for all rows at once, in order.
ROW_METHODS = ("action_masks", "render")


class SubEnvironments(ABC):
    """Reaches attributes and methods of chosen sub-environments; `rows` are indices in [0, n)."""

    def __init__(self, vector: VectorEnv) -> None:
        self.vector = vector

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether every sub-environment has the attribute or method `name`."""

    @abstractmethod
    def get(self, name: str, rows: Sequence[int]) -> list[Any]:
        """The attribute `name` of each of `rows`; AttributeError where there is none."""

    @abstractmethod
    def set(self, name: str, value: Any, rows: Sequence[int]) -> None:
        """Set the attribute `name` of each of `rows` to `value`."""

    @abstractmethod
    def call(
        self, name: str, rows: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Any]:
        """What the method `name` of each of `rows` returns."""

    @abstractmethod
    def is_wrapped(self, wrapper: type, rows: Sequence[int]) -> list[bool]:
        """Whether each of `rows` is wrapped in `wrapper`, as far as this process can see."""

    def require(self, name: str) -> None:
        """AttributeError unless every sub-environment has `name`."""
        if not self.has(name):
            raise AttributeError(
                f"the sub-environments of {self.vector} have no attribute {name!r}"
            )

    def require_all(self, rows: Sequence[int], what: str, reason: str) -> None:
        """ValueError unless `rows` are all rows."""
        count = self.vector.num_envs
        if sorted(set(rows)) != list(range(count)):
            raise ValueError(
                f"{what} for {list(rows)} only: {reason}, so indices must be None or name all "
                f"{count} sub-environments"
            )


class Separate(SubEnvironments):
    """`SyncVectorEnv`: one `gymnasium.Env` each, in this process."""

    def __init__(self, vector: VectorEnv, environments: list[gym.Env]) -> None:
        super().__init__(vector)
        self.environments = environments

    def has(self, name: str) -> bool:
        return all(environment.has_wrapper_attr(name) for environment in self.environments)

    def get(self, name: str, rows: Sequence[int]) -> list[Any]:
        return [self.environments[row].get_wrapper_attr(name) for row in rows]

    def set(self, name: str, value: Any, rows: Sequence[int]) -> None:
        for row in rows:
            self.environments[row].set_wrapper_attr(name, value)

    def call(
        self, name: str, rows: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Any]:
        return [method(*args, **kwargs) for method in self.get(name, rows)]

    def is_wrapped(self, wrapper: type, rows: Sequence[int]) -> list[bool]:
        def wrapped(environment: gym.Env) -> bool:
            while isinstance(environment, gym.Wrapper):
                if isinstance(environment, wrapper):
                    return True
                environment = environment.env
            return False

        return [wrapped(self.environments[row]) for row in rows]


class Remote(SubEnvironments):
    """A vector with Gymnasium's `call`, such as `AsyncVectorEnv`: always all rows, elsewhere.

    As in Gymnasium, getting an attribute that is a method calls it without arguments.
    """

    def __init__(self, vector: VectorEnv, call_all: Callable[..., Sequence[Any]]) -> None:
        super().__init__(vector)
        self.call_all = call_all

    def has(self, name: str) -> bool:
        # Asking for a missing attribute would end the worker processes; this question does not.
        return all(self.call_all("has_wrapper_attr", name))

    def get(self, name: str, rows: Sequence[int]) -> list[Any]:
        self.require(name)
        values = self.call_all(name)
        return [values[row] for row in rows]

    def set(self, name: str, value: Any, rows: Sequence[int]) -> None:
        self.require_all(rows, f"set_attr({name!r})", f"{self.vector} sets one for all")
        self.call_all("set_wrapper_attr", name, value)

    def call(
        self, name: str, rows: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Any]:
        self.require(name)
        self.require_all(rows, f"env_method({name!r})", f"{self.vector} calls a method on all")
        values = self.call_all(name, *args, **kwargs)
        return [values[row] for row in rows]

    def is_wrapped(self, wrapper: type, rows: Sequence[int]) -> list[bool]:
        return [False for _ in rows]  # the wrappers live in other processes


class Rows(SubEnvironments):
    """A native vector: sub-environments are rows of its arrays and share its attributes."""

    def __init__(self, vector: VectorEnv) -> None:
        super().__init__(vector)
        layers: list[VectorEnv] = [vector]
        while isinstance(layers[-1], VectorWrapper):
            layers.append(layers[-1].env)
        self.layers = layers

    def holders(self, name: str) -> list[Any]:
        """The layers of the vector, then its batched core, that have the attribute `name`."""
        core = getattr(self.layers[-1], "core", None)
        # The core's functions of these names take a state; they are no methods of an environment.
        in_core = core is not None and name not in ROW_METHODS
        candidates = [*self.layers, core] if in_core else self.layers
        return [holder for holder in candidates if hasattr(holder, name)]

    def has(self, name: str) -> bool:
        return bool(self.holders(name))

    def get(self, name: str, rows: Sequence[int]) -> list[Any]:
        self.require(name)
        if name in ROW_METHODS:
            return [partial(self.call_row, name, row) for row in rows]
        value = getattr(self.holders(name)[0], name)
        return [value for _ in rows]

    def set(self, name: str, value: Any, rows: Sequence[int]) -> None:
        self.require_all(
            rows, f"set_attr({name!r})", f"the rows of {self.vector} share their attributes"
        )
        holders = self.holders(name)
        setattr(holders[0] if holders else self.layers[-1], name, value)

    def call(
        self, name: str, rows: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Any]:
        if name not in ROW_METHODS:
            raise AttributeError(
                f"the sub-environments of {self.vector} are rows of a batch: env_method offers "
                f"{' and '.join(ROW_METHODS)}, got {name!r}; call the vector's own method instead"
            )
        self.require(name)
        batch = getattr(self.holders(name)[0], name)(*args, **kwargs)
        if batch is None and name == "action_masks":
            raise AttributeError(f"the actions of {self.vector} are not masked")
        return [None if batch is None else batch[row] for row in rows]

    def call_row(self, name: str, row: int, *args: Any, **kwargs: Any) -> Any:
        """What the row method `name` returns for one row."""
        return self.call(name, [row], args, kwargs)[0]

    def is_wrapped(self, wrapper: type, rows: Sequence[int]) -> list[bool]:
        wrapped = any(isinstance(layer, wrapper) for layer in self.layers)
        return [wrapped for _ in rows]


def sub_environments(vector: VectorEnv) -> SubEnvironments:
    """The way to reach the sub-environments of `vector`."""
    base = vector.unwrapped
    if isinstance(base, SyncVectorEnv):
        return Separate(vector, base.envs)
    call_all = getattr(base, "call", None)
    if callable(call_all):
        return Remote(vector, call_all)
    return Rows(vector)
