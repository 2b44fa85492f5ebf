"""`ReasoningGym-v0`: the procedural tasks of the package reasoning-gym, one reply each."""

from __future__ import annotations

import inspect
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gymnasium import spaces

from ...extras import require
from .base import PRINTABLE, Task, TextEnv, check_flag, check_integer, is_test

STOP = "\x03"  # "end of text"
ATTEMPTS = 64  # items that are looked at for one task of the wanted split
# A verifier that evaluates something else than its own data set's entry.
_EVALUATION = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?!entry|metadata)")
_OWN_PARSER = ("propositional_logic",)  # parse_expr is its own parser, which runs nothing
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class AnyText(spaces.Text):
    """Texts of any characters, of bounded length; samples are drawn from the character set.

    Args:
        max_length: characters of the longest text.
        charset: what samples are made of.
    """

    def __init__(self, max_length: int, charset: str) -> None:
        super().__init__(max_length, min_length=1, charset=charset)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length


@dataclass(frozen=True)
class ReasoningTask(Task):
    """An item of a data set: which one, and a reference answer (None where there is no single
    one)."""

    item: int = 0
    reference: str | None = None


class ReasoningGym(TextEnv):
    r"""Procedural reasoning tasks: algebra, logic, graphs, games and more, by name.

    ## Description
    One prompt, one reply. The package reasoning-gym generates about a hundred kinds of tasks, each
    with its own verifier; this environment gives them tasks by number, disjoint splits and a strict
    reward. Meant for pretrained language models.

    ## Observation
    `Text` of any characters, at most `max_prompt`: the question, shown again after the reply.

    ## Action
    `Text`, at most `max_reply` characters, ended by the control character 3 ("end of text"), which
    a model with an end token writes in its place. The answer is the whole reply or, with `tags`,
    what stands in its only `<answer>...</answer>`, blanks at both ends removed. Any string is
    legal.

    ## Dynamics
    The package generates item j from (seed, j) alone. Task i of a split is the first of the items
    i, i + tasks, i + 2 tasks, ... whose question belongs to the split; a question is a test
    question iff its crc32 is divisible by 5, so none occurs in both.

    The package's verifier scores an answer from 0 to 1; where it fails on an answer, the score is
    0. Verifiers that would run the reply as Python code are never called: their data sets are
    refused (`binary_matrix`, `countdown`, `intermediate_integration`, `n_queens`,
    `polynomial_multiplication`, `puzzle24`, `simple_integration`, `spiral_matrix` and
    `string_insertion` in version 0.1.25).

    `info` after the step: `correct` (the score is 1), `score`, `format` (stopped and, with `tags`,
    one answer between them), `length`, `stopped`. At reset: `task`, `split`, `item`.

    ## Reward
    `correct`, 0 or 1; with `partial` the score. The package gives part of the score to replies
    that merely contain the answer, which can be exploited.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `name`: a data set of the package, such as "chain_sum". `config`: its own options.
    - `seed`: of the data set, 0 to 2^31. `tasks`: ids per split, 1 to 2^20; a data set that can
      make few questions needs fewer.
    - `split`: "train" or "test". `pool`: number of training tasks that `reset` draws from.
    - `partial`, `tags`: see above. `max_reply`, `max_prompt`: characters; a longer question is
      refused when it comes up.
    - `reset(options=...)`: `task`, `split`.

    ## Data files
    None. The tasks come with the extra: `pip install "palaestra[reasoning]"`.

    ## Sources
    Z. Stojanovski et al., REASONING GYM: Reasoning Environments for Reinforcement Learning with
    Verifiable Rewards, arXiv 2505.24760. https://github.com/open-thought/reasoning-gym

    ## Version
    v0.
    """

    def __init__(
        self,
        name: str = "chain_sum",
        config: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        tasks: int = 2**14,
        split: str = "train",
        pool: int | None = None,
        partial: bool = False,
        tags: bool = False,
        max_reply: int = 512,
        max_prompt: int = 4096,
        render_mode: str | None = None,
    ) -> None:
        self.partial, self.tags = check_flag("partial", partial), check_flag("tags", tags)
        self.tasks = check_integer("tasks", tasks, 1, 2**20)
        seed = check_integer("seed", seed, 0, 2**31)
        self._source = (name, seed, self.tasks * ATTEMPTS, json.dumps(dict(config or {})))
        _data_set(*self._source)  # a wrong name or option is refused here
        if pool is not None:
            check_integer("pool", pool, 1, self.tasks)
        super().__init__(
            alphabet=PRINTABLE + "\n\t" + STOP,
            max_prompt=check_integer("max_prompt", max_prompt, 1, 2**20),
            max_reply=check_integer("max_reply", max_reply, 2, 2**20),
            stop=STOP,
            split=split,
            pool=pool,
            render_mode=render_mode,
        )
        self.observation_space = AnyText(self.max_prompt, self.alphabet)

    def number_of_tasks(self, split: str) -> int:
        """Ids of a split."""
        return self.tasks

    def make_task(self, index: int, split: str) -> ReasoningTask:
        """Task `index` of a split.

        Raises:
            ValueError: no item belongs to the split, or the question is too long.
        """
        for item in range(index, self.tasks * ATTEMPTS, self.tasks):
            entry = _entry(self._source, item)
            if is_test(entry["question"]) == (split == "test"):
                break
        else:
            raise ValueError(
                f"{self._source[0]}: none of {ATTEMPTS} items for task {index} is in split "
                f"{split!r}; the data set makes too few questions"
            )
        if not 0 < len(entry["question"]) <= self.max_prompt:
            raise ValueError(
                f"{self._source[0]}: the question of task {index} has {len(entry['question'])} "
                f"characters, max_prompt={self.max_prompt}"
            )
        reference = entry["answer"]
        shown = reference if isinstance(reference, str) else None
        return ReasoningTask(index, split, entry["question"], 0, item, shown)

    def describe(self, task: ReasoningTask) -> dict[str, Any]:
        """What `info` tells of a task."""
        return {"item": task.item}

    def grade(self, task: ReasoningTask, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        stopped = reply.endswith(STOP)
        text: str | None = reply[:-1] if stopped else None
        if text is not None and self.tags:
            found = _ANSWER.findall(text)
            one = len(found) == 1 and text.count("<answer>") == text.count("</answer>") == 1
            text = found[0] if one else None
        score = 0.0 if text is None else self._score(task.item, text.strip())
        return {
            "correct": int(score == 1),
            "score": score,
            "format": int(text is not None),
            "length": len(reply),
            "stopped": int(stopped),
        }

    def score(self, verdict: Mapping[str, Any]) -> float:
        """Reward of a verdict."""
        return float(verdict["score"] if self.partial else verdict["correct"])

    def solution(self, task: Any) -> str:
        """The reference answer.

        Raises:
            ValueError: the data set has no single answer.
        """
        one = self.find(task)
        if one.reference is None:
            raise ValueError(f"{self._source[0]} has no reference answer for task {one.index}")
        return (f"<answer>{one.reference}</answer>" if self.tags else one.reference) + STOP

    def _score(self, item: int, answer: str) -> float:
        data_set, entry = _data_set(*self._source), _entry(self._source, item)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                score = float(data_set.score_answer(answer, entry))
        except Exception:  # the verifiers of the package are not written for any text
            return 0.0
        return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


@lru_cache(maxsize=16)
def _data_set(name: str, seed: int, size: int, config: str) -> Any:
    """A data set of the package, made once per process: not every one can be pickled."""
    package = require("reasoning_gym", extra="reasoning")
    known = package.factory.DATASETS
    if name not in known or name == "composite":
        raise ValueError(f"name={name!r}, allowed are {sorted(set(known) - {'composite'})}")
    scorer = inspect.getsource(known[name][0].score_answer)
    if name not in _OWN_PARSER and _EVALUATION.search(scorer):
        raise ValueError(
            f"name={name!r}: this verifier would run the reply as Python code, which is not done"
        )
    try:
        return package.create_dataset(name, seed=seed, size=size, **json.loads(config))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: config={config}: {error}") from error


@lru_cache(maxsize=4096)
def _entry(source: tuple[str, int, int, str], item: int) -> dict[str, Any]:
    return dict(_data_set(*source)[item])
