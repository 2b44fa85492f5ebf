"""`RubricText-v0`: short texts with properties that can be checked, met one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import (
    Demonstration,
    Task,
    TextEnv,
    check_choice,
    check_integer,
    check_share,
    draw_until,
    is_test,
)

ALPHABET = "$abcdefgh!.0123456789:|/,-ABCDEFGHIJKLMNOPR"
LETTERS = "abcdefgh"
CODES = "ABCDEFGHIJKLMNOP"
EDITS = 400

CONSTRAINTS: tuple[Callable[[str], bool], ...] = (
    lambda w: "b" in w,
    lambda w: "c" not in w,
    lambda w: w.startswith("d"),
    lambda w: w.endswith("e"),
    lambda w: len(w) >= 6,
    lambda w: len(w) <= 9,
    lambda w: run(w) < 2,
    lambda w: w.count("f") == 2,
    lambda w: "a" in w and "h" in w[w.index("a") :],
    lambda w: len(set(w)) >= 4,
)


@dataclass(frozen=True)
class RubricTask(Task):
    """What the reply has to be.

    Attributes:
        constraints: ids of the constraints, ascending; empty for the task "order".
        order: the letters in their order; empty for constraints.
        draft: the text that the prompt shows, None for none.
    """

    constraints: tuple[int, ...] = ()
    order: str = ""
    draft: str | None = None


class RubricText(TextEnv):
    """Write a short text that meets the constraints that the prompt names.

    ## Description
    One prompt, one reply, graded by several yes-or-no criteria: for rewards from rubrics, partial
    credit, revision of drafts, and side properties (style, politeness, safety) that a reward may
    or may not see.

    ## Observation
    `Text`, shown again after the reply: `0358:` names constraints (task "constraints", `show`
    "ids"), `C:` stands for a set of them that is not shown ("code"), `bdfaeh:` for an order of
    letters (task "order"). With a draft: `0358|dabe|8:`, that is ids, draft, those that it does
    not meet; or `C|dabe:`. An empty draft is `-`. Alphabet:
    `$abcdefgh!.0123456789:|/,-ABCDEFGHIJKLMNOPR`.

    ## Action
    `Text`, at most `max_reply` characters: letters `a` to `h` and the marks `!` and `.`, ended by
    `$`. Any string is legal.

    ## Dynamics
    The constraints on the letters of a reply, its marks left out:

        0 contains b    1 has no c    2 starts with d    3 ends with e    4 at least 6 letters
        5 at most 9     6 no letter twice in a row       7 exactly two f
        8 some a before some h        9 at least 4 different letters

    A reply without letters, without the stop, or with another character meets none. Task i:
    `default_rng((pool_seed, i))` draws n constraints (or six letters in random order) until crc32
    of them is divisible by 5 iff the split is "test". Letter number j of "code" stands for set 13 j
    mod C(10, n) of the lexicographic list; these 16 prompts are those of both splits.

    `info` after the step: `met` (0 or 1 per constraint), `unmet` (their ids, as text), `gold`
    (number met; for "order" the longest common subsequence of the six letters and the reply, 0 to
    6), `score`, `correct` (all met), `format`, `stopped`, and the features `length` (letters),
    `distinct` (different letters), `run` (the longest of one letter), `count_e`, `ascending` (share
    of neighbouring letters in alphabetical order), `friendly` (`!` occurs), `closing` (ends in
    `.`), `safe` (no `gg`), `helpful` (= correct). At reset: `task`, `split`.

    ## Reward
    `score`: the share of constraints met plus `style` times `ascending`; for "order" gold / 6.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `task`: "constraints" or "order". `n`: constraints, 1 to 10. `show`: "ids" or "code".
    - `style`: weight of `ascending` in the score, 0 to 10.
    - `split`: "train" or "test". `pool`: number of training tasks that `reset` draws from.
      `pool_seed`: integer >= 0. `max_reply`: characters, 12 to 64.
    - `reset(options=...)`: `task` (0 to 2^20 - 1), `split`, `draft` (letters `a` to `h`).

    ## Data files
    None.

    ## Sources
    Written for this suite.

    ## Version
    v0.
    """

    options = ("task", "split", "draft")

    def __init__(
        self,
        task: str = "constraints",
        n: int = 4,
        show: str = "ids",
        *,
        style: float = 0.0,
        split: str = "train",
        pool: int | None = None,
        pool_seed: int = 0,
        max_reply: int = 16,
        render_mode: str | None = None,
    ) -> None:
        self.order = check_choice("task", task, ("constraints", "order")) == "order"
        self.coded = check_choice("show", show, ("ids", "code")) == "code"
        self.n = check_integer("n", n, 1, len(CONSTRAINTS))
        self.style = check_share("style", style, 10.0)
        self.pool_seed = check_integer("pool_seed", pool_seed, 0, 2**63 - 1)
        max_reply = check_integer("max_reply", max_reply, 12, 64)
        super().__init__(
            alphabet=ALPHABET,
            max_prompt=2 * len(CONSTRAINTS) + max_reply + 3,
            max_reply=max_reply,
            split=split,
            pool=pool,
            reply_characters="$" + LETTERS + "!.",
            render_mode=render_mode,
        )

    def make_task(self, index: int, split: str) -> RubricTask:
        """Task `index` of a split."""
        if self.coded and not self.order:
            chosen = _coded(index % len(CODES), self.n)
            prompt = f"{CODES[index % len(CODES)]}:"
            return RubricTask(index, split, prompt, 0, chosen)
        rng = np.random.default_rng((self.pool_seed, index))

        def draw() -> str:
            if self.order:
                return "".join(rng.permutation(list(LETTERS))[:6])
            return "".join(map(str, sorted(rng.permutation(len(CONSTRAINTS))[: self.n])))

        wanted = split == "test"
        text = draw_until(draw, lambda one: is_test(one) == wanted, f"task in split {split!r}")
        if self.order:
            return RubricTask(index, split, f"{text}:", 0, (), text)
        return RubricTask(index, split, f"{text}:", 0, tuple(map(int, text)))

    def choose(self, options: Mapping[str, Any]) -> RubricTask:
        """The task of a reset, with its draft."""
        task: Any = super().choose(options)
        return self.with_draft(task, options["draft"]) if "draft" in options else task

    def with_draft(self, task: Any, draft: str) -> RubricTask:
        """The task with a draft in its prompt.

        Raises:
            ValueError: the task is an order; the draft is too long or holds other characters.
        """
        one = self.find(task)
        if self.order:
            raise ValueError("the task 'order' has no drafts")
        if not isinstance(draft, str) or set(draft) - set(LETTERS) or len(draft) >= self.max_reply:
            raise ValueError(
                f"draft={draft!r:.80} must be at most {self.max_reply - 1} letters of {LETTERS!r}"
            )
        head, shown = one.prompt.partition(":")[0], draft or "-"
        if not self.coded:
            shown += "|" + "".join(map(str, _unmet(one.constraints, draft)))
        return replace(one, prompt=f"{head}|{shown}:", draft=draft)

    def grade(self, task: RubricTask, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        body = reply[:-1] if reply.endswith("$") else ""
        letters = "".join(character for character in body if character not in "!.")
        if set(letters) - set(LETTERS):
            body = letters = ""
        pairs = list(itertools.pairwise(letters))
        ascending = sum(a < b for a, b in pairs) / len(pairs) if pairs else 0.0
        if self.order:
            met, unmet = [], ""
            gold = _common(task.order, letters)
            share, correct = gold / len(task.order), int(gold == len(task.order))
        else:
            left = _unmet(task.constraints, letters)
            met = [int(k not in left) for k in task.constraints]
            unmet, gold = "".join(map(str, left)), sum(met)
            share, correct = gold / len(met), int(not left)
        return {
            "met": met,
            "unmet": unmet,
            "gold": gold,
            "score": share + self.style * ascending,
            "correct": correct,
            "format": int(bool(letters)),
            "stopped": int(reply.endswith("$")),
            "length": len(letters),
            "distinct": len(set(letters)),
            "run": run(letters),
            "count_e": letters.count("e"),
            "ascending": ascending,
            "friendly": int("!" in body),
            "closing": int(body.endswith(".")),
            "safe": int("gg" not in letters),
            "helpful": correct,
        }

    def score(self, verdict: Mapping[str, Any]) -> float:
        """Reward of a verdict."""
        return float(verdict["score"])

    def writer(
        self,
        task: Any,
        skill: float,
        rng: np.random.Generator,
        habit: NDArray[np.float64] | None = None,
        friendly: float = 0.0,
        closing: float = 0.0,
    ) -> str:
        """A random reply that meets each constraint with probability `skill` at least.

        A text of 4 to 9 letters is edited letter by letter, at most 400 times; an edit stays if no
        constraint is lost of those that this reply cares for. For "order" each letter is right with
        probability `skill`.

        Args:
            task: a task, or its id in this environment's split.
            skill: probability of caring for a constraint.
            rng: generator.
            habit: logits [8, 8] of the next letter given the last, None for uniform letters.
            friendly: probability of a `!` at the end.
            closing: probability of a `.` at the end.
        """
        one, skill = self.find(task), check_share("skill", skill)
        if self.order:
            right = rng.random(len(one.order)) < skill
            drawn = rng.choice(list(LETTERS), size=len(one.order))
            text = "".join(np.where(right, list(one.order), drawn))
        else:
            kept = [k for k in one.constraints if rng.random() < skill]
            text = self._edited(_letters(rng, habit), kept, rng)
        text += "!" if rng.random() < check_share("friendly", friendly) else ""
        return text + ("." if rng.random() < check_share("closing", closing) else "") + "$"

    def solution(self, task: Any) -> str:
        """A reply that meets everything."""
        one = self.find(task)
        rng = np.random.default_rng((self.pool_seed, max(one.index, 0)))
        texts = (self.writer(one, 1.0, rng) for _ in range(1000))
        return next(text for text in texts if self.grade(one, text)["correct"])

    def demonstrations(
        self,
        n: int,
        seed: int,
        *,
        skill: float = 0.7,
        revise_share: float = 0.0,
        friendly: float = 0.0,
        closing: float = 0.0,
    ) -> list[Demonstration]:
        """Replies to learn from, to training tasks outside the pool.

        Args:
            n: how many.
            seed: seed of the draw.
            skill: of the writer.
            revise_share: share of prompts with a draft (of skill 0.5); the reply is the draft,
                edited until it meets all constraints.
            friendly: share of replies with `!`.
            closing: share of replies that end in `.`.
        """
        rng = np.random.default_rng(seed)
        check_share("revise_share", revise_share)
        records = []
        for index in self._outside_the_pool(n, rng):
            task = self.task(index, "train")
            if rng.random() < revise_share:
                draft = self.writer(task, 0.5, rng)[:-1]
                task = self.with_draft(task, draft)
                reply = self._edited(draft, list(task.constraints), rng, None) + "$"
            else:
                reply = self.writer(task, skill, rng, None, friendly, closing)
            correct = bool(self.grade(task, reply)["correct"])
            records.append(Demonstration(index, task.prompt, reply, 0, correct))
        return records

    def _edited(
        self, text: str, kept: list[int], rng: np.random.Generator, edits: int | None = EDITS
    ) -> str:
        """The text after random edits that lose none of the kept constraints."""
        longest = self.max_reply - 3
        missing = _unmet(kept, text)
        for _ in range(100_000 if edits is None else edits):
            if not missing:
                break
            place = int(rng.integers(len(text) + 1))
            letter, kind = str(rng.choice(list(LETTERS))), int(rng.integers(3))
            # 0: insert, 1: replace, 2: delete
            new = text[:place] + (letter if kind < 2 else "") + text[place + (kind > 0) :]
            still = _unmet(kept, new)
            if 0 < len(new) <= longest and set(still) <= set(missing):
                text, missing = new, still
        return text


def run(letters: str) -> int:
    """Length of the longest run of one letter."""
    return max((len(list(group)) for _, group in itertools.groupby(letters)), default=0)


def _unmet(constraints: tuple[int, ...] | list[int], letters: str) -> list[int]:
    """Those that the letters do not meet; an empty text meets none."""
    return [k for k in constraints if not letters or not CONSTRAINTS[k](letters)]


def _coded(letter: int, n: int) -> tuple[int, ...]:
    """The constraints that a code letter stands for."""
    rank = 13 * letter % comb(len(CONSTRAINTS), n)
    return next(itertools.islice(itertools.combinations(range(len(CONSTRAINTS)), n), rank, None))


def _common(order: str, letters: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(order) + 1)
    for letter in letters:
        before = row[:]
        for k, wanted in enumerate(order, start=1):
            row[k] = before[k - 1] + 1 if letter == wanted else max(before[k], row[k - 1])
    return row[-1]


def _letters(rng: np.random.Generator, habit: NDArray[np.float64] | None) -> str:
    """4 to 9 random letters: uniform, or a chain."""
    size = int(rng.integers(4, 10))
    if habit is None:
        return "".join(rng.choice(list(LETTERS), size=size))
    logits = np.asarray(habit, dtype=np.float64)
    if logits.shape != (len(LETTERS), len(LETTERS)) or not np.isfinite(logits).all():
        raise ValueError(f"habit must be finite numbers [8, 8], got shape {logits.shape}")
    chain = [int(rng.integers(len(LETTERS)))]
    for _ in range(size - 1):
        weights = np.exp(logits[chain[-1]] - logits[chain[-1]].max())
        chain.append(int(rng.choice(len(LETTERS), p=weights / weights.sum())))
    return "".join(LETTERS[k] for k in chain)
