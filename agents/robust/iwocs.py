"""IWOCS: Incremental Worst-Case Search.

Adil Zouitine, Matthieu Geist, Emmanuel Rachelson: Solving robust MDPs as a sequence of static RL
problems (2024, arXiv 2410.06212).

The world is one of a set of models, unknown but fixed. A policy that is good in all of them is
found by solving some of them, one after another and each for itself, without any robustness:

    Q_i(s, a) = min over j <= i of Q*_{T_j}(s, a),      pi_i(s) = argmax_a Q_i(s, a)
    T_{i+1}   = argmin over T of V_T^{pi_i}(s_0),       T_0 the nominal model

until pi_i earns in its worst model what Q_i expects, within epsilon: no model is worse for it than
the solved ones make it fear. Every round lowers Q_i, which stays above the robust values of the
rectangular closure of the set. So the search ends; but it may miss the robust policy, which shows
when the worst model is one that was solved already.

`IWOCS` is the search in finite worlds, where everything is exact. `IWOCSSAC` (`iwocs_sac.py`) does
the same with SAC, with physics for models; the rules that both share are here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer, check_number
from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.garnet import Garnet
from ...envs.tabular.grid_world import GridWorld
from ...envs.tabular.planning.discounted import backup, policy_iteration, value_iteration
from ...envs.tabular.planning.robust import robust_value_iteration, static_worst_model
from ...envs.tabular.planning.robust_sets import Family, check_models
from ...envs.tabular.planning.tables import greedy
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.model_sets import World, draw_models
from ..base.tabular import TabularAlgorithm

Array = NDArray[np.float64]

# -- the paper's computation ----------------------------------------------------------------------


def pessimistic(action_values: Any) -> Any:
    """min over the models of their action values: [M, ...] -> [...]."""
    return action_values.min(axis=0)


def settled(value: float, expected: float, tolerance: float) -> bool:
    """Whether a policy earns in its worst model what it expects: the search has come to its end."""
    return abs(value - expected) <= tolerance


def valid(predicted: Any, seen: Any, bound: Any) -> Any:
    """Whether a model that predicted what was seen is possible, bool [...].

    Args:
        predicted, seen: observations [..., D].
        bound: largest error in the L1 norm, broadcastable to [...].
    """
    return abs(predicted - seen).sum(-1) <= bound


def deep_select(values: torch.Tensor, validity: torch.Tensor) -> torch.Tensor:
    """The valid model of least value, of equals the first; -1 where none is valid, int64 [...].

    Args:
        values: of each model for its own policy, [M, ...]; M may be 0.
        validity: bool [M, ...].
    """
    if not len(values):
        return torch.full_like(validity.any(dim=0), -1, dtype=torch.int64)
    chosen = torch.where(validity, values, torch.inf).argmin(dim=0)
    return torch.where(validity.any(dim=0), chosen, -1)


class Round(NamedTuple):
    """What one round finds.

    Attributes:
        action_values: Q_i [S, A].
        policy: greedy actions [S], the lowest of equally good ones.
        expected: Q_i of the policy at the start.
        values: of the policy from the start, in every model [M].
        worst: number of the model in which it earns least, the first of equally bad ones.
    """

    action_values: Array
    policy: NDArray[np.int64]
    expected: float
    values: Array
    worst: int


def search_round(world: World, chosen: int, before: Array, gamma: float) -> Round:
    """Solve one model, and look for the one that is worst for what follows from it.

    Args:
        world: the set of models.
        chosen: number of the model to solve.
        before: Q_{i-1} [S, A]; infinite in the first round.
        gamma: discount factor in [0, 1].

    Raises:
        ValueError: gamma is 1 and the task may go on for ever.
    """
    models, rewards, start, alive = world
    P, R = models[chosen], rewards[chosen]
    solve = policy_iteration if gamma < 1 else value_iteration
    best = solve(P, R, gamma, continues=alive).values
    action_values = pessimistic(np.stack([before, backup(P, R, best, gamma, alive)]))
    policy = greedy(action_values)
    expected = np.take_along_axis(action_values, policy[:, None], axis=1)[:, 0] @ start
    found = static_worst_model(models, rewards, policy, gamma, start, continues=alive)
    return Round(action_values, policy, float(expected), found.values @ start, int(found.model))


class IWOCS(TabularAlgorithm):
    """Incremental worst-case search in a finite world, with exact solutions.

    The environment is the nominal model, number 0 of the set, and is not stepped. A timestep is a
    round: one model is solved, and the policy evaluated in all of them. `learn` searches anew, and
    ends before `total_timesteps` where the search does; with `reset_num_timesteps=False` it goes on
    where it was, and after the end looks at the last round again.

    Args:
        policy: "TablePolicy".
        env: a `FiniteMDP` without a horizon (`max_steps` is ignored).
        models: transitions of the other models [M, S, A, S]; None: drawn around the environment's
            by `draw_models`, with the seed.
        rewards: of all models [S, A], or of each, the environment's first, [M + 1, S, A]; None:
            the environment's, which may depend on the next state and then differ between models.
        n_models: models to solve at most.
        tolerance: epsilon of the stopping test, at least 0.
        keep_best: play the policy of the round with the highest value in its worst model. Without,
            that of the last round, which is not always better than the nominal one.
        samples, confidence: of `draw_models`.
        gamma: discount factor in [0, 1]; 1 needs states in which the task ends.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Attributes:
        models_: numbers of the models solved so far, in order.
        worst_values: value of each round's policy from the start, in the model worst for it.
        saddle_point: whether the search ended because the stopping test holds. Else the worst model
            had been solved already, or `n_models` were.

    Raises:
        ValueError: an argument is out of range, or the environment has no tables, or a horizon.
    """

    paper = Paper(
        slug="iwocs",
        title="Solving robust MDPs as a sequence of static RL problems",
        authors="Adil Zouitine, Matthieu Geist, Emmanuel Rachelson",
        year=2024,
        arxiv="2410.06212",
    )
    example = Example(
        "Garnet-v0",
        {"states": 6, "actions": 3, "branching": None, "max_steps": 20},
        policy="TablePolicy",
        kwargs={"gamma": 0.9, "confidence": 1.0, "samples": 40},
        steps=4,
    )
    learns_in_env = False

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        models: ArrayLike | None = None,
        rewards: ArrayLike | None = None,
        n_models: int = 10,
        tolerance: float = 1e-9,
        keep_best: bool = False,
        samples: int = 20,
        confidence: float = 20.0,
        gamma: float = 0.95,
        **common: Any,
    ) -> None:
        self.models = None if models is None else check_models(models)
        self.rewards = None if rewards is None else np.asarray(rewards, dtype=np.float64)
        self.n_models = check_integer("n_models", n_models, 1)
        self.tolerance, self.keep_best = check_number("tolerance", tolerance, 0), bool(keep_best)
        self.samples = check_integer("samples", samples, 1)
        self.confidence = check_number("confidence", confidence, 1)
        super().__init__(policy, env, gamma=gamma, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.draw = int(self.generator.integers(2**53))
        self._search_anew()
        self._world: World | None = None
        if self.env is not None:
            self.world()

    def _search_anew(self) -> None:
        self.action_values = np.full(self.table.shape, np.inf)
        self.models_: list[int] = []
        self.worst_values: list[float] = []
        self.following: int | None = 0
        self.saddle_point = False

    def begin(self) -> None:
        """Begin a search, or go on with it, in the environment that there is now."""
        self._world = None
        if self.num_timesteps == 0:
            self._search_anew()
        elif self.following is None:
            self.following = self.models_[-1]
            self.models_.pop()
            self.worst_values.pop()

    def exhausted(self) -> bool:
        """Whether the search has come to its end."""
        return self.following is None

    @property
    def worst_value(self) -> float:
        """Of the policy that is played, from the start, in the model that is worst for it."""
        return max(self.worst_values) if self.keep_best else self.worst_values[-1]

    def world(self) -> World:
        """The set of models."""
        if self._world is None:
            core: Any = None
            if self.env is not None and self.env.has_attr("core"):
                core = self.env.get_attr("core")[0]
            if not isinstance(core, FiniteMDP) or core.horizon is not None:
                raise ValueError(
                    f"{type(self).__name__} needs a FiniteMDP without a horizon, got {core}"
                )
            if self.gamma == 1 and not core.terminal_states:
                raise ValueError("gamma=1 needs states in which the task ends, there are none")
            drawn = self.models
            if drawn is None:
                generator = np.random.default_rng(self.draw)
                drawn = draw_models(core.P[0], self.samples, self.confidence, generator)
            self._world = World.of(core, drawn, self.rewards)
        return self._world

    def update(self) -> dict[str, float]:
        """One round."""
        assert self.following is not None
        chosen = self.following
        found = search_round(self.world(), chosen, self.action_values, self.gamma)
        value = float(found.values[found.worst])
        if not self.keep_best or value > max(self.worst_values, default=-np.inf):
            self._play(found)
        self.action_values[:] = found.action_values
        self.models_.append(chosen)
        self.worst_values.append(value)
        self.saddle_point = settled(value, found.expected, self.tolerance)
        over = self.saddle_point or found.worst in self.models_
        self.following = None if over or len(self.models_) == self.n_models else found.worst
        self.num_timesteps += 1
        return {
            "train/worst_value": value,
            "train/expected_value": found.expected,
            "train/nominal_value": float(found.values[0]),
            "train/worst_model": float(found.worst),
        }

    def _play(self, found: Round) -> None:
        """Let the table choose the actions that were evaluated, also among nearly equal ones."""
        rows = np.arange(len(found.policy))
        self.table[:] = found.action_values
        self.table[rows, found.policy] = found.action_values.max(axis=1)

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with where the search is."""
        values, tensors = super().extra_state()
        names = ("draw", "models_", "worst_values", "following", "saddle_point")
        values |= {name: getattr(self, name) for name in names}
        return values, tensors | {"action_values": torch.from_numpy(self.action_values.copy())}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        for name in ("draw", "models_", "worst_values", "following", "saddle_point"):
            setattr(self, name, values[name])
        self.action_values = tensors["action_values"].numpy().copy()
        self._world = None


# -- the claim in miniature -----------------------------------------------------------------------

WALK, WALK_GAMMA = np.linspace(0.0, 0.5, 25), 0.95
SETS, SET_SIZE, SET_GAMMA = 8, 6, 0.9  # 5 seeds x 8 sets: instances 0 .. 239
GARNET: dict[str, Any] = {
    **{"states": 5, "actions": 3, "branching": None},
    **{"concentration": 0.3, "rewards": "normal"},
}


def walk_search(**arguments: Any) -> IWOCS:
    """The search over 25 winds, from the walk without wind."""
    models = np.stack([GridWorld(layout="windy_walk", alpha=alpha).P[0] for alpha in WALK[1:]])
    env = gym.make("GridWorld-v0", layout="windy_walk", alpha=WALK[0])
    agent = IWOCS("TablePolicy", env, models=models, gamma=WALK_GAMMA, seed=0, **arguments)
    return agent.learn(len(WALK))


def set_search(number: int, **arguments: Any) -> IWOCS:
    """The search over six random worlds that have the rewards of the first."""
    instances = range(SET_SIZE * number, SET_SIZE * (number + 1))
    models = np.stack([Garnet(**GARNET, instance=each).P[0] for each in instances])
    env = gym.make("Garnet-v0", **GARNET, instance=instances[0], max_steps=1)
    agent = IWOCS("TablePolicy", env, models=models[1:], gamma=SET_GAMMA, seed=0, **arguments)
    return agent.learn(SET_SIZE)


def searched(seed: int, **arguments: Any) -> Outcome:
    """What a search finds on the walk and on the seed's random sets."""
    walk = walk_search(**arguments)
    family, rewards, start, alive = Family(walk.world().models), *walk.world()[1:]
    robust = robust_value_iteration(family, rewards[0], WALK_GAMMA, continues=alive)
    numbers = range(SETS * seed, SETS * (seed + 1))
    nominal = np.array([set_search(each, n_models=1).worst_value for each in numbers])
    found = np.array([set_search(each, **arguments).worst_value for each in numbers])
    gains = np.where(abs(found - nominal) > 1e-9, found - nominal, 0.0)
    return Outcome(
        {
            "worst value, windy walk": walk.worst_value,
            "gap to robust values": float(robust.values @ start) - walk.worst_value,
            "models solved": float(len(walk.models_)),
            "worst value, random sets": float(found.mean()),
            "share of sets better": float((gains > 0).mean()),
            "share of sets worse": float((gains < 0).mean()),
        }
    )


def search_arm(seed: int, scale: float) -> Outcome:
    """IWOCS."""
    return searched(seed)


def best_arm(seed: int, scale: float) -> Outcome:
    """IWOCS, playing the best of its candidates."""
    return searched(seed, keep_best=True)


def nominal_arm(seed: int, scale: float) -> Outcome:
    """The nominal model's optimal policy: the search after its first round."""
    return searched(seed, n_models=1)


def deep_arm(seed: int, scale: float) -> Outcome:
    """IWOCS with SAC."""
    from .iwocs_trials import iwocs_outcome

    return iwocs_outcome(seed, scale)


def sac_arm(seed: int, scale: float) -> Outcome:
    """SAC in the nominal pendulum, with as many steps."""
    from .iwocs_trials import sac_outcome

    return sac_outcome(seed, scale)


IWOCS.claim = Claim(
    text="On a walk against one of 25 winds IWOCS earns in its worst wind what robust value "
    "iteration promises, after at most 3 solved models, and over 5 more than the walker who does "
    "not expect wind. On 40 random sets of 6 models its worst value is higher on average than the "
    "nominal policy's, and never lower where it plays its best candidate. With SAC, 3 agents and a "
    "pendulum of uncertain mass and length, its worst return on a 5 x 5 grid is higher than that "
    "of one SAC agent with as many steps in the nominal pendulum.",
    arms={
        "IWOCS": search_arm,
        "IWOCS, best candidate": best_arm,
        "nominal": nominal_arm,
        "IWOCS with SAC": deep_arm,
        "SAC": sac_arm,
    },
    criteria=(
        Exact("gap to robust values", "IWOCS", value=0.0, tolerance=1e-6),
        Exact("models solved", "IWOCS", value=2.0, tolerance=1.0),
        # Not worse by more than -5: better by at least 5.
        NotInferior("worst value, windy walk", "IWOCS", "nominal", margin=-5.0),
        Superior("worst value, random sets", "IWOCS", "nominal"),
        Exact("share of sets worse", "IWOCS, best candidate", value=0.0, tolerance=0.0),
        Superior("worst return", "IWOCS with SAC", "SAC"),
    ),
    seeds=5,
    core_minutes=19.0,
    modules=(
        *("agents.base.off_policy", "agents.base.physics", "agents.robust.iwocs_sac"),
        *("agents.robust.iwocs_networks", "agents.robust.iwocs_trials"),
    ),
)
