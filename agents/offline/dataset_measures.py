"""What recorded steps are worth before anything is learned from them: TQ and SACo.

Kajetan Schweighofer, Marius-Constantin Dinu, Andreas Radler, Markus Hofmarcher, Vihang Patil,
Angela Bitto-Nemling, Hamid Eghbal-zadeh, Sepp Hochreiter: A Dataset Perspective on Offline
Reinforcement Learning (CoLLAs 2022, arXiv 2111.04714).

Trajectory quality says how good the episodes of a data set D are, from random play (0) to an expert
(1), and state-action coverage how much of the world they show, beside what an online agent saw in
as many steps,

    TQ(D) = (g(D) - g(D_min)) / (g_expert - g(D_min)),    g = mean return of the completed episodes
    SACo(D) = u(D) / u(D_ref),                            u = number of distinct pairs (s, a)

Both may leave [0, 1]. Numbers with decimals are sorted into bins first, whose 100 edges per
dimension span what D_ref shows of it. The paper finds that learning values without constraint needs
a high SACo, that behaviour cloning needs a high TQ, and that methods which stay close to the data
do well where either is high.

`analyse` measures any data set (`palaestra measure DATASET`); pairs are counted exactly, where the
official code estimates their number. `DatasetStudy` is the online agent of the paper's protocol,
which keeps what it sees, and `five_datasets` (`dataset_measures_trials.py`) makes
data sets of five kinds with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ..base.action_values import greedy_law
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.offline_data import OfflineDataset
from ..base.stepping import Transitions
from ..tabular.q_learning import QLearning
from .dataset_measures_codes import check_finite, codes, conditional_entropy, count_pairs, join
from .dataset_measures_learners import learned_laws
from .dataset_measures_trials import (
    EVALUATIONS,
    KINDS,
    LEARNERS,
    ONLINE,
    RECORDED,
    RUNS,
    TUNING,
    bounds_arm,
    expected_return,
    five_datasets,
    rank_correlation,
    world,
)

# -- the measures ---------------------------------------------------------------------------------


def completed_returns(rewards: ArrayLike, dones: ArrayLike) -> NDArray[np.float64]:
    """Undiscounted returns of the episodes that were completed, [J]; what follows is left out.

    Args:
        rewards: [N], in the order in which they were paid.
        dones: whether an episode ended or was cut with this step, [N].

    Raises:
        ValueError: no episode is completed, or a reward is not finite.
    """
    paid, ends = np.asarray(rewards, dtype=np.float64), np.flatnonzero(np.asarray(dones)) + 1
    if not len(ends):
        raise ValueError(f"no episode is completed in {len(paid)} steps")
    check_finite("rewards", paid)
    starts = np.concatenate([[0], ends[:-1]])
    return np.asarray(np.add.reduceat(paid[: ends[-1]], starts))


def tq(rewards: ArrayLike, dones: ArrayLike, lowest: float, highest: float) -> float:
    """Trajectory quality.

    Args:
        rewards, dones: as in `completed_returns`.
        lowest: g(D_min), mean return of uniformly random play.
        highest: g_expert, best return of the agent that is the measure of quality.

    Raises:
        ValueError: as there; or `lowest` and `highest` are equal or not finite.
    """
    return quality(float(completed_returns(rewards, dones).mean()), lowest, highest)


def quality(mean_return: float, lowest: float, highest: float) -> float:
    """(g - g_min) / (g_expert - g_min); errors as in `tq`."""
    if not np.isfinite([lowest, highest]).all() or lowest == highest:
        raise ValueError(
            f"TQ needs two different finite returns, of random play and of an expert, got {lowest} "
            f"and {highest}"
        )
    return (mean_return - lowest) / (highest - lowest)


def saco(
    states: Any, actions: ArrayLike, reference_states: Any, reference_actions: ArrayLike
) -> float:
    """State-action coverage.

    Args:
        states: [N] or [N, d]; images [N, ...] and dictionaries of arrays count byte by byte.
        actions: [N] or [N, d].
        reference_states, reference_actions: of the steps of an online agent, as many of them.

    Raises:
        ValueError: there are no reference steps, shapes do not fit, or a number is not finite.
    """
    pairs = count_pairs(states, actions, (reference_states, reference_actions))
    return pairs / count_pairs(reference_states, reference_actions)


@dataclass(frozen=True)
class DatasetReport:
    """What `analyse` finds.

    Attributes:
        steps: N.
        returns, lengths: of the completed episodes, [J].
        zero_rewards: share of the steps that pay nothing.
        action_entropy: mean over the steps of the entropy of the actions that were taken in the
            same state (or bin), in nats; near 0 where hardly any state is seen twice.
        pairs: u(D).
        reference_steps, reference_pairs: those of D_ref; None without one.
        lowest, highest: the returns that are 0 and 1; None where they are not known.
    """

    steps: int
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    zero_rewards: float
    action_entropy: float
    pairs: int
    reference_steps: int | None = None
    reference_pairs: int | None = None
    lowest: float | None = None
    highest: float | None = None

    @property
    def mean_return(self) -> float:
        """g(D)."""
        return float(self.returns.mean())

    @property
    def tq(self) -> float | None:
        """Trajectory quality; None where the returns of random play and an expert are not known."""
        if self.lowest is None or self.highest is None:
            return None
        return quality(self.mean_return, self.lowest, self.highest)

    @property
    def saco(self) -> float | None:
        """State-action coverage; None without a reference."""
        return None if self.reference_pairs is None else self.pairs / self.reference_pairs


def analyse(
    dataset: OfflineDataset,
    reference: OfflineDataset | None = None,
    *,
    lowest: float | None = None,
    highest: float | None = None,
) -> DatasetReport:
    """Measure a data set.

    Args:
        dataset: with rewards and ends of episodes, in the order in which it was played.
        reference: what an online agent saw in as many steps; None: there is no SACo, and bins span
            the data set itself.
        lowest, highest: g(D_min) and g_expert; None: there is no TQ.

    Raises:
        ValueError: the data lack something, no episode is completed, or the returns are equal.
    """
    if dataset.rewards is None:
        raise ValueError("the data have no rewards")
    dones = ends_of(dataset)
    returns = completed_returns(dataset.rewards, dones)
    shown = dataset if reference is None else reference
    states = codes("observations", dataset.observations, shown.observations)
    actions = codes("actions", dataset.actions, shown.actions)
    pairs = join(states, actions)
    report = DatasetReport(
        steps=len(dataset),
        returns=returns,
        lengths=np.diff(np.flatnonzero(dones) + 1, prepend=0).astype(np.int64),
        zero_rewards=float((np.asarray(dataset.rewards) == 0).mean()),
        action_entropy=conditional_entropy(states, pairs),
        pairs=int(pairs.max()) + 1,
        lowest=lowest,
        highest=highest,
    )
    if lowest is not None and highest is not None:
        quality(report.mean_return, lowest, highest)  # says what is wrong with them
    if reference is None:
        return report
    shown_pairs = count_pairs(reference.observations, reference.actions)
    return replace(report, reference_steps=len(reference), reference_pairs=shown_pairs)


def ends_of(dataset: OfflineDataset) -> NDArray[np.bool_]:
    """Whether a step ends an episode, bool [N]; ValueError where the data do not say."""
    known = [x for x in (dataset.terminations, dataset.truncations) if x is not None]
    if not known:
        raise ValueError("the data have no terminations and no truncations: no episodes are known")
    return np.any(known, axis=0)


# -- the online agent ----------------------------------------------------------------------------


class DatasetStudy(QLearning):
    """The online agent of the protocol: Q-learning that keeps all it sees.

    A `learn` that counts timesteps from zero forgets the steps of earlier ones.

    Args:
        policy, env, exploration_fraction, ...: as in `QLearning`.
    """

    paper = Paper(
        slug="dataset_measures",
        title="A Dataset Perspective on Offline Reinforcement Learning",
        authors="Kajetan Schweighofer, Marius-Constantin Dinu, Andreas Radler, Markus Hofmarcher, "
        "Vihang Patil, Angela Bitto-Nemling, Hamid Eghbal-zadeh, Sepp Hochreiter",
        year=2022,
        arxiv="2111.04714",
        code="github.com/ml-jku/OfflineRL",
    )
    example = Example(
        "GridWorld-v0", {"rows": 3, "cols": 3, "max_steps": 10}, policy="TablePolicy", steps=400
    )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.kept: list[dict[str, NDArray[Any]]] = []

    def begin(self) -> None:
        """As the base's; forget earlier steps where timesteps are counted from zero."""
        super().begin()
        if self.num_timesteps == 0:
            self.kept = []

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As the base's; an episode under way is cut."""
        super().set_env(env, force_reset)
        if self.kept:
            last = self.kept[-1]
            self.kept[-1] = {**last, "truncations": ~last["terminations"]}

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """As the base's, and keep the steps."""
        self.kept.append(
            {
                "observations": np.array(transitions.observations),
                "actions": np.array(transitions.actions),
                "rewards": np.array(transitions.rewards),
                "next_observations": np.array(transitions.next_observations),
                "terminations": np.array(transitions.terminated),
                "truncations": transitions.dones & ~transitions.terminated,
            }
        )
        return super().learn_from(transitions)

    def replay(self) -> OfflineDataset:
        """All steps that it has seen, one environment after the other.

        Raises:
            ValueError: there are none.
        """
        if not self.kept:
            raise ValueError("there are no steps: it has not learned")
        columns = {name: np.stack([step[name] for step in self.kept], 1) for name in self.kept[0]}
        # What the next row shows is another environment's, except after the last.
        columns["truncations"][:-1, -1] |= ~columns["terminations"][:-1, -1]
        joined: dict[str, Any] = {
            name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()
        }
        return OfflineDataset(
            **joined, observation_space=self.observation_space, action_space=self.action_space
        )

    def act_greedily(self, observation: Any) -> Any:
        """The action that seems best, for one observation."""
        return self.predict(observation, deterministic=True)[0]

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the steps."""
        values, tensors = super().extra_state()
        names = self.kept[0] if self.kept else {}
        rows = {name: np.stack([step[name] for step in self.kept]) for name in names}
        return values, tensors | {f"kept.{k}": torch.from_numpy(x) for k, x in rows.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        rows = {k[5:]: x.numpy().copy() for k, x in tensors.items() if k.startswith("kept.")}
        number = len(next(iter(rows.values()))) if rows else 0
        self.kept = [{name: row[i] for name, row in rows.items()} for i in range(number)]


# -- the claim in miniature -----------------------------------------------------------------------


def online(seed: int, steps: int) -> tuple[DatasetStudy, list[float], list[float]]:
    """An agent that has learned in the claim's grid, and its evaluation curve (steps, returns)."""
    env = world()
    agent = DatasetStudy("TablePolicy", env, seed=seed, **TUNING)
    at, earned = [], []

    def look(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if agent.num_timesteps % max(steps // EVALUATIONS, 1) == 0:
            at.append(float(agent.num_timesteps))
            earned.append(expected_return(env.unwrapped.core, greedy_law(agent.table)))
        return True

    agent.learn(steps, callback=look)
    return agent, at, earned


def run(seed: int, scale: float) -> tuple[list[dict[str, float]], tuple[list[float], list[float]]]:
    """One row for each kind of data set: both measures, and what learners make of it."""
    expert, at, earned = online(2 * seed, max(int(ONLINE * scale), EVALUATIONS))
    replay = online(2 * seed + 1, max(int(RECORDED * scale), 200))[0].replay()
    env = world()
    core = env.unwrapped.core
    data = five_datasets(env, expert.act_greedily, replay, seed)
    lowest, highest = analyse(data["random"]).mean_return, max(earned)
    rows = []
    for kind in KINDS:
        report = analyse(data[kind], replay, lowest=lowest, highest=highest)
        assert report.tq is not None and report.saco is not None
        row = {"TQ": report.tq, "SACo": report.saco, "length": float(report.lengths.mean())}
        laws = learned_laws(data[kind], core.states, core.actions, TUNING["gamma"])
        for name, law in laws.items():
            row[name] = quality(expected_return(core, law), lowest, highest)
        rows.append(row)
    return rows, (at, earned)


def study_arm(seed: int, scale: float) -> Outcome:
    """Five online agents, 25 data sets."""
    found = [run(RUNS * seed + each, scale) for each in range(RUNS)]
    table = [row for rows, _ in found for row in rows]
    metrics = {
        f"rank correlation, {measure} and {learner}": rank_correlation(table, measure, learner)
        for measure in ("TQ", "SACo", "length")
        for learner in LEARNERS
    }
    means = {
        (kind, name): float(np.mean([rows[place][name] for rows, _ in found]))
        for place, kind in enumerate(KINDS)
        for name in ("TQ", "SACo", *LEARNERS)
    }
    metrics |= {f"{name}, {kind}": mean for (kind, name), mean in means.items()}
    for name in LEARNERS:
        metrics[f"{name}, worst kind"] = min(means[kind, name] for kind in KINDS)
        metrics[f"{name}, worst data set"] = min(row[name] for row in table)
    return Outcome(metrics, {"return of the online agent": found[0][1]})


DatasetStudy.claim = Claim(
    text="Over 25 data sets of 2,000 steps in a grid (random, mixed, replay, noisy and expert, of "
    "five online agents), TQ and the performance of behaviour cloning have a rank correlation "
    "above 0.8, and so have SACo and that of offline Q-learning. On expert data offline Q-learning "
    "stays below 0.3 of the expert and behaviour cloning comes above 0.9; BCQ comes above it with "
    "every kind of data.",
    arms={"study": study_arm, "bounds": bounds_arm},
    criteria=(
        Superior("rank correlation, TQ and BC", "study", "bounds"),
        Superior("rank correlation, SACo and offline Q", "study", "bounds"),
        Superior("offline Q, expert", "study", "bounds", higher_is_better=False),
        Superior("BC, expert", "study", "bounds"),
        Superior("BCQ, worst kind", "study", "bounds"),
    ),
    core_minutes=2.5,
    modules=(
        "agents.offline.dataset_measures_codes",
        "agents.offline.dataset_measures_learners",
        "agents.offline.dataset_measures_trials",
        "envs.tabular.grid_world",
    ),
)
