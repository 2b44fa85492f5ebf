"""The best values at points under a Lipschitz bound, and a policy that extends them.

v minimises sum |v_i - u_i|^2 subject to |v_i - v_j| <= alpha |x_i - x_j|: it is the projection of u
on an intersection of convex sets, so Dykstra's cyclic projections find it. A pair that is too steep
moves together, symmetrically, and keeps what it moved to take it back the next time. With
multipliers lambda_ij and their graph Laplacian L, v = (I + N L(lambda))^-1 u. Elsewhere, per
coordinate, the policy is in the middle between the lowest and the highest value that is allowed:

    upper(x) = min_i (v_i + alpha |x - x_i|),    lower(x) = max_i (v_i - alpha |x - x_i|)

J. P. Boyle, R. L. Dykstra, A Method for Finding Projections onto the Intersection of Convex Sets in
Hilbert Spaces (1986).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from stable_baselines3.common.policies import BasePolicy

from ..base.offline_data import OfflineDataset

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

# -- the computation ------------------------------------------------------------------------------


def tournament(order: Integers) -> Integers:
    """All pairs of N points in rounds of disjoint ones, so that a round is one projection.

    Args:
        order: the points in any order [N]; it decides who meets whom when.

    Returns:
        [R, P, 2], R = N - 1 for even N and N for odd N.
    """
    count = len(order)
    odd = count % 2
    circle = count - 1 + odd  # players that rotate; the last of an even number stays
    turn, step = np.arange(circle)[:, None], np.arange(1, (count + odd) // 2)[None]
    pairs = np.stack([(turn + step) % circle, (turn - step) % circle], axis=-1)
    if not odd:
        stays = np.stack([np.full(circle, count - 1), np.arange(circle)], axis=-1)
        pairs = np.concatenate([stays[:, None], pairs], axis=1)
    return order[pairs]


def steepness_limits(points: Array, alpha: float, neighbours: int | None = None) -> Array:
    """alpha |x_i - x_j| of all pairs [N, N]; infinite where there is no edge.

    Args:
        points: [N, n].
        alpha: at least 0.
        neighbours: a pair is an edge if one is among so many nearest points of the other; None: all
            pairs are.
    """
    distances = cdist(points, points)
    if neighbours is None or neighbours >= len(points) - 1:
        return alpha * distances
    others = distances + np.diag(np.full(len(points), np.inf))
    near = np.zeros(distances.shape, dtype=bool)
    closest = np.argsort(others, axis=1, kind="stable")[:, :neighbours]
    np.put_along_axis(near, closest, True, axis=1)
    return np.where(near | near.T, alpha * distances, np.inf)


def dykstra_sweep(
    values: Array, corrections: Array, pairs: Integers, limits: Array
) -> tuple[Array, Array]:
    """Project once on every pair's set; repeated, v converges to the projection on all of them.

    Args:
        values: v [N, m]; at first u.
        corrections: what each pair moved its first end by when it was last projected, and its
            second end by the opposite, [R, P, m]; at first 0.
        pairs: as `tournament` returns them, [R, P, 2].
        limits: greatest |v_i - v_j| of each pair, [N, N].

    Returns:
        v and corrections afterwards; v = u - sum of the corrections.
    """
    values, corrections = values.copy(), corrections.copy()
    for number, (first, second) in enumerate(zip(pairs[..., 0], pairs[..., 1], strict=True)):
        here, there = values[first] + corrections[number], values[second] - corrections[number]
        gap = here - there
        length = np.linalg.norm(gap, axis=-1)
        excess = np.maximum(length - limits[first, second], 0.0)
        move = 0.5 * (excess / np.where(length > 0, length, 1.0))[:, None] * gap
        values[first], values[second], corrections[number] = here - move, there + move, move
    return values, corrections


def extension(
    points: torch.Tensor, values: torch.Tensor, alpha: float, queries: torch.Tensor
) -> torch.Tensor:
    """The policy anywhere, [B, m]: every coordinate alpha-Lipschitz, all together sqrt(m) alpha.

    Args:
        points: x [N, n]. values: v [N, m]. alpha: at least 0. queries: [B, n].
    """
    # No matrix product: it would round |x - x_i| to about 1e-4 near 0.
    reach = alpha * torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
    upper = (values + reach[..., None]).amin(1)
    lower = (values - reach[..., None]).amax(1)
    return (upper + lower) / 2


# -- the policy -----------------------------------------------------------------------------------


def check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """ValueError unless both are boxes."""
    for name, space in (("observations", observation_space), ("actions", action_space)):
        if not isinstance(space, gym.spaces.Box):
            raise ValueError(f"a Lipschitz policy needs {name} in a Box, got {space}")


class GraphPolicy(BasePolicy):
    """The extension of values at N points. Actions outside the space are clipped to it, as in
    Stable-Baselines3, which keeps the policy Lipschitz.

    Args:
        observation_space, action_space: `Box`.
        alpha: the Lipschitz constant.
        points: N.
    """

    points: torch.Tensor
    values: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        alpha: float,
        points: int,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_spaces(observation_space, action_space)
        self.alpha = alpha
        for name, space in (("points", observation_space), ("values", action_space)):
            size = int(np.prod(space.shape))  # type: ignore[arg-type]
            self.register_buffer(name, torch.zeros(points, size, dtype=torch.float64))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Controls [B, m] at observations [B, ...], in double precision."""
        flat = observations.double().flatten(1)
        return extension(self.points, self.values, self.alpha, flat)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.forward(observation).float()


def proportional_control(env: Any) -> OfflineDataset:
    """40 steps of u = -(1, 2) x, a little noisy."""
    rng = np.random.default_rng(0)
    gain = np.array([1.0, 2.0])

    def act(x: Any) -> Any:
        return np.array([-(gain @ x) + 0.3 * rng.standard_normal()], dtype=np.float32)

    return OfflineDataset.record(env, steps=40, act=act)
