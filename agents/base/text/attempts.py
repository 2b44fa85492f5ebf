"""Replies of a policy to tasks of a text environment, with what the environment says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ....envs.text.base import Task, TextEnv
from .policy import TextPolicy


class Attempts(NamedTuple):
    """n replies to each of B tasks.

    Attributes:
        tasks: B of them.
        replies: the replies to each task.
        scores: float64 [B, n], what the environment pays for each.
        correct: float64 [B, n], 1 where it calls a reply right.
    """

    tasks: list[Task]
    replies: list[list[str]]
    scores: torch.Tensor
    correct: torch.Tensor


def attempt(
    env: TextEnv,
    policy: TextPolicy,
    ids: Sequence[int],
    n: int,
    temperature: float = 1.0,
    split: str = "train",
) -> Attempts:
    """Let a policy reply to tasks, and grade what it writes.

    Args:
        env: whose `verify` and `score` grade.
        policy: writes; its own generator draws.
        ids: of tasks of a split, B of them.
        n: replies per task.
        temperature: of the replies.
        split: "train" or "test".

    Raises:
        ValueError: a score is not finite, or an argument is out of range.
    """
    tasks = [env.choose({"task": index, "split": split}) for index in ids]
    texts = policy.generate([task.prompt for task in tasks], n, temperature=temperature).texts
    replies = [texts[row : row + n] for row in range(0, len(texts), n)]
    verdicts = [
        [env.verify(task, reply) for reply in own] for task, own in zip(tasks, replies, strict=True)
    ]
    correct = table(verdicts, lambda verdict: verdict["correct"])
    scores = table(verdicts, env.score)
    check_scores(scores, [task.prompt for task in tasks], replies)
    return Attempts(tasks, replies, scores, correct)


def table(rows: Sequence[Sequence[Any]], value: Any) -> torch.Tensor:
    """`value` of each entry of rows [B][n] as float64 [B, n]."""
    return torch.tensor([[float(value(entry)) for entry in row] for row in rows]).double()


def check_scores(
    scores: torch.Tensor, prompts: Sequence[str], replies: Sequence[Sequence[str]]
) -> None:
    """ValueError where one of scores [B, n] is not finite; it names the prompt and the reply."""
    for prompt, own, row in zip(prompts, replies, scores.tolist(), strict=True):
        for reply, score in zip(own, row, strict=True):
            if not -float("inf") < score < float("inf"):
                raise ValueError(
                    f"the reply {reply!r} to {prompt!r} has the score {score}: scores are finite"
                )
