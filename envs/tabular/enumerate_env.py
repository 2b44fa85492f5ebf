"""The tables of a small environment: from the model that it shows, or by exploring it."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from numpy.typing import NDArray

from ..base import stack
from ..checks import check_integer
from ..faces import ArrayEnv

# Wrappers that leave observations, actions and rewards as they are.
TRANSPARENT = (
    wrappers.TimeLimit,
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.RecordEpisodeStatistics,
    wrappers.RecordVideo,
    wrappers.RenderCollection,
    wrappers.HumanRendering,
)
TRIALS = 1_000  # steps that are repeated at least, to see whether they depend on something unseen


class Outcome(NamedTuple):
    """What a step may lead to.

    Attributes:
        probability: of this outcome.
        state: the next one.
        reward: of the step.
        ends: whether the task ends.
    """

    probability: float
    state: int
    reward: float
    ends: bool


Model = dict[tuple[int, int], list[Outcome]]  # (state, action) -> outcomes


def enumerate_env(
    env: gym.Env[Any, Any], *, max_states: int = 1000, resets: int = 100, seed: int = 0
) -> dict[str, Any]:
    """The arguments of `FiniteMDP` that make it the same task as `env`.

    State s is observation s (counted from the start of the space). The model comes

    - from the tables of a `FiniteMDP`, whatever it shows as observation;
    - from `env.unwrapped.P[s][a]`, a list of (probability, s', reward, terminated), as Gymnasium's
      toy_text environments have it, and `initial_state_distrib`;
    - otherwise, also where a wrapper changes what the agent sees or is paid, from exploring copies
      of the environment breadth first. Its steps must then be deterministic and its observations
      tell everything: every step is repeated at least once, and 1,000 steps in all, with other
      seeds and, where a state was found on several ways, from another finding. What such trials do
      not show (a rare event, a counter that matters late) goes unnoticed.

    States that cannot be reached stay where they are and pay nothing. A state that ends the task on
    some ways in but not on others gets a twin behind the last state, in which the task has ended. A
    `TimeLimit` around the environment becomes `max_steps`. `env` itself is neither reset nor
    stepped.

    Args:
        env: an environment with `Discrete` observations and actions.
        max_states: the tables grow with its square.
        resets: where no start law is known, how many resets (seeds seed, seed + 1, ...) estimate
            it; exact where all lead to one state.
        seed: of the first reset.

    Returns:
        P, low, high, q, d0, terminal and max_steps; of a `FiniteMDP` also horizon and gamma.

    Raises:
        ValueError: spaces that are not `Discrete`, too many states, steps that are random or depend
            on more than the observation, more than two rewards for one step, episodes that are cut
            by something else than a `TimeLimit`, or an environment that cannot be copied.
    """
    check_integer("max_states", max_states, 1)
    check_integer("resets", resets, 1)
    limit, transparent = look_through(env)
    inner = env.unwrapped
    tables = getattr(getattr(inner, "core", None), "tables", None)
    if transparent and tables is not None:
        given = tables()
        limits = [steps for steps in (limit, given["max_steps"]) if steps is not None]
        return {**given, "max_steps": min(limits, default=None)}
    states = count("observation", env.observation_space)
    actions = count("action", env.action_space)
    if states > max_states:
        raise ValueError(
            f"{name_of(env)} has {states} states, more than max_states={max_states}; tables of "
            f"{states} states and {actions} actions take {8e-6 * states**2 * actions:.0f} MB each"
        )
    if transparent and isinstance(getattr(inner, "P", None), Mapping):
        if getattr(inner, "fickle_passenger", False):
            raise ValueError(
                f"{name_of(env)}: fickle passengers change their mind, of which its model P and "
                "its observations say nothing"
            )
        model = read_model(inner.P, states, actions)  # type: ignore[attr-defined]
        law = getattr(inner, "initial_state_distrib", None)
        d0 = reset_law(env, states, resets, seed)[0] if law is None else np.asarray(law)
    else:
        model, d0 = explore(env, states, actions, resets, seed)
    return {**assemble(model, d0, states, actions), "max_steps": limit}


# -- what stands around the environment ----------------------------------------------------------


def layers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """The wrappers around an environment, the outermost first."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def look_through(env: gym.Env[Any, Any]) -> tuple[int | None, bool]:
    """Steps after which a `TimeLimit` cuts episodes, and whether no wrapper changes the task."""
    limits = [wrapper._max_episode_steps for wrapper in time_limits(env)]
    transparent = all(isinstance(wrapper, TRANSPARENT) for wrapper in layers(env))
    return min(limits, default=None), transparent


def time_limits(env: gym.Env[Any, Any]) -> list[wrappers.TimeLimit[Any, Any]]:
    """The wrappers that cut episodes after some steps."""
    return [wrapper for wrapper in layers(env) if isinstance(wrapper, wrappers.TimeLimit)]


def name_of(env: gym.Env[Any, Any]) -> str:
    """What messages call an environment."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def count(kind: str, space: gym.Space[Any]) -> int:
    """Number of elements of a `Discrete` space."""
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"the {kind} space is {space}; tables need Discrete")
    return int(space.n)


# -- where a model comes from --------------------------------------------------------------------


def read_model(P: Mapping[Any, Any], states: int, actions: int) -> Model:
    """The model that an environment of toy_text shows."""
    model: Model = {}
    for state in range(states):
        for action in range(actions):
            try:
                given = P[state][action]
            except (KeyError, IndexError):
                raise ValueError(f"P has no entry for state {state}, action {action}") from None
            model[state, action] = [
                Outcome(float(p), int(target), float(reward), bool(ends))
                for p, target, reward, ends in given
            ]
    return model


def reset_law(
    env: gym.Env[Any, Any], states: int, resets: int, seed: int
) -> tuple[NDArray[np.float64], dict[int, gym.Env[Any, Any]]]:
    """Frequencies of the first states [S], and a copy of the environment in each of them."""
    try:
        env = clone(env)
    except Exception as error:
        raise ValueError(f"{name_of(env)} cannot be copied: {error}") from error
    for wrapper in time_limits(env):
        wrapper._max_episode_steps = sys.maxsize
    found = np.zeros(states)
    copies: dict[int, gym.Env[Any, Any]] = {}
    for trial in range(resets):
        state = state_of(env, env.reset(seed=seed + trial)[0])
        found[state] += 1
        if state not in copies:
            copies[state] = clone(env)
    return found / resets, copies


def clone(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """A copy that goes on by itself; a model that the environment shows is shared, not copied."""
    shown = getattr(env.unwrapped, "P", None)
    return copy.deepcopy(env, {id(shown): shown})


def reseed(env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
    """Let everything random from here on come from another generator."""
    inner = env.unwrapped
    inner.np_random = rng
    if isinstance(inner, ArrayEnv):  # has drawn it at reset, for the whole episode
        inner.tape = stack([inner.core.draw_tape(rng, {})])


def state_of(env: gym.Env[Any, Any], observation: Any) -> int:
    """Number of the state that is observed."""
    space = env.observation_space
    if not space.contains(observation):
        raise ValueError(f"{name_of(env)}: observation {observation!r} is outside {space}")
    return int(observation) - int(space.start)  # type: ignore[attr-defined]


def try_action(env: gym.Env[Any, Any], action: int) -> Outcome:
    """Take one step, its outcome."""
    start = int(env.action_space.start)  # type: ignore[attr-defined]
    observation, reward, terminated, truncated, _ = env.step(start + action)
    if truncated and not terminated:
        raise ValueError(
            f"{name_of(env)} cuts its episodes itself, which a table of states does not show; "
            "switch that off, and put a TimeLimit around it"
        )
    return Outcome(1.0, state_of(env, observation), float(reward), bool(terminated))


def explore(
    env: gym.Env[Any, Any], states: int, actions: int, resets: int, seed: int
) -> tuple[Model, NDArray[np.float64]]:
    """The model and start law of an environment whose steps are deterministic."""
    d0, starts = reset_law(env, states, resets, seed)
    found = {state: [start] for state, start in starts.items()}  # copies in each state
    model: Model = {}
    queue = deque(found)
    while queue:
        state = queue.popleft()
        for action in range(actions):
            branch = clone(found[state][0])
            outcome = try_action(branch, action)
            model[state, action] = [outcome]
            if outcome.ends:
                continue
            if outcome.state not in found:
                queue.append(outcome.state)
            found.setdefault(outcome.state, []).append(branch)
    rng = np.random.default_rng(seed)
    for (state, action), (expected,) in model.items():
        for trial in range(-(-TRIALS // len(model))):
            ways = found[state]
            # The last finding first: the first has been tried.
            branch = clone(ways[-1 - (trial + action) % len(ways)])
            reseed(branch, np.random.default_rng(rng.integers(2**32)))
            if (outcome := try_action(branch, action)) != expected:
                raise ValueError(
                    f"{name_of(env)}: action {action} in state {state} leads to "
                    f"{describe(expected)} and to {describe(outcome)}: its steps are random, or "
                    "depend on more than the observation"
                )
    return model, d0


def describe(outcome: Outcome) -> str:
    """An outcome in words."""
    end = ", the end" if outcome.ends else ""
    return f"state {outcome.state} with reward {outcome.reward:g}{end}"


# -- from a model to tables ----------------------------------------------------------------------


def assemble(model: Model, d0: NDArray[np.float64], states: int, actions: int) -> dict[str, Any]:
    """P, low, high, q, d0 and terminal of the states that can be reached."""
    reached, entered, ending = follow(model, np.flatnonzero(d0).tolist(), actions)
    both = sorted(entered & ending)
    twins = {state: states + number for number, state in enumerate(both)}
    size = states + len(twins)
    P = np.zeros((size, actions, size))
    P[np.arange(size), :, np.arange(size)] = 1.0
    low, high, q = np.zeros((3, *P.shape))
    for state in reached:
        for action in range(actions):
            P[state, action] = 0.0
            rewards: dict[int, dict[float, float]] = {}
            for outcome in model[state, action]:
                if outcome.probability == 0:
                    continue
                target = twins.get(outcome.state, outcome.state) if outcome.ends else outcome.state
                P[state, action, target] += outcome.probability
                paid = rewards.setdefault(target, {})
                paid[outcome.reward] = paid.get(outcome.reward, 0.0) + outcome.probability
            for target, paid in rewards.items():
                if len(paid) > 2:
                    raise ValueError(
                        f"action {action} from state {state} to {target} pays one of "
                        f"{sorted(paid)}; tables hold two rewards"
                    )
                place = state, action, target
                low[place], high[place] = min(paid), max(paid)
                q[place] = paid[max(paid)] / sum(paid.values()) if len(paid) == 2 else 0.0
    P = np.minimum(P, 1.0)  # rounding: thirds may sum to a little more
    two_rewards = bool(q.any())
    return {
        "P": P,
        "low": low,
        "high": high if two_rewards else None,
        "q": q if two_rewards else None,
        "d0": np.concatenate([d0, np.zeros(len(twins))]),
        "terminal": sorted((ending - entered) | set(twins.values())),
    }


def follow(model: Model, starts: list[int], actions: int) -> tuple[list[int], set[int], set[int]]:
    """States in which one acts, all states that are entered without an end, and those with one."""
    entered, ending = set(starts), set()
    queue = deque(starts)
    reached = []
    while queue:
        state = queue.popleft()
        reached.append(state)
        for action in range(actions):
            for outcome in model[state, action]:
                if outcome.probability == 0:
                    continue
                if outcome.ends:
                    ending.add(outcome.state)
                elif outcome.state not in entered:
                    entered.add(outcome.state)
                    queue.append(outcome.state)
    return reached, entered, ending
