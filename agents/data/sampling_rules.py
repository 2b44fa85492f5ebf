"""Rules for spending a budget of training data over groups: the baselines of adaptive sampling.

equal          the group with the fewest samples
proportional   the group that has the fewest samples for its share of the population
worst first    the group whose model does worst on validation
random         any group

Ties go to the lowest group. All are for `EquitableSampling-v0`, or an environment with its
observations. `hindsight_sampling.py` has the optimum that they are measured by.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...envs.data.equitable_sampling import split_observation
from ..base.stepping import Mask
from .sampling import Array, GroupPolicy, SamplingAlgorithm, first_best


class FewestPolicy(GroupPolicy):
    """The group with the fewest samples."""

    def scores(self, observations: NDArray[Any]) -> Array:
        """-n, [n, G]."""
        return -split_observation(observations, self.groups)["n"]


class ProportionalPolicy(GroupPolicy):
    """The group with the fewest samples for its `population` [G], a share in (0, 1)."""

    population: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        equal = torch.full((self.groups,), 1 / self.groups, dtype=torch.float64)
        self.register_buffer("population", equal)

    def scores(self, observations: NDArray[Any]) -> Array:
        """-n / share, [n, G]; -inf where nobody belongs to the group."""
        shares, n = self.population.numpy(), split_observation(observations, self.groups)["n"]
        return np.where(shares > 0, -n / np.where(shares > 0, shares, 1.0), -np.inf)


class WorstPolicy(GroupPolicy):
    """The group whose model did worst on validation."""

    def scores(self, observations: NDArray[Any]) -> Array:
        """-performance, [n, G]."""
        return -split_observation(observations, self.groups)["validation"]


class UniformPolicy(GroupPolicy):
    """Any group; the lowest where a deterministic choice is asked for."""

    def scores(self, observations: NDArray[Any]) -> Array:
        """All the same, [n, G]."""
        return np.zeros((len(observations), self.groups))


class EqualSampling(SamplingAlgorithm):
    """The same number of samples for every group. Arguments are those of `SamplingAlgorithm`."""

    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": FewestPolicy}


class ProportionalSampling(SamplingAlgorithm):
    """Samples in proportion to the population, which the environment tells.

    Arguments are those of `SamplingAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": ProportionalPolicy}
    policy: ProportionalPolicy

    def begin(self) -> None:
        """Ask for the population."""
        self.policy.population[:] = torch.as_tensor(self.of_env("population"))


class WorstFirstSampling(SamplingAlgorithm):
    """Always for the group that is worst off. Arguments are those of `SamplingAlgorithm`."""

    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": WorstPolicy}


class RandomSampling(SamplingAlgorithm):
    """Every batch for a group at random. `predict` returns the lowest group that is allowed.

    Arguments are those of `SamplingAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": UniformPolicy}

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """Uniform over the groups that are allowed, [n]."""
        draws = self.generator.random((len(observations), self.policy.groups))
        return first_best(draws, masks)
