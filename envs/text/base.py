"""What every text environment offers: tasks by number, a pure verifier, demonstrations.

A single-reply environment is a subclass of `TextEnv` that writes two pure functions: `make_task`
(number and split -> task) and `grade` (task and the graded part of a reply -> verdict). Everything
else (Gymnasium's interface, options, rendering, held-out tasks) is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from zlib import crc32

import gymnasium as gym
import numpy as np

from ..checks import check_choice as check_choice
from ..checks import check_flag as check_flag
from ..checks import check_integer as check_integer
from ..checks import check_share as check_share
from ..faces import check_render_mode
from ..spaces import Texts

# Task ids of a split.
TASKS = 2**20
T = TypeVar("T")
SPLITS = ("train", "test")
PRINTABLE = "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Task:
    """One problem as it is put.

    Attributes:
        index: its id in the split; -1 for a problem that has none.
        split: "train" or "test".
        prompt: what the policy reads.
        level: difficulty level, where the environment has levels.
    """

    index: int
    split: str
    prompt: str
    level: int = 0


@dataclass(frozen=True)
class Demonstration:
    """A prompt with a reply to learn from; the loss covers the reply, its stop included.

    Attributes:
        task: id of the task in the training split, -1 where it has none.
        prompt: what the policy reads.
        reply: what it shall write.
        level: level of the task.
        correct: whether the reply is right (demonstrations may be noisy on purpose).
    """

    task: int
    prompt: str
    reply: str
    level: int
    correct: bool


class TextEnv(gym.Env[str, str]):
    """A `gymnasium.Env` of texts: one step is one reply, after which the episode ends.

    Attributes:
        alphabet: the characters of prompts and replies, without repeats; the position of a
            character is its token in a character model.
        stop: the string that ends a reply and is part of it. A model with an end token of its own
            writes `stop` for it.
        max_reply: characters of a reply, the stop included; what comes later is not read.
        max_prompt: upper bound of the length of a prompt.
        reply_characters: the characters that a well-formed reply may hold.
        horizon: steps of an episode.
        options: keys that `reset(options=...)` knows.
        current: the task of the episode, None before the first reset.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    options: ClassVar[tuple[str, ...]] = ("task", "split")
    horizon = 1

    def __init__(
        self,
        *,
        alphabet: str,
        max_prompt: int,
        max_reply: int,
        stop: str = "$",
        split: str = "train",
        pool: int | None = None,
        reply_characters: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self.alphabet, self.stop = alphabet, stop
        self.max_prompt, self.max_reply = max_prompt, max_reply
        self.reply_characters = alphabet if reply_characters is None else reply_characters
        self.split = check_choice("split", split, SPLITS)
        self.pool = pool if pool is None else check_integer("pool", pool, 1, TASKS)
        self.observation_space = Texts(max_prompt, min_length=1, charset=alphabet)
        self.action_space = Texts(max_reply, min_length=0, charset=alphabet)
        self.current: Task | None = None
        self._last: tuple[str, dict[str, Any]] | None = None

    # -- what an environment writes ---------------------------------------------------------------

    def make_task(self, index: int, split: str) -> Task:
        """Task `index` of a split, the same at every call."""
        raise NotImplementedError

    def grade(self, task: Any, reply: str) -> dict[str, Any]:
        """Verdict over the graded part of a reply; a pure function that never raises."""
        raise NotImplementedError

    def describe(self, task: Any) -> dict[str, Any]:
        """What `info` tells of a task at reset, besides its id and split."""
        return {}

    def score(self, verdict: Mapping[str, Any]) -> float:
        """Reward of a verdict."""
        return float(verdict["correct"])

    def number_of_tasks(self, split: str) -> int:
        """How many ids a split has."""
        return TASKS

    # -- what every text environment gets ---------------------------------------------------------

    @property
    def pool_size(self) -> int:
        """Number of training tasks that a reset draws from: ids 0 .. pool_size - 1."""
        size = self.number_of_tasks("train")
        return size if self.pool is None else min(size, self.pool)

    def draw_pool(self, n: int, rng: np.random.Generator) -> list[int]:
        """Ids of n training tasks of the pool, uniformly and (where there are enough) without
        repeats."""
        size = self.pool_size
        ids: list[int] = rng.choice(size, n, replace=size < n).tolist()
        return ids

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a task, or start the one that the options name.

        Args:
            seed: seed of the generator that draws tasks.
            options: `task` (an id), `split`, and what the environment adds.

        Raises:
            ValueError: an unknown option, or a value that is not allowed.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        for name in given:
            if name not in self.options:
                raise ValueError(f"unknown option {name!r}, allowed are {self.options}")
        self.current = self.choose(given)
        self._last = None
        about = {"task": self.current.index, "split": self.current.split}
        return self.current.prompt, without_none({**about, **self.describe(self.current)})

    def choose(self, options: Mapping[str, Any]) -> Task:
        """The task that the options of a reset name, or one drawn from `np_random`."""
        split = check_choice("split", options.get("split", self.split), SPLITS)
        if "task" in options:
            return self.task(options["task"], split)
        return self.task(self._draw_index(split), split)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Grade a reply; the episode ends.

        Raises:
            ValueError: the action is no string; the episode has ended.
        """
        if not isinstance(action, str):
            raise ValueError(f"an action is a string, got {type(action).__name__}: {action!r:.80}")
        if self.current is None or self._last is not None:
            raise ValueError(
                "the episode has ended, or none has begun: reset the environment first"
            )
        verdict = self.verify(self.current, action)
        self._last = (str(action), verdict)
        return self.current.prompt, self.score(verdict), True, False, without_none(verdict)

    def verify(self, task: Any, reply: object) -> dict[str, Any]:
        """Grade a reply without stepping: no state, never an exception for any reply.

        Args:
            task: a task, or the id of one of this environment's split.
            reply: what was written; anything but a string counts as an empty reply. Characters
                beyond `max_reply` or behind the first `stop` are not read. A reply without the
                stop was cut.

        Returns:
            The verdict. At least `correct` (0 or 1), `format`, `length` (characters read) and
            `stopped`.
        """
        return self.grade(self.find(task), cut(reply, self.stop, self.max_reply))

    def task(self, index: int, split: str | None = None) -> Any:
        """Task `index` of a split, by default of this environment's: what `make_task` makes.

        Raises:
            ValueError: there is no such task.
        """
        split = check_choice("split", self.split if split is None else split, SPLITS)
        index = check_integer("task", index, 0, self.number_of_tasks(split) - 1)
        return self.make_task(index, split)

    def find(self, task: Any) -> Any:
        """The task itself, given one or the id of one in this environment's split."""
        return self.task(int(task)) if isinstance(task, int | np.integer) else task

    def task_ids(self, n: int, split: str, level: int | None = None) -> list[int]:
        """The first `n` ids of a split, of one level where `level` is given.

        Raises:
            ValueError: there are fewer.
        """
        size = self.number_of_tasks(check_choice("split", split, SPLITS))
        found: list[int] = []
        for index in range(size if level is None else min(size, 1000 * (n + 10))):
            if len(found) == n:
                break
            if level is None or self.task(index, split).level == level:
                found.append(index)
        if len(found) < n:
            of_level = "" if level is None else f" of level {level}"
            raise ValueError(f"asked for {n} ids{of_level} in split {split!r}, found {len(found)}")
        return found

    def solution(self, task: Any) -> str:
        """A right reply, the stop included, to a task or to the id of one."""
        raise NotImplementedError(f"{type(self).__name__} knows no solutions")

    def demonstrations(self, n: int, seed: int) -> list[Demonstration]:
        """`n` right replies to training tasks outside the pool.

        Args:
            n: how many.
            seed: seed of the draw.
        """
        rng = np.random.default_rng(seed)
        records = []
        for index in self._outside_the_pool(n, rng):
            task = self.task(index, "train")
            reply = self.demonstrated(task, rng)
            records.append(Demonstration(index, task.prompt, reply, task.level, True))
        return records

    def demonstrated(self, task: Any, rng: np.random.Generator) -> str:
        """The right reply that a demonstration of a task shows: by default the `solution`."""
        return self.solution(task)

    def render(self) -> str | None:
        """Prompt, reply and verdict as text; None without a render mode."""
        if self.render_mode is None:
            return None
        if self.current is None:
            return "no task: reset the environment first\n"
        lines = [f"prompt   {self.current.prompt}"]
        if self._last is not None:
            reply, verdict = self._last
            lines.append(f"reply    {reply}")
            lines.append("verdict  " + ", ".join(f"{k}={v}" for k, v in verdict.items()))
        return "\n".join(lines) + "\n"

    def _draw_index(self, split: str) -> int:
        size = self.pool_size if split == "train" else self.number_of_tasks(split)
        return int(self.np_random.integers(size))

    def _outside_the_pool(self, n: int, rng: np.random.Generator) -> list[int]:
        """Training ids for demonstrations, so that those of the pool stay unseen."""
        size = self.number_of_tasks("train")
        low = self.pool or 0
        if n > 0 and low >= size:
            raise ValueError(f"pool={self.pool} leaves none of the {size} training tasks")
        return rng.integers(low, size, size=n).tolist() if n > 0 else []


def cut(reply: object, stop: str, max_reply: int) -> str:
    """The part of a reply that is graded: at most `max_reply` characters, up to the first stop."""
    text = str(reply)[:max_reply] if isinstance(reply, str) else ""
    head, found, _ = text.partition(stop)
    return head + found


def without_none(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that have a value. Gymnasium's vectors mark the others as missing; they could
    not put None beside a number."""
    return {name: value for name, value in entries.items() if value is not None}


def is_test(content: str) -> bool:
    """Whether a problem is held out: about one in five, decided by its content alone."""
    return crc32(content.encode(errors="surrogatepass")) % 5 == 0


def draw_until(draw: Callable[[], T], fits: Callable[[T], bool], what: str) -> T:
    """The first draw that fits.

    Raises:
        ValueError: none of 10000 does.
    """
    for _ in range(10_000):
        one = draw()
        if fits(one):
            return one
    raise ValueError(f"these arguments leave no {what}: 10000 draws, and none fits")


def altered_digit(number: int, rng: np.random.Generator) -> int:
    """`number` with one digit replaced by another; the length stays."""
    digits = str(abs(number))
    place = int(rng.integers(len(digits)))
    low = 1 if place == 0 and len(digits) > 1 else 0
    others = [str(digit) for digit in range(low, 10) if str(digit) != digits[place]]
    changed = int(digits[:place] + str(rng.choice(others)) + digits[place + 1 :])
    return -changed if number < 0 else changed
