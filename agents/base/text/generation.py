"""Replies of a policy with their tokens, and the arguments with which they are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from .token_batch import TokenBatch
from .tokenizer import PRINTABLE

T = TypeVar("T")


@dataclass
class Generation:
    """N replies to B prompts; replies to one prompt are neighbours.

    Attributes:
        questions: the prompt of each reply, N texts.
        texts: the replies, each with the prefix that it was made to begin with.
        prompts, prompt_mask: int and bool [N, P], left-padded; prefixes included.
        tokens, mask: int and bool [N, T], what the policy wrote, right-padded.
        log_probs: float [N, T] of the tokens, at the temperature of sampling.
        ended: bool [N], False where the budget cut the reply.
        groups: int [N], the number of the prompt.
    """

    questions: list[str]
    texts: list[str]
    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor
    groups: torch.Tensor

    def batch(self, rewards: Sequence[float] | None = None) -> TokenBatch:
        """The arrays for learning, `old_log_probs` among them.

        Args:
            rewards: one per reply, finite.
        """
        scores = None if rewards is None else self.log_probs.new_tensor(rewards)
        return TokenBatch(
            self.prompts,
            self.prompt_mask,
            self.tokens,
            self.mask,
            old_log_probs=self.log_probs,
            rewards=scores,
            groups=self.groups,
        )


def check_sampling(temperature: float, top_p: float) -> None:
    """ValueError unless temperature >= 0 and 0 < top_p <= 1."""
    if not (0 <= temperature < float("inf") and 0 < top_p <= 1):
        raise ValueError(
            "sampling needs temperature >= 0 and 0 < top_p <= 1, got "
            f"temperature={temperature}, top_p={top_p}"
        )


def per_reply(name: str, values: Sequence[T], prompts: int, n: int) -> list[T]:
    """One value for each of prompts * n replies, of one for all, one per prompt or one per reply.

    Raises:
        ValueError: there are fewer or more.
    """
    if len(values) == prompts * n:
        return list(values)
    if len(values) == prompts:
        return [value for value in values for _ in range(n)]
    if len(values) == 1:
        return list(values) * (prompts * n)
    raise ValueError(
        f"{name} must be one value, {prompts} (one per prompt) or {prompts * n} (one per reply), "
        f"got {len(values)}"
    )


class Request(NamedTuple):
    """What is asked of a policy, reply by reply.

    Attributes:
        questions: the prompt of each of the N replies.
        budgets: the most tokens of each reply.
        prefixes: what each reply begins with, or None.
        repeats: replies to each text that the model reads: those to one prompt, where they begin
            with one prefix, else 1.
    """

    questions: list[str]
    budgets: list[int]
    prefixes: list[str] | None
    repeats: int

    @property
    def read(self) -> tuple[list[str], list[str] | None]:
        """Prompts and their prefixes, each that the model reads once."""
        heads = None if self.prefixes is None else self.prefixes[:: self.repeats]
        return self.questions[:: self.repeats], heads


def request(
    prompts: str | Sequence[str],
    n: int,
    max_tokens: int | Sequence[int],
    prefixes: str | Sequence[str] | None,
) -> Request:
    """The arguments of `TextPolicy.generate`, one value per reply.

    Raises:
        ValueError: there is no prompt, n or a budget is less than 1, or values are too many or few.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    b = len(prompts)
    if not prompts or n < 1:
        raise ValueError(f"there must be prompts and n >= 1, got {b} and n={n}")
    limits = np.atleast_1d(max_tokens)
    if limits.dtype.kind not in "iu" or limits.min(initial=1) < 1:
        raise ValueError(f"max_tokens are whole numbers of at least 1, got {max_tokens}")
    budgets = per_reply("max_tokens", limits.tolist(), b, n)
    begun, shared = None, True
    if prefixes is not None:
        given = [prefixes] if isinstance(prefixes, str) else prefixes
        begun = per_reply("prefixes", given, b, n)
        shared = all(begun[i] == begun[i - i % n] for i in range(b * n))
    questions = [prompt for prompt in prompts for _ in range(n)]
    return Request(questions, budgets, begun, n if shared else 1)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the end of the first stop string in it, or all of it."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def answered(observation: Any, answer: Callable[[list[str]], list[str]]) -> Any:
    """Answers to one prompt (a text), or to several: a list of texts, or an object array [n] where
    the prompts are an array.

    Args:
        observation: a text, or a list, tuple or array of texts.
        answer: texts to as many texts; it is not asked about none.

    Raises:
        ValueError: `observation` is not text.
    """
    given = observation.tolist() if isinstance(observation, np.ndarray) else observation
    single = isinstance(given, str)
    prompts = [given] if single else given
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f"a prompt is a text, or several in a list, got {observation!r}")
    texts: Any = answer(list(prompts)) if prompts else []
    if isinstance(observation, np.ndarray) and not single:
        texts = np.array(texts, dtype=object)
    return texts[0] if single else texts


def characters_of(*texts: gym.Space | None) -> str:
    """The characters of `Text` spaces, sorted; printable ASCII where not all spaces are `Text`.

    They are sorted because a space that was read from a file has them in no other order, and a
    model must not get other ids for them.
    """
    found: set[str] = set()
    for space in texts:
        if not isinstance(space, spaces.Text):
            return PRINTABLE
        found |= space.character_set
    return "".join(sorted(found))


def built(kind: type[T], given: Sequence[Any], arguments: Mapping[str, Any] | None) -> T:
    """`kind(*given, **arguments)`.

    Raises:
        ValueError: an argument is not one of its own.
    """
    arguments = arguments or {}
    allowed = list(inspect.signature(kind).parameters)[len(given) :]
    if unknown := sorted(set(arguments) - set(allowed)):
        raise ValueError(f"model_kwargs of {kind.__name__} are {allowed}, got {unknown}")
    return kind(*given, **arguments)
