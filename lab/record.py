"""`palaestra record`: an agent plays in an environment, and its steps become Minari data sets.

The qualities are those of D4RL (J. Fu et al. 2020, arXiv 2004.07219, appendix on Gym-MuJoCo):

    random          uniform actions
    medium          the agent as it was when its normalised return first reached a third
    medium-replay   every step of training until then
    expert          the agent when training is over, or one that was saved

One run of training serves all of them. The normalised return is 0 for random actions and 1 for the
expert, both means over episodes that nothing else is played in. The same seed records the same
steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from .. import agents
from ..agents.base import checkpoint
from ..agents.base.minari_files import free_folder, write_minari
from ..agents.base.normalised_scores import Reference
from ..agents.base.offline_tensors import episode_returns as returns_of
from .evaluation import (
    SB3_NAMES,
    agent_class,
    episode_returns,
    is_heuristic,
    load_agent,
    make_environment,
)
from .playing import StepRecorder, Uniform, as_agent, play, uniformly, vector

QUALITIES = ("random", "medium", "medium-replay", "expert")
MEDIUM = 1 / 3  # normalised return at which an agent is of medium quality
EVALUATION_EPISODES = 10
EVALUATIONS = 50  # of an agent while it is trained
# Seeds of episodes: training begins at the seed itself.
EVALUATED, PLAYED = 1_000_000, 2_000_000
VERSIONS = ("palaestra", "gymnasium", "minari", "numpy", "stable-baselines3", "torch")
Build = Callable[[Any], Any]  # environment -> agent


@dataclass(frozen=True)
class Recording:
    """A data set that was stored.

    Attributes:
        name: in Minari's form.
        folder: where it is.
        steps, episodes: how many it holds.
        mean_return: of its episodes, also those that were cut.
        score: normalised return of the agent that played; None for steps of training, or without a
            reference.
    """

    name: str
    folder: Path
    steps: int
    episodes: int
    mean_return: float
    score: float | None


@dataclass(frozen=True)
class Request:
    """What to record.

    Attributes:
        env_id, env_arguments: the environment.
        qualities: of the data sets, of `QUALITIES`.
        steps: of each data set; one of medium-replay has as many as training took.
        seed: of everything that is drawn.
        num_envs: native environments at once, to train and to play in.
        train_steps: for how many timesteps an agent is trained that is not given as a file.
        reference_episodes: over which the returns of random actions and of the expert are means.
        lowest, highest: these returns, where they are known; None: they are measured.
        deterministic: whether agents play the action that they think best, without drawing it.
        namespace: of the names of the data sets; None: the id of the environment.
        progress: whether to draw a progress bar.

    Raises:
        ValueError: an unknown quality, or one that is named twice, or a number below 1.
    """

    env_id: str
    env_arguments: Mapping[str, Any]
    qualities: Sequence[str] = ("expert",)
    steps: int = 100_000
    seed: int = 0
    num_envs: int = 1
    train_steps: int = 100_000
    reference_episodes: int = 100
    lowest: float | None = None
    highest: float | None = None
    deterministic: bool = False
    namespace: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "train_steps", "reference_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        unknown = sorted(set(self.qualities) - set(QUALITIES))
        if unknown or not self.qualities or len(set(self.qualities)) < len(self.qualities):
            raise ValueError(
                f"qualities {list(self.qualities)}: allowed are {', '.join(QUALITIES)}, each once"
            )

    def environments(self) -> VecEnv:
        """New ones, to play or to train in."""
        return vector(self.env_id, self.env_arguments, self.num_envs)

    def name(self, quality: str) -> str:
        """Of a data set, in Minari's form."""
        return f"{self.env_id if self.namespace is None else self.namespace}/{quality}-v0"


@dataclass(frozen=True)
class Milestone:
    """An agent in the middle of its training: its file, its return, and steps until then."""

    path: Path
    mean_return: float
    timesteps: int
    recorded: int


# -- training -------------------------------------------------------------------------------------


class Milestones(BaseCallback):
    """Evaluates and keeps an agent at regular times; stops learning at a return, if one is given.

    Args:
        folder: of the files.
        world: where the agent is evaluated.
        every: timesteps between two evaluations.
        seed: of the first episode.
        goal: return at which to stop; None: never.
        recorder: of the steps of training; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        world: gym.Env[Any, Any],
        every: int,
        seed: int,
        goal: float | None,
        recorder: StepRecorder | None,
    ) -> None:
        super().__init__()
        self.folder, self.world, self.every, self.seed = folder, world, every, seed
        self.goal, self.recorder = goal, recorder
        self.found: list[Milestone] = []

    def _on_step(self) -> bool:
        done = self.model.num_timesteps
        if done < self.every * (len(self.found) + 1):
            return True
        earned = episode_returns(self.model, self.world, EVALUATION_EPISODES, self.seed)
        path = self.folder / f"{done}.zip"
        self.model.save(path)
        recorded = 0 if self.recorder is None else len(self.recorder)
        self.found.append(Milestone(path, float(earned.mean()), done, recorded))
        return self.goal is None or self.found[-1].mean_return < self.goal


def medium_of(milestones: Sequence[Milestone], reference: Reference) -> Milestone:
    """The first milestone whose normalised return is at least a third.

    Raises:
        ValueError: there is none.
    """
    for milestone in milestones:
        if reference.score(milestone.mean_return) >= MEDIUM:
            return milestone
    best = max((m.mean_return for m in milestones), default=float("nan"))
    raise ValueError(
        f"no agent of medium quality: the best return while it was trained is {best:.6g}, a third "
        f"of the way from {reference.lowest:.6g} (random) to {reference.highest:.6g} (expert) is "
        "more: train longer"
    )


# -- recording ------------------------------------------------------------------------------------


def from_command_line(
    agent: str | None, construct: Callable[[type[Any], Any], Any], options: Mapping[str, Any]
) -> tuple[str, Build | None, Build | None]:
    """The last three arguments of `record` for the name or the file of an agent.

    Args:
        agent: as the user gives it.
        construct: (class, environment) -> agent.
        options: arguments of the agent that the user gives.

    Raises:
        ValueError: there is no such agent, or options are given for one that is saved.
    """
    if agent is None:
        return "", None, None
    if agent in (*agents.names(), *SB3_NAMES):
        cls = agent_class(agent)

        def build(world: Any) -> Any:
            return construct(cls, world)

        return (agent, None, build) if is_heuristic(cls) else (agent, build, None)
    if not checkpoint.with_suffix(agent).exists():
        known = ", ".join(agents.names())
        raise ValueError(f"{agent!r} is neither a file nor an agent; the agents are {known}")
    if options:
        raise ValueError("--set is for an agent given by name; a saved one brings its own")
    kind = str(checkpoint.read_config(agent).get("class")).rpartition(".")[2]
    return kind, None, lambda world: load_agent(agent, world)


def record(
    request: Request, agent: str, build: Build | None = None, loaded: Build | None = None
) -> list[Recording]:
    """Record the data sets that are asked for.

    Args:
        request: what.
        agent: the name under which the metadata list the agent.
        build: environment -> agent that has to be trained.
        loaded: environment -> agent that need not be. Without both, only random actions can be
            recorded.

    Raises:
        ValueError: a quality that this agent cannot have, a data set that exists, or an agent that
            is no better than random actions.
    """
    wanted = set(request.qualities)
    if build is None and loaded is None and wanted - {"random"}:
        raise ValueError(f"{', '.join(sorted(wanted - {'random'}))} needs --agent")
    if build is None and (impossible := sorted(wanted & {"medium", "medium-replay"})):
        raise ValueError(
            f"{', '.join(impossible)}: only an agent that is trained here has been of medium "
            f"quality; {agent} is played as it is"
        )
    for quality in request.qualities:
        free_folder(request.name(quality))
    world = make_environment(request.env_id, request.env_arguments)
    lowest = request.lowest
    if lowest is None:
        uniform = Uniform(world.action_space, request.seed)
        lowest = mean_return(uniform, world, request)
    with tempfile.TemporaryDirectory() as folder:
        trained = _Trained(request, world, lowest, Path(folder), build, loaded)
        trained.check()
        found = [_store(request, quality, trained, agent) for quality in request.qualities]
    if trained.recorder is not None:
        trained.recorder.close()
    world.close()
    return found


def mean_return(agent: Any, world: gym.Env[Any, Any], request: Request) -> float:
    """Mean undiscounted return over the reference episodes."""
    seed = request.seed + EVALUATED
    return float(episode_returns(agent, world, request.reference_episodes, seed).mean())


class _Trained:
    """The agents of all qualities that a request asks for."""

    def __init__(
        self,
        request: Request,
        world: gym.Env[Any, Any],
        lowest: float,
        folder: Path,
        build: Build | None,
        loaded: Build | None,
    ) -> None:
        self.request, self.world, self.lowest = request, world, lowest
        self.recorder: StepRecorder | None = None
        self.milestones: list[Milestone] = []
        self.expert: Any = None
        self.earned: float | None = None  # mean return of the expert
        self.highest = request.highest
        if set(request.qualities) == {"random"} and self.highest is not None:
            return
        if loaded is not None:
            self.expert = loaded(world)
        elif build is not None:
            self._train(build, folder)
        if self.expert is not None and (self.highest is None or "expert" in request.qualities):
            self.earned = mean_return(self.expert, world, request)
        if self.highest is None:
            self.highest = self.earned

    def _train(self, build: Build, folder: Path) -> None:
        request, wanted = self.request, set(self.request.qualities)
        if "medium-replay" in wanted:
            self.recorder = StepRecorder(request.environments())
            training: Any = self.recorder
        else:
            training = make_environment(request.env_id, request.env_arguments, request.num_envs)
        learner = build(training)
        callback = None
        if wanted & {"medium", "medium-replay"}:
            goal = None
            if self.highest is not None and "expert" not in wanted:
                goal = self.lowest + MEDIUM * (self.highest - self.lowest)
            every = max(1, request.train_steps // EVALUATIONS)
            seed = request.seed + EVALUATED
            callback = Milestones(folder, self.world, every, seed, goal, self.recorder)
        learner.learn(request.train_steps, callback=callback, progress_bar=request.progress)
        self.milestones = [] if callback is None else callback.found
        self.expert = learner

    def check(self) -> None:
        """ValueError, before anything is stored, where the agents have not the qualities."""
        if self.highest is not None and self.highest <= self.lowest:
            raise ValueError(
                f"the expert's mean return {self.highest:.6g} is not above that of random actions, "
                f"{self.lowest:.6g}: train longer, or give another agent"
            )
        if set(self.request.qualities) & {"medium", "medium-replay"}:
            self.medium()

    @property
    def reference(self) -> Reference | None:
        """The returns that are 0 and 1; None where nobody was trained."""
        return None if self.highest is None else Reference(self.lowest, self.highest)

    def medium(self) -> Milestone:
        """The milestone of medium quality."""
        assert self.reference is not None
        return medium_of(self.milestones, self.reference)


def _store(request: Request, quality: str, trained: _Trained, agent: str) -> Recording:
    world, earned, timesteps = trained.world, None, None
    if quality == "medium-replay":
        milestone = trained.medium()
        timesteps = milestone.timesteps
        assert trained.recorder is not None
        steps = milestone.recorded * trained.recorder.num_envs
        data = trained.recorder.dataset(world, milestone.recorded, steps)
    else:
        seed = request.seed + PLAYED * (1 + QUALITIES.index(quality))
        if quality == "random":
            act, earned, agent = uniformly(world.action_space, seed), trained.lowest, "uniform"
        elif quality == "expert":
            actor, earned = trained.expert, trained.earned
            act, timesteps = as_agent(actor, seed, request.deterministic), actor.num_timesteps
        else:
            milestone = trained.medium()
            earned, timesteps = milestone.mean_return, milestone.timesteps
            kind = type(trained.expert)
            # Without an environment it acts, and complains of none that differs from training's.
            actor = kind.load(milestone.path, env=world if getattr(kind, "oracle", False) else None)
            act = as_agent(actor, seed, request.deterministic)
        data = play(act, request.environments(), world, request.steps, seed)
    reference = trained.reference
    score = None if reference is None or earned is None else float(reference.score(earned))
    entries = {
        "ref_min_score": trained.lowest,
        "ref_max_score": trained.highest,
        "num_episodes_average_score": request.reference_episodes,
        "algorithm_name": agent,
        "quality": quality,
        "quality_score": score,
        "trained_timesteps": timesteps,
        "seed": request.seed,
        "num_envs": request.num_envs,
        "deterministic": request.deterministic,
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }
    name = request.name(quality)
    known = {key: value for key, value in entries.items() if value is not None}
    folder = write_minari(name, data, known)
    returns = returns_of(data)
    return Recording(name, folder, len(data), len(returns), float(returns.mean()), score)
