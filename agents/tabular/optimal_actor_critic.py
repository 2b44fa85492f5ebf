"""NORA: No-regret Optimistic Rare-switching Actor-critic.

Kevin Tan, Wei Fan, Yuting Wei: Actor-Critics Can Achieve Optimal Sample Efficiency (ICML 2025,
arXiv 2505.03710).

The first actor-critic that explores with 1 / epsilon^2 episodes. Three things make it so: the
critic f estimates Q*, not Q^pi, so that all data stay valid however the actor moves; it is
optimistic; and it changes only when it has become clearly wrong, O(d H log T) times, when the actor
is also set back to uniform, so that its multiplicative weights run against a fixed critic:

    pi_h(a | s) <- pi_h(a | s) exp(eta f_h(s, a)) / normaliser        after every episode

With tables the critic is that of UCBVI, whose bonus here is c H sqrt(L / n),

    f_h = min( cap_h, r^_h + P^_h max f_{h+1} + c H sqrt(L / n_h) ),    cap_h where n_h = 0

and is wrong once some n_h(s, a) has doubled since it was made. `FiniteClassNORA`
(`finite_class_actor_critic.py`) chooses it from a class of functions instead.

Data recorded before (`HybridNORA`) start the critic off; with enough of them, that cover what the
best policy does, it needs no optimism (c = 0).

The last policy is kept; the average regret is what the uniform mixture of all of them loses.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.finite_horizon import Trajectories, gap
from ..base.offline_data import OfflineDataset
from ..base.recorded_episodes import RecordedEpisodesAlgorithm, roll_out, to_dataset
from .ucbvi import UCBVI

Array = NDArray[np.float64]

# -- the paper's computation ----------------------------------------------------------------------


def multiplicative_weights(logits: Array, critic: Array, step_size: float) -> tuple[Array, Array]:
    """One step of the actor: its logits, the largest of each state 0, and its laws; [..., A]."""
    logits = logits + step_size * critic
    logits -= logits.max(axis=-1, keepdims=True)
    laws = np.exp(logits)
    return logits, laws / laws.sum(axis=-1, keepdims=True)


def doubled(visits: NDArray[np.int64], before: NDArray[np.int64]) -> bool:
    """Whether some visits are at least twice what they were before, or the first; any shape."""
    return bool((visits >= np.maximum(2 * before, 1)).any())


LOCK: dict[str, Any] = {
    **{"horizon": 6, "keys": 3, "latents": 1, "keep": 0.95},
    **{"consolation": (0.0, 0.0), "distractor": 0.1},
}


class NORA(UCBVI):
    """Optimistic actor-critic with tables, for finite worlds with a horizon.

    Rewards must lie in 0 .. `largest_reward`, and their sum in 0 .. `largest_return`.

    Args:
        policy, env, horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
        learning_rate: eta of the actor, a number above 0 or a schedule.
        bonus: c above. With 0, and `unseen_bonus=0`, there is no optimism.
        unseen_bonus, largest_reward, largest_return, rewards: as in `UCBVI`.
    """

    paper = Paper(
        slug="optimal_actor_critic",
        title="Actor-Critics Can Achieve Optimal Sample Efficiency",
        authors="Kevin Tan, Wei Fan, Yuting Wei",
        year=2025,
        arxiv="2505.03710",
    )
    example = Example(
        "CombinationLock-v0", LOCK, policy="TimePolicy", kwargs={"bonus": 0.1}, steps=600
    )
    critic: Array
    logits: Array
    visits_then: NDArray[np.int64]

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 1.0,
        bonus: float = 0.1,
        **common: Any,
    ) -> None:
        if isinstance(learning_rate, float | int) and not learning_rate > 0:
            raise ValueError(f"learning_rate (eta) must be above 0, got {learning_rate}")
        super().__init__(policy, env, learning_rate=learning_rate, bonus=bonus, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.switches = -1  # the first critic is none
        self.renew()

    def begin(self) -> None:
        """Data that came from elsewhere may ask for another critic."""
        super().begin()
        if self.outdated():
            self.renew()

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Count, change the critic if it is wrong, move the actor."""
        self.check_rewards(trajectories.rewards)
        self.counts.add(trajectories)
        if self.outdated():
            self.renew()
        rate = self.lr_schedule(self._current_progress_remaining)
        self.logits, self.probabilities[:] = multiplicative_weights(self.logits, self.critic, rate)
        start = (self.probabilities[0] * self.critic[0]).sum(axis=-1)
        return {
            "rollout/return": float(trajectories.rewards.sum(axis=1).mean()),
            "train/critic_value": float(start[trajectories.states[:, 0]].mean()),
            "train/switches": float(self.switches),
        }

    def check_rewards(self, rewards: Array) -> None:
        """ValueError unless rewards [n, H] are those that the caps allow."""
        largest = [("largest_reward", self.largest_reward, rewards)]
        if self.largest_return is not None:
            largest.append(("largest_return", self.largest_return, rewards.sum(axis=1)))
        for name, bound, found in largest:
            inside = (found >= 0) & (found <= bound * (1 + 1e-6))  # not true for NaN
            if not inside.all():
                raise ValueError(f"{found[~inside][0]} is outside 0 .. {name}={bound}")

    # -- the critic --------------------------------------------------------------------------------

    @property
    def bonus_scale(self) -> float:
        """c H."""
        return self.bonus * self.shape[0]

    def outdated(self) -> bool:
        """Whether the critic has become wrong."""
        return doubled(self.counts.visits, self.visits_then)

    def new_critic(self) -> Array:
        """The critic of what was seen so far, [H, S, A]."""
        return self.estimate(self.bonuses())[0]

    def renew(self) -> None:
        """Another critic, and the actor from the start."""
        self.critic, self.visits_then = self.new_critic(), self.counts.visits
        self.switches += 1
        self.restart_actor()

    def restart_actor(self) -> None:
        """Every action is as likely as any other."""
        self.logits = np.zeros(self.shape)
        self.probabilities[:] = 1 / self.shape[2]

    def finish(self) -> None:
        """The last policy stays."""

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the critic and the actor's logits."""
        values, tensors = super().extra_state()
        own = {"critic": self.critic, "logits": self.logits, "visits_then": self.visits_then}
        copies = {name: torch.from_numpy(table.copy()) for name, table in own.items()}
        return {**values, "switches": self.switches}, tensors | copies

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.switches = values["switches"]
        self.critic, self.logits, self.visits_then = (
            tensors[name].numpy().copy() for name in ("critic", "logits", "visits_then")
        )


# -- with recorded episodes ------------------------------------------------------------------------


def random_episodes(env: Any) -> OfflineDataset:
    """20 episodes of random keys."""
    return OfflineDataset.record(env, steps=20 * LOCK["horizon"])


class HybridNORA(RecordedEpisodesAlgorithm, NORA):
    """NORA with recorded episodes, which are data like its own; by default without optimism.

    With `bonus` above 0 (and `unseen_bonus=None`) it is the optimistic form. Data that are given
    later, to `set_env`, are added.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of whole episodes with rewards, whose `env` is the world to learn
            in; or only that world.
        bonus, unseen_bonus, learning_rate, ...: as in `NORA`.
    """

    example = Example(
        "CombinationLock-v0", LOCK, policy="TimePolicy", steps=600, data=random_episodes
    )

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        bonus: float = 0.0,
        unseen_bonus: float | None = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(policy, env, bonus=bonus, unseen_bonus=unseen_bonus, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.take_in()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; the episodes of a data set are added to what was seen."""
        super().set_env(env, force_reset)
        if isinstance(env, OfflineDataset):
            self.take_in()

    def take_in(self) -> None:
        """Count the recorded episodes."""
        if (recorded := self.recorded()) is not None:
            self.check_rewards(recorded.rewards)
            self.counts.add(recorded)


# -- the claim in miniature -----------------------------------------------------------------------

EPISODES, RECORDED, EVERY = 3_000, 200, 10
SETTING: dict[str, Any] = {"learning_rate": 1.0, "largest_return": 1.0}


class WithoutResets(NORA):
    """NORA whose actor goes on from where it is when the critic changes."""

    def restart_actor(self) -> None:
        """Only the first time."""
        if self.switches == 0:
            super().restart_actor()


def unlock(
    agent_class: type[NORA], seed: int, scale: float, recorded: bool = False, **arguments: Any
) -> Outcome:
    """How well an agent opens the lock that belongs to the seed."""
    env: Any = gym.make("CombinationLock-v0", **LOCK, instance=seed)
    core = env.unwrapped.core
    episodes = max(int(EPISODES * scale), EVERY)
    if recorded:
        best = np.eye(core.actions)[core.plan(1.0).policy]
        behaviour = 0.8 * best + 0.2 / core.actions
        # Far from the tapes on which the agents learn.
        env = to_dataset(roll_out(core, behaviour, RECORDED, 10**6 + seed * RECORDED), env)
    agent = agent_class("TimePolicy", env, seed=seed, **SETTING, **arguments)
    gaps = [gap(core, agent.probabilities)]

    def watch(*_: Any) -> bool:
        if agent.num_timesteps % (EVERY * core.horizon) == 0:
            gaps.append(gap(core, agent.probabilities))
        return True

    agent.learn(episodes * core.horizon, callback=watch)
    steps = [float(EVERY * core.horizon * point) for point in range(len(gaps))]
    metrics = {
        "gap": gap(core, agent.probabilities),
        "average regret": float(np.mean(gaps[:-1])),
        "switches": float(agent.switches),
    }
    return Outcome(metrics, {"gap": (steps, gaps)})


def nora_arm(seed: int, scale: float) -> Outcome:
    """NORA."""
    return unlock(NORA, seed, scale, bonus=0.1)


def not_optimistic_arm(seed: int, scale: float) -> Outcome:
    """The same actor and critic without optimism."""
    return unlock(NORA, seed, scale, bonus=0.0, unseen_bonus=0.0)


def without_resets_arm(seed: int, scale: float) -> Outcome:
    """NORA whose actor is never set back."""
    return unlock(WithoutResets, seed, scale, bonus=0.1)


def hybrid_arm(seed: int, scale: float) -> Outcome:
    """No optimism, but 200 episodes of a policy that is best but for every fifth key, a random
    one."""
    return unlock(HybridNORA, seed, scale, recorded=True)


def bounds_arm(seed: int, scale: float) -> Outcome:
    """What the claim allows."""
    return Outcome({"gap": 0.05, "switches": 70.0})


NORA.claim = Claim(
    text="On a lock of 6 steps and 3 keys with a distractor of 0.1, NORA loses less than 0.05 "
    "after 3,000 episodes and at most 70 changes of its critic; without optimism it loses more, "
    "having settled for the distractor, unless it starts from 200 recorded episodes of a good "
    "policy: then it loses less than 0.05, too.",
    arms={
        "NORA": nora_arm,
        "no optimism": not_optimistic_arm,
        "no resets": without_resets_arm,
        "hybrid, no optimism": hybrid_arm,
        "bounds": bounds_arm,
    },
    criteria=(
        Superior("gap", "NORA", "bounds", higher_is_better=False),
        NotInferior("switches", "NORA", "bounds", margin=0.0, higher_is_better=False),
        Superior("gap", "NORA", "no optimism", higher_is_better=False),
        Superior("gap", "hybrid, no optimism", "bounds", higher_is_better=False),
        Superior("gap", "hybrid, no optimism", "no optimism", higher_is_better=False),
    ),
    seeds=10,
    core_minutes=3.0,
)
