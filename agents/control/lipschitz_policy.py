"""Lipschitz feedback policies from demonstrations.

Abed AlRahman Al Makdah, Vishaal Krishnan, Fabio Pasqualetti: Learning Lipschitz Feedback Policies
from Expert Demonstrations: Closed-Loop Guarantees, Generalization and Robustness (IEEE Open Journal
of Control Systems 2022, arXiv 2103.16629).

An expert's controls u_i at states x_i are imitated by a policy that is nowhere steeper than alpha:

    min over pi of 1/N sum |pi(x_i) - u_i|^2   subject to   |pi(x) - pi(y)| <= alpha |x - y|

alpha alone trades performance, which a small one costs, for robustness: an error of size eps in
what is measured moves the control by alpha eps at most. There is no reward, and no model.

`LipschitzGraph` solves the problem at the data, where the solution v is a projection of u, and
extends it (`lipschitz_graph.py`). What can be promised about such a policy, and about the loop that
it closes, is in `lipschitz_certificates.py`; the form of the policy as a network, whose layers are
scaled down, in `lipschitz_network.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer, check_number
from ...envs.control.lqr import LQR
from ..base.dataset import DatasetAlgorithm
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.offline_data import OfflineDataset
from .lipschitz_certificates import (
    approximation_bound,
    covering_radius,
    realised_constant,
    scalar_loop,
)
from .lipschitz_graph import (
    GraphPolicy,
    dykstra_sweep,
    proportional_control,
    steepness_limits,
    tournament,
)

Array = NDArray[np.float64]


class LipschitzGraph(DatasetAlgorithm):
    """Imitation with a hard Lipschitz bound, at the data exactly solved and extended from there.

    A timestep is a sweep of Dykstra's projections over all pairs, for which there must be memory.
    After 120 of them, 60 points are within about 2% of the bound; the extension obeys it whatever
    the values are. With other data the problem is posed anew; otherwise a later `learn` goes on.
    The seed decides the order of the pairs, and so only the way to the solution. Points that
    coincide get one value.

    Logged: `train/error` (mean squared), `train/violation` (greatest |v_i - v_j| - alpha |x_i -
    x_j|), `train/change` (greatest of the sweep).

    Args:
        policy: "GraphPolicy".
        env: an `OfflineDataset` of the expert, or only an environment, for an agent that is loaded
            to predict.
        alpha: the Lipschitz constant, at least 0; 0: the mean of the controls.
        neighbours: bound only pairs of which one is among so many nearest points of the other; then
            only they are certain to obey it. None: all pairs. At least 1.
        seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Attributes:
        labels: u [N, m]; None without data.
        values: v [N, m], of an agent that has data.

    Raises:
        ValueError: an argument is out of range; observations or actions are not in a `Box`.
    """

    paper = Paper(
        slug="lipschitz_policy",
        title="Learning Lipschitz Feedback Policies from Expert Demonstrations: Closed-Loop "
        "Guarantees, Generalization and Robustness",
        authors="Abed AlRahman Al Makdah, Vishaal Krishnan, Fabio Pasqualetti",
        year=2022,
        arxiv="2103.16629",
    )
    example = Example(
        "LQR-v0",
        {"plant": "contracting"},
        policy="GraphPolicy",
        kwargs={"alpha": 1.5},
        steps=20,
        data=proportional_control,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"GraphPolicy": GraphPolicy}
    dataset_class = OfflineDataset
    dataset: OfflineDataset | None
    policy: GraphPolicy
    _points: int | None = None  # N; of an agent without data 1, and its policy does nothing

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        alpha: float = 1.0,
        neighbours: int | None = None,
        **common: Any,
    ) -> None:
        self.alpha = check_number("alpha", alpha, 0.0)
        self.neighbours = None if neighbours is None else check_integer("neighbours", neighbours, 1)
        self.labels: Array | None = None
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self._points is None and self.dataset is not None:
            self._pose(*self._data())
        else:
            self._build_policy(self._points or 1)

    def _build_policy(self, points: int) -> None:
        self._points = points
        policy: Any = self.policy_class(
            self.observation_space, self.action_space, self.alpha, points, **self.policy_kwargs
        )
        self.policy = policy.to(self.device)

    def _data(self) -> tuple[Array, Array]:
        """States [N, n] and controls [N, m] of the data set, flat."""
        assert self.dataset is not None
        pair = (self.dataset.observations, self.dataset.actions)
        states, controls = (x.reshape(len(x), -1).astype(np.float64) for x in pair)
        return states, controls

    def _pose(self, states: Array, controls: Array) -> None:
        """Begin with a problem: nothing is projected yet."""
        self._build_policy(len(states))
        self.labels, self.values = controls, controls
        self.order = np.random.default_rng(self.seed).permutation(len(states))
        self._arrange(states)
        self.corrections = np.zeros((*self.pairs.shape[:2], controls.shape[1]))
        self._show()

    def _arrange(self, states: Array) -> None:
        self.states, self.pairs = states, tournament(self.order)
        self.limits = steepness_limits(states, self.alpha, self.neighbours)

    def _show(self) -> None:
        """Give the policy what was found so far."""
        self.policy.points.copy_(torch.as_tensor(self.states))
        self.policy.values.copy_(torch.as_tensor(self.values))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's; other data than before are a new problem.

        Raises:
            ValueError: there is no data set.
        """
        if self.dataset is None:
            raise ValueError(
                "there is no data to learn from: give an OfflineDataset as env, or to set_env"
            )
        states, controls = self._data()
        if self.labels is None or not (
            np.array_equal(states, self.states) and np.array_equal(controls, self.labels)
        ):
            self._pose(states, controls)
        return super()._setup_learn(*args, **kwargs)

    def update(self) -> dict[str, float]:
        """One sweep."""
        assert self.labels is not None
        before = self.values
        self.values, self.corrections = dykstra_sweep(
            before, self.corrections, self.pairs, self.limits
        )
        self._show()
        self.num_timesteps += 1
        gaps = cdist(self.values, self.values)
        return {
            "train/error": float(np.square(self.values - self.labels).sum(axis=1).mean()),
            "train/violation": max(float((gaps - self.limits).max()), 0.0),
            "train/change": float(np.abs(self.values - before).max()),
        }

    def _check_posed(self) -> Array:
        """The labels [N, m]; ValueError where there are none."""
        if self.labels is None:
            raise ValueError("the agent has no data yet: give an OfflineDataset as env")
        return self.labels

    def multipliers(self) -> Array:
        """lambda_ij of the constraints |v_i - v_j|^2 <= alpha^2 |x_i - x_j|^2, symmetric [N, N].

        They belong to 1/N sum |v_i - u_i|^2. Infinite where a binding constraint is an equality.

        Raises:
            ValueError: the agent has no data yet.
        """
        self._check_posed()
        found = np.zeros(self.limits.shape)
        first, second = self.pairs[..., 0], self.pairs[..., 1]
        moved = np.linalg.norm(self.corrections, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = moved / (len(self.limits) * self.limits[first, second])
        found[first, second] = found[second, first] = np.where(moved > 0, share, 0.0)
        return found

    def certificate(self, domain: ArrayLike, expert: float) -> dict[str, float]:
        """What is promised about the policy on a domain.

        Args:
            domain: points that fill it, [M, n].
            expert: Lipschitz constant of the expert, whose controls the data hold without noise.

        Returns:
            "constant" (realised at the data), "error" (greatest at the data), "radius" (of the
            data's covering of the domain) and "bound" on sup |pi - pi*|.

        Raises:
            ValueError: the agent has no data yet.
        """
        labels = self._check_posed()
        with torch.no_grad():
            played = self.policy(torch.as_tensor(self.states, device=self.device)).cpu().numpy()
        error = float(np.linalg.norm(played - labels, axis=1).max())
        radius, steepest = covering_radius(self.states, domain), self.alpha
        steepest *= np.sqrt(labels.shape[1])  # every coordinate is alpha-Lipschitz
        return {
            "constant": realised_constant(self.states, self.values),
            "error": error,
            "radius": radius,
            "bound": approximation_bound(error, steepest, expert, radius),
        }

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The problem and the state of its solution."""
        if self.labels is None:
            return {"points": self._points}, {}
        names = ("states", "labels", "values", "order", "corrections")
        tensors = {name: torch.from_numpy(getattr(self, name).copy()) for name in names}
        return {"points": self._points}, tensors

    def _prepare(self, extra: dict[str, Any]) -> None:
        self._points = extra["points"]

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        if not tensors:
            return
        for name in ("labels", "values", "order", "corrections"):
            setattr(self, name, tensors[name].numpy().copy())
        self._arrange(tensors["states"].numpy().copy())


# -- the claim in miniature -----------------------------------------------------------------------

PLANT, DEMONSTRATIONS, LABEL_NOISE, SWEEPS = "contracting", 30, 0.3, 120
STARTS, ATTACK, DIRECTIONS = 12, 0.1, 16
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # alpha in units of the expert's gain


def demonstrations(seed: int, noise: float) -> OfflineDataset:
    """30 random states in [-1.5, 1.5]^2 and their mirror images, with the expert's noisy controls
    and their opposites."""
    rng = np.random.default_rng(seed)
    env = gym.make("LQR-v0", plant=PLANT)
    _, gain = LQR(PLANT).solution()
    states = rng.uniform(-1.5, 1.5, (DEMONSTRATIONS, 2))
    controls = -states @ gain.T + noise * rng.standard_normal((DEMONSTRATIONS, 1))
    return OfflineDataset(
        np.concatenate([states, -states]), np.concatenate([controls, -controls]), env=env
    )


def learned(seed: int, factor: float, noise: float, scale: float = 1.0) -> LipschitzGraph:
    """A policy with alpha = factor |K|."""
    alpha = factor * float(np.linalg.norm(LQR(PLANT).solution()[1]))
    data = demonstrations(seed, noise)
    agent = LipschitzGraph("GraphPolicy", data, alpha=alpha, seed=seed, device="cpu")
    return agent.learn(max(int(SWEEPS * scale), 1))


def loop_cost(control: Callable[[torch.Tensor], torch.Tensor], attack: float) -> float:
    """Mean cost of an episode from 12 starts.

    At each step the attacker adds to what is measured one of 16 vectors of length `attack`: the one
    after which the expert's cost to go of the next state is the highest.

    Args:
        control: states [B, 2] -> controls [B, 1].
        attack: 0: none.
    """
    core, rows = LQR(PLANT), np.arange(STARTS)
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    errors = attack * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    worth, tape = core.solution()[0], core.tapes(STARTS, 0)
    state, cost = core.initial(tape), 0.0
    for _ in range(core.horizon):
        seen = (state["x"][:, None] + errors).reshape(-1, 2)
        with torch.no_grad():
            found = control(torch.as_tensor(seen)).numpy().reshape(STARTS, DIRECTIONS, 1)
        following = (state["x"] @ core.A.T)[:, None] + found @ core.B.T
        worst = np.einsum("...i,ij,...j->...", following, worth, following).argmax(axis=1)
        action = np.clip(found[rows, worst], -core.u_max, core.u_max)
        after = core.transition(state, action, tape)
        cost -= float(core.reward(state, action, after).mean())
        state = after
    return cost


def traded(factor: float, seed: int, scale: float) -> Outcome:
    """Cost without attack, and by how much an attack raises it."""
    agent = learned(seed, factor, LABEL_NOISE, scale)
    nominal = loop_cost(agent.policy, 0.0)
    return Outcome(
        {
            "nominal cost": nominal,
            "deterioration": loop_cost(agent.policy, ATTACK) - nominal,
            "realised constant": realised_constant(agent.states, agent.values),
            "training error": agent._metrics["train/error"],
        }
    )


def certificates_arm(seed: int, scale: float) -> Outcome:
    """What must hold without chance, with demonstrations without noise.

    Where alpha is at least |K|, nothing is projected; everywhere in the square the policy is as
    near to the expert as its certificate says; and the scalar loop costs what its formula says.
    """
    _, gain = LQR(PLANT).solution()
    side = np.linspace(-1.5, 1.5, 41)
    domain = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    idle, excess = 0.0, 0.0
    for factor in FACTORS:
        agent = learned(seed, factor, 0.0, scale)
        assert agent.labels is not None
        if factor >= 1:
            idle = max(idle, float(np.abs(agent.values - agent.labels).max()))
        with torch.no_grad():
            played = agent.policy(torch.as_tensor(domain)).numpy()
        distance = float(np.abs(played + domain @ gain.T).max())
        promised = agent.certificate(domain, float(np.linalg.norm(gain)))["bound"]
        excess = max(excess, distance - promised)
    a, b, r, k = 0.9, 1.0, 0.1, 0.6
    core = LQR("scalar", A=[[a]], B=[[b]], R=r, noise=0.0, horizon=200)
    tape = core.tapes(2, 0, [{"state": [1.0]}, {"state": [0.0]}])
    state, cost = core.initial(tape), 0.0
    for _ in range(200):
        # The second episode measures too little by 0.1, for ever.
        action = -k * (state["x"] - np.array([[0.0], [ATTACK]]))
        after = core.transition(state, action, tape)
        cost, state = cost - float(core.reward(state, action, after)[0]), after
    formula = np.array(scalar_loop(a, b, 1.0, r, k, ATTACK))
    return Outcome(
        {
            "change of labels": idle,
            "excess over the bound": excess,
            "scalar error": float(np.abs(formula - [cost, state["x"][1, 0]]).max()),
        }
    )


def expert_arm(seed: int, scale: float) -> Outcome:
    """The expert itself: for the record."""
    gain = torch.as_tensor(LQR(PLANT).solution()[1])
    nominal, attacked = (loop_cost(lambda x: -x @ gain.T, size) for size in (0.0, ATTACK))
    return Outcome({"nominal cost": nominal, "deterioration": attacked - nominal})


def named(factor: float) -> str:
    """Name of the arm."""
    return f"alpha {factor:g} |K|"


LipschitzGraph.claim = Claim(
    text="Imitating the best gain K of a contracting plant from 60 noisy demonstrations, the cost "
    "of the closed loop falls with alpha over 1/4, 1/2 and 1 times |K|; what attacks of size 0.1 "
    "on the measurements add to it rises over 1/4, 1/2, 1 and 2, and is more at 4 than at 1. "
    "Without noise and with alpha of at least |K| the bound is idle, and certificates hold.",
    arms={
        **{named(factor): partial(traded, factor) for factor in FACTORS},
        "certificates": certificates_arm,
        "expert": expert_arm,
    },
    criteria=(
        *(
            Superior("deterioration", named(low), named(high), higher_is_better=False)
            for low, high in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 4.0))
        ),
        *(
            Superior("nominal cost", named(high), named(low), higher_is_better=False)
            for low, high in ((0.25, 0.5), (0.5, 1.0))
        ),
        Exact("change of labels", "certificates", value=0.0, tolerance=1e-9),
        Exact("excess over the bound", "certificates", value=0.0, tolerance=1e-9),
        Exact("scalar error", "certificates", value=0.0, tolerance=1e-9),
    ),
    seeds=5,
    core_minutes=0.3,
)
