"""Regret: what a learner has lost so far against the best that could be done.

Curves are cumulated over the last axis: entry k is the regret of the first k + 1 episodes, steps or
rounds. The exact ones take means in the place of what was drawn (pseudo-regret), so that they rise
with every wrong choice and are free of the noise of the rewards.

    episodes         V*(d0) - V^pi_k(d0)             `episodic_regret`
    average reward   J* - R(s_t, a_t)                `average_reward_regret`
    bandits          max_a mean(a) - mean(a_t)       `pseudo_regret`
    anything         optimum - what was obtained     `cumulative_regret`

Arrays are NumPy's or torch tensors; P, R, `continues` and policies have the forms of `tables` and
`finite_horizon`.
"""

from __future__ import annotations

from math import prod
from typing import Any

from array_api_compat import array_namespace, device

from . import discounted, finite_horizon
from .average_reward import relative_value_iteration
from .tables import as_array, as_floats, broadcast, check_start


def exploitability(
    P: Any, R: Any, policy: Any, d0: Any, gamma: float, *, continues: Any = None
) -> Any:
    """How much more than a policy the best one gets from `d0`, V*(d0) - V^pi(d0), [...].

    Args:
        P, R, continues: dense tables.
        policy: actions [..., S] or probabilities [..., S, A].
        d0: probabilities of the first state [..., S].
        gamma: in [0, 1).

    Raises:
        ValueError: the tables, the policy or `d0` are none.
    """
    return _from(d0, discounted.suboptimality(P, R, policy, gamma, continues=continues))


def episodic_exploitability(
    P: Any, R: Any, policy: Any, d0: Any, *, gamma: float = 1.0, continues: Any = None
) -> Any:
    """As `exploitability`, over a horizon: tables and policy have an axis of steps."""
    loss = finite_horizon.suboptimality(P, R, policy, gamma=gamma, continues=continues)
    return _from(d0, loss[..., 0, :])


def episodic_regret(
    P: Any, R: Any, policies: Any, d0: Any, *, gamma: float = 1.0, continues: Any = None
) -> Any:
    """Regret of playing one policy per episode [..., K], exact.

    Args:
        P, R, continues: tables [..., T, S, A, S], [..., T, S, A] and [..., S].
        policies: of the K episodes, actions [..., K, H, S] or probabilities [..., K, H, S, A].
        d0: probabilities of the first state [..., S].
        gamma: discount factor in [0, 1].

    Raises:
        ValueError: the tables, a policy or `d0` are none.
    """
    P, R = as_floats(P), as_floats(R)
    d0 = as_array(d0, R)
    # An axis of episodes, along which all but the policies are the same.
    P = P if P.ndim <= 4 else P[..., None, :, :, :, :]
    R = R if R.ndim <= 3 else R[..., None, :, :, :]
    if continues is not None:
        continues = as_array(continues, R)[..., None, :]
    losses = episodic_exploitability(
        P, R, policies, d0[..., None, :], gamma=gamma, continues=continues
    )
    return cumulative_regret(losses, 0 * losses)


def average_reward_regret(P: Any, R: Any, states: Any, actions: Any) -> Any:
    """Regret against the optimal gain of a path [..., N]; it may fall where luck was good.

    Args:
        P, R: dense tables [..., S, A, S] and [..., S, A].
        states, actions: what was visited and done, integers [..., N].

    Raises:
        ValueError: the tables are none, their gain depends on the start, or the path holds what is
            no state or no action.
    """
    R = as_floats(R)
    gain = relative_value_iteration(P, R).gain
    states, actions = as_array(states, R), as_array(actions, R)
    _check_indices("states", states, R.shape[-2])
    _check_indices("actions", actions, R.shape[-1])
    xp = array_namespace(R)
    pairs = xp.reshape(R, (*R.shape[:-2], -1))
    return cumulative_regret(gain[..., None], _chosen(pairs, states * R.shape[-1] + actions))


def pseudo_regret(means: Any, arms: Any) -> Any:
    """Regret of a bandit's rounds [..., N] in terms of the mean rewards of its arms.

    Args:
        means: [..., K] with the batch axes of `arms`, or [K] for all of them; [..., N, K] where
            they depend on the round (on its context).
        arms: that were pulled, integers [..., N].

    Raises:
        ValueError: shapes do not fit, or what was pulled is no arm.
    """
    means = as_floats(means)
    arms = as_array(arms, means)
    count = means.shape[-1]
    _check_indices("arms", arms, count)
    xp = array_namespace(means)
    if means.ndim == arms.ndim + 1:
        if means.shape[:-1] != arms.shape:
            raise ValueError(
                f"means {tuple(means.shape)} and arms {tuple(arms.shape)} do not fit together"
            )
        return cumulative_regret(xp.max(means, axis=-1), _chosen(means, arms[..., None])[..., 0])
    return cumulative_regret(xp.max(means, axis=-1)[..., None], _chosen(means, arms))


def cumulative_regret(optimum: Any, obtained: Any) -> Any:
    """Cumulated differences of what could have been and what was obtained [..., N].

    Of returns of episodes against the optimal values of their starts, of rewards against J*.

    Args:
        optimum: broadcastable to [..., N]: at each time, or [..., 1] or a number for all times.
        obtained: [..., N].

    Raises:
        ValueError: shapes do not fit.
    """
    obtained = as_floats(obtained)
    optimum = as_floats(as_array(optimum, obtained))
    if broadcast({"optimum": tuple(optimum.shape), "obtained": tuple(obtained.shape)}) != tuple(
        obtained.shape
    ):
        raise ValueError(
            f"optimum has shape {tuple(optimum.shape)}, it must be broadcastable to that of what "
            f"was obtained, {tuple(obtained.shape)}"
        )
    losses = optimum - obtained
    return array_namespace(losses).cumulative_sum(losses, axis=-1)


def _from(d0: Any, losses: Any) -> Any:
    """Mean under the first state's law [..., S] of losses [..., S]."""
    d0 = check_start(as_array(d0, losses), losses.shape[-1])
    return array_namespace(losses).sum(d0 * losses, axis=-1)


def _check_indices(name: str, indices: Any, count: int) -> None:
    """ValueError unless they are integers in 0 .. count - 1 with an axis of times."""
    xp = array_namespace(indices)
    if not indices.ndim or not xp.isdtype(indices.dtype, "integral"):
        raise ValueError(
            f"{name} are {indices.dtype} of shape {tuple(indices.shape)}, they must be integers "
            f"[..., N]"
        )
    if bool(xp.any((indices < 0) | (indices >= count))):
        raise ValueError(f"{name} are outside 0 .. {count - 1}")


def _chosen(values: Any, indices: Any) -> Any:
    """Entries [..., N] of values [..., K] with the same batch axes, or [K] for all of them."""
    xp, count = array_namespace(values), values.shape[-1]
    if values.ndim == 1:
        return xp.reshape(xp.take(values, xp.reshape(indices, (-1,))), indices.shape)
    batch = tuple(values.shape[:-1])
    if tuple(indices.shape[:-1]) != batch:
        raise ValueError(
            f"batch axes {tuple(indices.shape[:-1])} of what was chosen are not those of its "
            f"means, {batch}"
        )
    first = count * xp.reshape(xp.arange(prod(batch), device=device(values)), (*batch, 1))
    place = xp.reshape(first + indices, (-1,))
    return xp.reshape(xp.take(xp.reshape(values, (-1,)), place), indices.shape)
