"""HNPG: Hybrid Natural Policy Gradient.

Yifei Zhou, Ayush Sekhari, Yuda Song, Wen Sun: Offline Data Enhanced On-Policy Policy Gradient with
Provable Guarantees (ICLR 2024, arXiv 2311.08384).

The gradient of a policy needs no more than the values of what it does itself, but it does not
explore; learning off-policy finds what recorded data show, if all that it backs up can be
represented. HNPG fits one critic to both. With episodes of the present policy pi (on) and recorded
steps (off), from the last step h = H - 1 to the first,

    y_on  = r_h + r_{h+1} + ... + r_{H-1}
    y_off = r + sum_a pi_{h+1}(a | s') f_{h+1}(s', a),   f_H = 0
    f_h   = argmin_f  mean_on (f(s, a) - y_on)^2 + lambda mean_off (f(s, a) - y_off)^2

and moves the actor at every state, also at those that only the recorded steps visit:

    pi_h(a | s) <- pi_h(a | s) exp(eta f_h(s, a)) / normaliser

If the recorded steps cover what a good policy does, it learns as fast as the hybrid methods;
whatever they are, it keeps the guarantee of the natural policy gradient, which is lambda = 0.

This is the paper's form for a horizon, with tables, in which f_h is a weighted mean of the targets.
All recorded steps take part in every fit, where the paper draws as many as were just played.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.checks import check_integer, check_number
from ...envs.tabular.combination_lock import CombinationLock
from ...envs.tabular.planning.finite_horizon import evaluate
from ...wrappers.sb3 import make_sb3
from ..base.action_values import law
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.finite_horizon import Trajectories
from ..base.offline_data import OfflineDataset
from ..base.recorded_episodes import RecordedEpisodesAlgorithm, roll_out, to_dataset
from ..tabular.agnostic_rl import joined

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Samples = tuple[Integers, Integers, Array]  # states, actions and targets, each [N]

# -- the paper's computation ----------------------------------------------------------------------


def hybrid_loss(
    online_values: Array,
    online_targets: Array,
    offline_values: Array,
    offline_targets: Array,
    offline_weight: float,
) -> float:
    """mean_on (f - y)^2 + lambda mean_off (f - y)^2, of arrays [N_on] and [N_off]; the mean of none
    is 0."""
    total = 0.0
    for values, targets, weight in (
        (online_values, online_targets, 1.0),
        (offline_values, offline_targets, offline_weight),
    ):
        if len(values):
            total += weight * float(((values - targets) ** 2).mean())
    return total


def fit_table(
    shape: tuple[int, int], online: Samples, offline: Samples, offline_weight: float
) -> Array:
    """The table [S, A] with the least `hybrid_loss`; 0 for pairs without a sample.

    Args:
        shape: S, A.
        online, offline: samples; either may be empty.
        offline_weight: lambda, at least 0.
    """
    sums, weights = np.zeros(shape), np.zeros(shape)
    for (states, actions, targets), weight in ((online, 1.0), (offline, offline_weight)):
        each = weight / max(len(targets), 1)
        np.add.at(weights, (states, actions), each)
        np.add.at(sums, (states, actions), each * targets)
    return np.divide(sums, weights, out=np.zeros(shape), where=weights > 0)


def hybrid_critic(
    laws: Array, online: Trajectories, offline: Trajectories, offline_weight: float
) -> tuple[Array, float]:
    """The critic of a policy.

    Args:
        laws: pi, [H, S, A].
        online: episodes that the policy played.
        offline: recorded episodes; either may have no rows.
        offline_weight: lambda, at least 0.

    Returns:
        f [H, S, A], and its loss, the mean over the steps.
    """
    returns = online.rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
    critic, following, loss = np.zeros_like(laws), np.zeros(laws.shape[1]), 0.0
    for step in reversed(range(len(laws))):
        targets = offline.rewards[:, step] + following[offline.states[:, step + 1]]
        on = (online.states[:, step], online.actions[:, step])
        off = (offline.states[:, step], offline.actions[:, step])
        table = fit_table(laws.shape[1:], (*on, returns[:, step]), (*off, targets), offline_weight)
        loss += hybrid_loss(table[on], returns[:, step], table[off], targets, offline_weight)
        following = (laws[step] * table).sum(axis=-1)
        critic[step] = table
    return critic, loss / len(laws)


def no_episodes(horizon: int) -> Trajectories:
    """None of them."""
    none = np.zeros((0, horizon))
    return Trajectories(np.zeros((0, horizon + 1), np.int64), none.astype(np.int64), none)


# -- the agent ------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"horizon": 4, "keys": 3}


def random_episodes(env: Any) -> OfflineDataset:
    """20 episodes of random keys."""
    return OfflineDataset.record(env, steps=20 * SHORT["horizon"])


class HNPG(RecordedEpisodesAlgorithm):
    """Natural policy gradient with recorded episodes, for finite worlds with a horizon.

    An update is an iteration: episodes of the present policy, a critic, a step of the actor.
    Logged: `train/critic_loss`, and `rollout/return` of the episodes. A later `learn` goes on from
    the present policy.

    An action that no sample shows is worth 0, so that with a large eta something small that was
    seen early can be all that is ever played. On locks as in the second part of the claim, seeds
    100 to 129, that befell HNPG 8 times and plain natural policy gradient 6 times.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of whole episodes with rewards, whose `env` is the world to learn
            in. Only a world: plain natural policy gradient. Data given to `set_env` replace earlier
            ones.
        learning_rate: eta of the actor, a number above 0 or a schedule.
        offline_weight: lambda, at least 0.
        episodes: of an iteration, at least; they are spread over the environments.
        horizon, seed, ...: as in `FiniteHorizonAlgorithm`.

    Raises:
        ValueError: a recorded episode has another length, or no rewards.
    """

    paper = Paper(
        slug="hnpg",
        title="Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees",
        authors="Yifei Zhou, Ayush Sekhari, Yuda Song, Wen Sun",
        year=2024,
        arxiv="2311.08384",
        code="github.com/YifeiZhou02/HNPG",
    )
    example = Example(
        "CombinationLock-v0",
        SHORT,
        policy="TimePolicy",
        kwargs={"episodes": 5},
        steps=400,
        data=random_episodes,
    )
    logits: Array
    offline: Trajectories

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 10.0,
        offline_weight: float = 1.0,
        episodes: int = 20,
        **common: Any,
    ) -> None:
        if isinstance(learning_rate, float | int) and not learning_rate > 0:
            raise ValueError(f"learning_rate (eta) must be above 0, got {learning_rate}")
        self.offline_weight = check_number("offline_weight", offline_weight, 0.0)
        self.episodes = check_integer("episodes", episodes, 1)
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.logits = np.zeros(self.shape)
        self.take_in()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; the episodes of a data set take the place of earlier ones."""
        super().set_env(env, force_reset)
        if isinstance(env, OfflineDataset):
            self.take_in()

    def take_in(self) -> None:
        """Keep the recorded episodes, if there are any, where critics are fitted."""
        recorded = self.recorded()
        self.offline = no_episodes(self.shape[0]) if recorded is None else recorded
        if np.isnan(self.offline.rewards).any():
            raise ValueError(f"{type(self).__name__} needs recorded rewards, the data have none")

    def update(self) -> dict[str, float]:
        """One iteration."""
        assert self.env is not None
        rounds = -(-self.episodes // self.env.num_envs)
        return self.study(joined([self.play() for _ in range(rounds)]))

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Fit the critic, move the actor."""
        critic, loss = self.new_critic(trajectories)
        self.logits += self.lr_schedule(self._current_progress_remaining) * critic
        self.probabilities[:] = law(self.logits, 1.0)
        return {
            "rollout/return": float(trajectories.rewards.sum(axis=1).mean()),
            "train/critic_loss": loss,
        }

    def new_critic(self, trajectories: Trajectories) -> tuple[Array, float]:
        """As `hybrid_critic`, of the present policy and the recorded episodes."""
        return hybrid_critic(self.probabilities, trajectories, self.offline, self.offline_weight)

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the actor's logits."""
        values, tensors = super().extra_state()
        return values, {**tensors, "logits": torch.from_numpy(self.logits.copy())}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.logits = tensors["logits"].numpy().copy()


# -- the claim in miniature -----------------------------------------------------------------------

RECORDED = 200  # episodes
LONG: dict[str, Any] = {"horizon": 20, "keys": 10}
Curve = tuple[list[float], list[float]]


class OfflineOnly(HNPG):
    """The same actor with a critic of the recorded steps alone."""

    def new_critic(self, trajectories: Trajectories) -> tuple[Array, float]:
        """As the base's, of no episodes of the policy."""
        return super().new_critic(no_episodes(self.shape[0]))


def behaviour(core: CombinationLock, spared: int | None = None) -> Array:
    """The right key, but with probability 1 / H any key; in the bad latent, where none is right,
    any key; in the step `spared` any key but the right one. [H, S, A]."""
    horizon, good = core.right_keys.shape
    right = np.eye(core.actions)[core.right_keys]
    laws = np.full((horizon, good + 1, core.actions), 1 / core.actions)
    laws[:, :good] = right * (1 - 1 / horizon) + 1 / (horizon * core.actions)
    if spared is not None:
        laws[spared, :good] = (1 - right[spared]) / (core.actions - 1)
    return laws


def expected_return(core: CombinationLock, laws: Array) -> float:
    """Exact, of a policy [H, S, A]."""
    return float(core.d0 @ evaluate(core.P, core.R, laws)[0])


def unlock(
    agent_class: type[HNPG], covering: bool, seed: int, scale: float, **arguments: Any
) -> tuple[float, Curve]:
    """Expected return on the lock that belongs to the seed, after learning and on the way."""
    lock: dict[str, Any] = {**(LONG if covering else SHORT), "instance": seed}
    iterations, episodes, rate = (30, 20, 20.0) if covering else (40, 50, 10.0)
    core = CombinationLock(**lock)
    steps_of_episode = len(core.right_keys)
    laws = behaviour(core, None if covering else steps_of_episode // 2)
    # Far from the tapes on which the agents learn.
    played = roll_out(core, laws, RECORDED, 10**6 + seed * RECORDED)
    data = to_dataset(played, make_sb3("CombinationLock-v0", num_envs=episodes, **lock))
    setting: dict[str, Any] = {"learning_rate": rate, "episodes": episodes, **arguments}
    agent = agent_class("TimePolicy", data, seed=seed, **setting)
    steps, curve = [0.0], [expected_return(core, agent.probabilities)]

    def watch(*_: Any) -> bool:
        steps.append(float(agent.num_timesteps))
        curve.append(expected_return(core, agent.probabilities))
        return True

    agent.learn(max(int(iterations * scale), 1) * episodes * steps_of_episode, callback=watch)
    return curve[-1], (steps, curve)


def both(agent_class: type[HNPG], seed: int, scale: float, **arguments: Any) -> Outcome:
    """A method with data that cover the best policy, and with data that do not."""
    covered, first = unlock(agent_class, True, seed, scale, **arguments)
    spared, second = unlock(agent_class, False, seed, scale, **arguments)
    return Outcome(
        {"covering data": covered, "sparing data": spared},
        {"covering data": first, "sparing data": second},
    )


def hybrid_arm(seed: int, scale: float) -> Outcome:
    """HNPG, lambda 1."""
    return both(HNPG, seed, scale)


def online_arm(seed: int, scale: float) -> Outcome:
    """Lambda 0: the natural policy gradient without the recorded steps."""
    return both(HNPG, seed, scale, offline_weight=0.0)


def offline_arm(seed: int, scale: float) -> Outcome:
    """The recorded steps alone."""
    return both(OfflineOnly, seed, scale)


def opened_arm(seed: int, scale: float) -> Outcome:
    """The least that the claim asks of HNPG."""
    return Outcome({"covering data": 0.9, "sparing data": 0.9})


def shut_arm(seed: int, scale: float) -> Outcome:
    """The most that the claim allows the others where they must fail."""
    return Outcome({"covering data": 0.2, "sparing data": 0.2})


HNPG.claim = Claim(
    text="On a lock of 20 steps and 10 keys, with 200 recorded episodes that are right but for one "
    "step in 20, HNPG earns more than 0.9 of 1 after 30 iterations of 20 episodes, and the natural "
    "policy gradient without the record less than 0.2. On a lock of 4 steps and 3 keys, with a "
    "record that never shows the right key of the third step, it earns more than 0.9 after 40 "
    "iterations of 50 episodes, too, and the same method without its own episodes less than 0.2.",
    arms={
        "HNPG": hybrid_arm,
        "on-policy": online_arm,
        "offline": offline_arm,
        "0.9": opened_arm,
        "0.2": shut_arm,
    },
    criteria=(
        Superior("covering data", "HNPG", "0.9"),
        Superior("sparing data", "HNPG", "0.9"),
        Superior("covering data", "on-policy", "0.2", higher_is_better=False),
        Superior("sparing data", "offline", "0.2", higher_is_better=False),
    ),
    seeds=5,
    core_minutes=1.0,
)
