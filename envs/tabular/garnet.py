"""`Garnet-v0`: random decision processes, sparse, dense, layered or linear."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, check_integer, check_number, check_share
from .finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv, at_least_one
from .linear import Featured, LinearMDP, linear_tables

REWARDS = ("uniform", "normal", "last_layer", "two_targets")
LATE = ("last_layer", "two_targets")  # rewards that change with the step


class Garnet(LinearMDP):
    """A random decision process of a given size.

    ## Description
    A world without meaning: S states, A actions, a few random successors of every pair, random
    rewards. Drawn anew for every `instance`, such worlds test what an algorithm owes to structure
    and what to luck.

    ## Observation
    The state: `Discrete(S)` (`observation="index"`) or its unit vector in `Box(0, 1, (S,))`,
    float32 (`observation="onehot"`).

    ## Action
    `Discrete(A)`.

    ## Dynamics
    Those of `FiniteMDP`. `default_rng(instance)` draws the tables once, resets never change them.
    For each layer, state and action, in this order:

        probabilities  Dirichlet(c, ..., c) over the successors    c: the argument `concentration`
        successors     choice(S, branching, replace=False)         not drawn when all are

    then the rewards. With `branching=0` nothing is drawn here and the next state is uniform
    whatever is done. With `features=d` the world is linear in d features instead,

        P(s' | s, a) = sum over i of phi_i(s, a) mu_i(s'),   R(s, a) = phi(s, a) theta,

    with phi(s, a) and mu_i from Dirichlet(1, ..., 1) and theta from U(0, 1)^d, drawn in this order.

    ## Reward
    Of the pair (s, a), whatever the next state:

    - `rewards="uniform"`: fixed, drawn from U(0, 1); `"normal"`: from N(0, 1).
    - `"last_layer"`: 1 with a probability drawn from U(0, 1), else 0, at step horizon - 1; before
      that 0.
    - `"two_targets"`: 0.2 in state 0 at step floor(horizon / 2), 1 in state S - 1 at step horizon -
      1, whatever the action; otherwise 0.

    ## Episode end
    Terminated after `horizon` steps, truncated after `max_steps`; without either the task goes on
    for ever.

    ## Arguments
    - `states`, `actions`: S and A, at least 1.
    - `branching`: successors of a pair, 0 to S; None as S.
    - `concentration`: c > 0; small values make one successor likely, large ones all alike.
    - `rewards`: as above; the last two need `layers` or `horizon`.
    - `layers`: L, tables drawn anew for every step; the horizon is then L. None: one table.
    - `horizon`, `max_steps`: integers >= 1 or None.
    - `start`: a state, or "uniform" over all.
    - `duplicates`: share x in [0, 1]. In the states 0 .. floor(x S) - 1 action (a* + 1) mod A
      becomes a copy, in rewards and transitions, of the optimal action a*, so that two actions are
      exactly as good. a* is found with the discount `gamma`: by backward induction where the tables
      change with the step, else by value iteration without a horizon.
    - `features`: d >= 1, or None. It takes the place of `branching` and `concentration`, which then
      keep their defaults, and goes with `rewards="uniform"` and without `layers`.
    - `gamma`: in [0, 1], carried for planners; no part of the dynamics but for `duplicates`.
    - `instance`: integer >= 0.
    - `observation`: "index" or "onehot".
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    Planners read what `FiniteMDP` shows them; of a linear world also `phi` [S, A, d], `mu` [d, S]
    and `theta` [d]. The mean optimal value is 16.121278 with the defaults, 16.876827 with
    `instance=1`.

    ## Data files
    None.

    ## Sources
    T. W. Archibald, K. I. M. McKinnon, L. C. Thomas, On the Generation of Markov Decision
    Processes, Journal of the Operational Research Society 46 (1995) (the sparse worlds). C. Jin,
    Z. Yang, Z. Wang, M. I. Jordan, Provably Efficient Reinforcement Learning with Linear Function
    Approximation, COLT 2020, arXiv 1907.05388 (linear worlds).

    ## Version
    v0.
    """

    def __init__(
        self,
        states: int = 20,
        actions: int = 4,
        branching: int | None = 4,
        *,
        concentration: float = 1.0,
        rewards: str = "uniform",
        layers: int | None = None,
        horizon: int | None = None,
        max_steps: int | None = None,
        start: int | str = "uniform",
        duplicates: float = 0.0,
        features: int | None = None,
        gamma: float = 0.95,
        instance: int = 0,
        observation: str = "index",
    ) -> None:
        states = check_integer("states", states, 1)
        actions = check_integer("actions", actions, 1)
        check_choice("rewards", rewards, REWARDS)
        if check_number("concentration", concentration, 0.0) == 0:
            raise ValueError(f"concentration={concentration} must be above 0")
        layers, horizon = at_least_one("layers", layers), at_least_one("horizon", horizon)
        if layers is not None and horizon not in (None, layers):
            raise ValueError(f"horizon={horizon} differs from layers={layers}: give one of them")
        horizon = layers if horizon is None else horizon
        if rewards in LATE and horizon is None:
            raise ValueError(f"rewards={rewards!r} come late: they need layers or horizon")
        rng = np.random.default_rng(check_integer("instance", instance, 0))
        if features is None:
            P = draw_transitions(rng, layers or 1, states, actions, branching, concentration)
            tables = {"P": P, **draw_rewards(rng, rewards, horizon, states, actions)}
        elif branching != 4 or concentration != 1 or rewards != "uniform" or layers is not None:
            raise ValueError(
                f"features={features} draws transitions and rewards itself: leave branching, "
                "concentration, rewards and layers as they are"
            )
        else:
            count = check_integer("features", features, 1)
            phi = rng.dirichlet(np.ones(count), (states, actions))
            self.mu, self.theta = rng.dirichlet(np.ones(states), count), rng.random(count)
            P, R = linear_tables(phi, self.mu, self.theta)
            tables = {"P": P[None], "low": R[None], "phi": phi[None]}
        steps = horizon if layers is not None or rewards in LATE else None
        tables = {name: spread(table, steps or 1) for name, table in tables.items()}
        shared = int(check_share("duplicates", duplicates) * states + 1e-9)
        if shared:
            if actions < 2:
                raise ValueError(f"duplicates={duplicates} needs at least 2 actions")
            policy = FiniteMDP(**of_engine(tables), horizon=steps).plan(gamma).policy
            duplicate(tables, np.atleast_2d(policy)[:, :shared])
        if features is not None:
            self.phi = tables["phi"][0]
        super().__init__(
            **of_engine(tables),
            d0=first_states(start, states),
            horizon=horizon,
            max_steps=max_steps,
            gamma=gamma,
            observation=observation,
        )


def first_states(start: int | str, states: int) -> NDArray[np.float64]:
    """Probabilities of the first state [S]."""
    if isinstance(start, str):
        check_choice("start", start, ("uniform",))
        return np.full(states, 1 / states)
    return np.eye(states)[check_integer("start", start, 0, states - 1)]


def draw_transitions(
    rng: np.random.Generator,
    layers: int,
    states: int,
    actions: int,
    branching: int | None,
    concentration: float,
) -> NDArray[np.float64]:
    """Random transition probabilities [layers, S, A, S], as the class says."""
    shape = (layers, states, actions)
    if branching is None:
        branching = states
    if check_integer("branching", branching, 0, states) == 0:
        return np.full((*shape, states), 1 / states)
    law = np.full(branching, concentration)
    if branching == states:
        return rng.dirichlet(law, shape)
    P = np.zeros((*shape, states))
    for pair in np.ndindex(shape):  # the two draws of a pair follow each other
        probabilities = rng.dirichlet(law)
        P[pair][rng.choice(states, branching, replace=False)] = probabilities
    return P


def draw_rewards(
    rng: np.random.Generator, rewards: str, horizon: int | None, states: int, actions: int
) -> dict[str, NDArray[np.float64]]:
    """Rewards by pair, [T, S, A]: `low`, and `q` where 1 is paid with a probability."""
    if rewards == "uniform":
        return {"low": rng.random((1, states, actions))}
    if rewards == "normal":
        return {"low": rng.standard_normal((1, states, actions))}
    assert horizon is not None
    table = np.zeros((horizon, states, actions))
    if rewards == "last_layer":
        table[-1] = rng.random((states, actions))
        return {"low": np.zeros_like(table), "q": table}
    table[horizon // 2, 0] = 0.2
    table[-1, -1] = 1.0
    return {"low": table}


def spread(table: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """A table [1 or steps, ...] as one [steps, ...] of its own."""
    return np.broadcast_to(table, (steps, *table.shape[1:])).copy()


def duplicate(tables: dict[str, NDArray[np.float64]], best: NDArray[np.int64]) -> None:
    """Make the action after the best one its copy, in place.

    Args:
        tables: [T, S, A, ...], all of one T.
        best: actions [T, k] in the states 0 .. k - 1.
    """
    for table in tables.values():
        place = np.ogrid[: best.shape[0], : best.shape[1]]
        table[(*place, (best + 1) % table.shape[2])] = table[(*place, best)]


def of_engine(tables: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The tables as `FiniteMDP` takes them."""
    arguments: dict[str, Any] = {"P": tables["P"], "low": tables["low"][..., None]}
    if "q" in tables:
        arguments |= {"high": 1.0, "q": tables["q"][..., None]}
    return arguments


class GarnetEnv(Featured, FiniteMDPEnv):
    """Face 1 of `Garnet`: `gymnasium.make("Garnet-v0", states=20)`."""

    core: Garnet
    core_class = Garnet


class GarnetVectorEnv(Featured, FiniteMDPVectorEnv):
    """Face 2 of `Garnet`: `gymnasium.make_vec("Garnet-v0", num_envs=1024, states=20)`."""

    core: Garnet
    core_class = Garnet
