"""Recorded texts to learn from, in the place where other agents have their environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np

from ...envs.spaces import Texts
from ...envs.text.base import TextEnv
from ...envs.text.json_lines import read_json_lines
from .text.attempts import attempt
from .text.policy import TextPolicy

DRAWS = 100  # tasks that are tried at most for each pair that is looked for


@dataclass(frozen=True, eq=False)
class TextData:
    """N records of texts, and the environment that they are from where there is one.

    Args:
        prompts: what was read.
        env: a text environment: for warm starts and held-out tasks, and for the alphabet. None:
            the alphabet is that of the texts.
        stop: where there is no `env`: the character that ends every reply and is part of it, or ""
            where replies have none. See `CharTokenizer`.

    Raises:
        ValueError: there are no records, columns differ in length, an entry is no text (or number),
            a reply has not even a stop, or `env` is none of texts.
    """

    prompts: Sequence[str]
    env: Any = field(default=None, kw_only=True)
    stop: str = field(default="", kw_only=True)

    # Columns, and what they are called in one record of a file; replies and numbers apart.
    replies_of: ClassVar[Mapping[str, str]] = {}
    numbers_of: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        stop = end_of_replies(self.env, self.stop)
        if not len(self):
            raise ValueError("the data set holds no records")
        for name, column in self.columns().items():
            if isinstance(column, str):
                raise ValueError(f"{name} must be a list of texts, got the text {column!r}")
            if len(column) != len(self):
                raise ValueError(
                    f"there are {len(column)} {name} and {len(self)} prompts: each record has both"
                )
            for row, value in enumerate(column):
                self._check(name, value, f"{name}[{row}]", stop)
            object.__setattr__(self, name, list(column))

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def _check(cls, column: str, value: Any, what: str, stop: str) -> None:
        """ValueError unless `value` may stand in a column; it is called `what`."""
        if column in cls.numbers_of:
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not (number and isfinite(value)):
                raise ValueError(f"{what} must be a finite number, got {value!r}")
        elif not isinstance(value, str):
            raise ValueError(f"{what} must be a text, got {value!r}")
        elif column in cls.replies_of and not value and stop:
            raise ValueError(f"{what} is empty: a complete reply ends with {stop!r}")

    def columns(self) -> dict[str, Any]:
        """The columns that the data has, by name."""
        names = ("prompts", *self.replies_of, *self.numbers_of)
        found = {name: getattr(self, name) for name in names}
        return {name: column for name, column in found.items() if column is not None}

    @property
    def lessons(self) -> list[tuple[str, str]]:
        """Pairs (prompt, reply) to imitate."""
        replies = getattr(self, next(iter(self.replies_of)))
        return list(zip(self.prompts, replies, strict=True))

    @property
    def language(self) -> dict[str, str]:
        """Alphabet and stop: of the environment, or of the texts."""
        if self.env is not None:
            env = text_env(self.env)
            return {"alphabet": env.alphabet, "stop": env.stop}
        texts = (self.prompts, *(getattr(self, name) for name in self.replies_of))
        used = set(self.stop).union(*(text for column in texts for text in column))
        return {"alphabet": "".join(sorted(used)), "stop": self.stop}

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Of the environment, or as large as the prompts need."""
        return self.env.observation_space if self.env is not None else self._texts(["prompts"])

    @property
    def action_space(self) -> gym.Space[Any]:
        """Of the environment, or as large as the replies and their end need."""
        return self.env.action_space if self.env is not None else self._texts(self.replies_of)

    def _texts(self, names: Iterable[str]) -> gym.Space[Any]:
        longest = max(len(text) for name in names for text in getattr(self, name))
        return Texts(longest + 1, min_length=0, charset=self.language["alphabet"])

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], **arguments: Any) -> Self:
        """Read a file of one JSON object per line; other keys than those of a record are not read.

        Args:
            path: a UTF-8 file.
            arguments: `env` or `stop`.

        Raises:
            ValueError: the file or a line is wrong; it says which.
        """
        lines = read_json_lines(path)
        first = next(iter(lines.values()))
        numbers = {name: key for name, key in cls.numbers_of.items() if key in first}
        names = {"prompts": "prompt", **cls.replies_of, **numbers}
        stop = end_of_replies(arguments.get("env"), arguments.get("stop", ""))
        columns: dict[str, Any] = {name: [] for name in names}
        for line, entry in lines.items():
            where = f"{path}, line {line}"
            for key in set(cls.numbers_of.values()) - set(numbers.values()):
                if key in entry:
                    raise ValueError(f"{where}: {key!r} stands here and not in the first line")
            for name, key in names.items():
                cls._check(name, entry.get(key), f"{where}: {key!r}", stop)
                columns[name].append(entry[key])
        return cls(**columns, **arguments)


@dataclass(frozen=True, eq=False)
class Demonstrations(TextData):
    """N prompts with replies to imitate.

    In a file, a line is {"prompt": ..., "reply": ...}.

    Args:
        prompts: what is read.
        replies: what shall be written.
        env, stop: see `TextData`.
    """

    replies: Sequence[str] = ()

    replies_of: ClassVar[Mapping[str, str]] = {"replies": "reply"}

    @classmethod
    def drawn(cls, env: gym.Env[Any, Any], n: int, seed: int) -> Self:
        """Demonstrations that a text environment gives.

        Raises:
            ValueError: n is less than 1.
        """
        records = text_env(env).demonstrations(n, seed)
        return cls([r.prompt for r in records], [r.reply for r in records], env=env)


@dataclass(frozen=True, eq=False)
class Preferences(TextData):
    """N comparisons: a prompt, and of two replies to it the one that is preferred.

    In a file, a line is {"prompt": ..., "chosen": ..., "rejected": ...}, with "margin" in all lines
    or in none.

    Args:
        prompts: what is read.
        chosen, rejected: the preferred reply and the other.
        margins: by how much each is preferred; None: the data does not say.
        env, stop: see `TextData`.
    """

    chosen: Sequence[str] = ()
    rejected: Sequence[str] = ()
    margins: Sequence[float] | None = None

    replies_of: ClassVar[Mapping[str, str]] = {"chosen": "chosen", "rejected": "rejected"}
    numbers_of: ClassVar[Mapping[str, str]] = {"margins": "margin"}

    @classmethod
    def sampled(
        cls,
        env: gym.Env[Any, Any],
        policy: TextPolicy,
        n: int,
        *,
        seed: int | np.random.Generator = 0,
        replies: int = 2,
        temperature: float = 1.0,
        batch_size: int = 64,
    ) -> Self:
        """Pairs of a policy's own replies that the environment's score tells apart.

        Tasks are drawn from the training pool; of the replies to one, the best is preferred to the
        worst (of equal ones the first is meant), by the difference of their scores. Tasks whose
        replies all score the same are passed over.

        Args:
            env: judges.
            policy: writes; its own generator draws the replies.
            n: pairs.
            seed: of the tasks.
            replies: to each task.
            temperature: of the replies.
            batch_size: tasks that are replied to at once.

        Raises:
            ValueError: an argument is out of range, or 100 n tasks do not give n pairs.
        """
        if n < 1 or replies < 2 or batch_size < 1:
            raise ValueError(
                "n and batch_size are at least 1 and replies at least 2, got "
                f"n={n}, batch_size={batch_size}, replies={replies}"
            )
        judge, rng = text_env(env), np.random.default_rng(seed)
        found: list[tuple[str, str, str, float]] = []
        tried = 0
        while len(found) < n:
            if tried >= DRAWS * n:
                raise ValueError(
                    f"{tried} tasks gave {len(found)} pairs of {n}: the score of {judge} seldom "
                    "tells two replies of this policy apart"
                )
            tried += batch_size
            ids = judge.draw_pool(batch_size, rng)
            given = attempt(judge, policy, ids, replies, temperature)
            best, worst = given.scores.argmax(dim=1), given.scores.argmin(dim=1)
            gaps = given.scores.amax(dim=1) - given.scores.amin(dim=1)
            for row, gap in enumerate(gaps.tolist()):
                if gap > 0:
                    own = given.replies[row]
                    pair = own[int(best[row])], own[int(worst[row])]
                    found.append((given.tasks[row].prompt, *pair, gap))
        prompts, chosen, rejected, margins = (
            list(column) for column in zip(*found[:n], strict=True)
        )
        return cls(prompts, chosen, rejected, margins, env=env)

    @classmethod
    def from_demonstrations(cls, env: gym.Env[Any, Any], n: int = 64, seed: int = 0) -> Self:
        """Pairs without a policy: the reply that is demonstrated for a task, preferred to the one
        that is demonstrated for another, where it scores less.

        Args:
            env: a text environment.
            n: demonstrations; so many pairs at most.
            seed: of the demonstrations.

        Raises:
            ValueError: there is no such pair.
        """
        judge = text_env(env)
        records = judge.demonstrations(n, seed)
        columns: dict[str, Any] = {
            name: [] for name in ("prompts", "chosen", "rejected", "margins")
        }
        for right, other in zip(records, [*records[1:], *records[:1]], strict=True):
            task = judge.task(right.task, "train")
            own, less = (judge.score(judge.verify(task, r.reply)) for r in (right, other))
            if less < own:
                row = (right.prompt, right.reply, other.reply, own - less)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        return cls(**columns, env=env)


def text_env(env: gym.Env[Any, Any]) -> TextEnv:
    """A text environment out of its wrappers.

    Raises:
        ValueError: it is none of texts.
    """
    inner = env.unwrapped
    if not isinstance(inner, TextEnv):
        raise ValueError(f"a text environment is needed, got {env}")
    return inner


def end_of_replies(env: Any, stop: str) -> str:
    """What ends a reply: the stop of a text environment, or `stop` where there is none."""
    return stop if env is None else text_env(env).stop
