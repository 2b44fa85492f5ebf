"""What a system says about itself: its paper, its claim in miniature, and a tiny example.

These are plain declarations without behaviour. The laboratory runs claims (`lab/runner.py`), the
contract tests run examples, and the documentation prints both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Paper:
    """The surveyed paper that a class implements. `slug` is its row in `lab/systems.csv`."""

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str | None = None
    code: str | None = None

    @property
    def citation(self) -> str:
        """One line: authors, title, year, arXiv id."""
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors}: {self.title} ({self.year}{where})"


@dataclass(frozen=True)
class Outcome:
    """What one arm returns for one seed.

    Attributes:
        metrics: name -> value.
        curves: name -> (x, y), learning curves for the report; x in environment steps.
        samples: when ("before", "after") -> rows of a prompt, a reply and its reward.
    """

    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    samples: Mapping[str, list[list[Any]]] = field(default_factory=dict)


# One run of one arm: (seed, scale) -> Outcome. `scale` is 1 for the full budget, less for a trial.
# It must be a function at module level, because claims run in other processes.
Arm = Callable[[int, float], Outcome]


@dataclass(frozen=True)
class Superior:
    """`arm` beats `baseline`: the 95% bootstrap interval of the paired difference of interquartile
    means excludes zero on the claimed side."""

    metric: str
    arm: str
    baseline: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class NotInferior:
    """`arm` is at most `margin` worse than `baseline`: the 95% interval of the paired difference,
    counted so that positive is better, lies above -margin (times |baseline| where `relative`)."""

    metric: str
    arm: str
    baseline: str
    margin: float
    relative: bool = False
    higher_is_better: bool = True


@dataclass(frozen=True)
class Exact:
    """A property without chance: every value of `metric` under `arm` is within `tolerance` of
    `value`."""

    metric: str
    arm: str
    value: float
    tolerance: float


Criterion = Superior | NotInferior | Exact


@dataclass(frozen=True)
class Claim:
    """A paper's central claim in miniature.

    Attributes:
        text: the claim in one sentence, with its numbers.
        arms: name -> run of one seed. All arms get the same seeds, and so the same tapes.
        criteria: what must hold, all of it.
        seeds: number of paired seeds, at least 5 (0 .. seeds-1).
        core_minutes: rough cost of the full run on one core, for the progress bar and the reader.
        modules: of the package, dotted, that the outcome hangs on beside the class and its bases:
            a stored result is stale when they change, too.
    """

    text: str
    arms: Mapping[str, Arm]
    criteria: tuple[Criterion, ...]
    seeds: int = 5
    core_minutes: float = 1.0
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 5:
            raise ValueError(f"a claim needs at least 5 seeds, got seeds={self.seeds}")
        for criterion in self.criteria:
            names = {criterion.arm, getattr(criterion, "baseline", criterion.arm)}
            if unknown := names - set(self.arms):
                raise ValueError(
                    f"{criterion} names arms {unknown}; the claim has {set(self.arms)}"
                )


@dataclass(frozen=True)
class Example:
    """A set-up in which an agent learns within a second or two.

    `env` with `env_kwargs` goes to `gymnasium.make`, `kwargs` to the agent's constructor after
    (policy, env), `steps` to `learn`. An agent whose environment needs a wrapper names it in
    `wrapper`; one that learns from data names in `data` the function that makes a data set of the
    environment.
    """

    env: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1_000
    data: Callable[[Any], Any] | None = None
    wrapper: Callable[[Any], Any] | None = None

    def make_env(self) -> Any:
        """A new environment, in its wrapper."""
        import gymnasium

        env = gymnasium.make(self.env, **self.env_kwargs)
        return env if self.wrapper is None else self.wrapper(env)

    def build(self) -> Any:
        """A new environment, or data set, that the agent's constructor takes as `env`."""
        env = self.make_env()
        return env if self.data is None else self.data(env)
