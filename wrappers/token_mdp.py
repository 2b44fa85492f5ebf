"""Any text environment as a token-level decision process: one step writes one token.

    env = TokenMDP(gym.make("Arithmetic-v0", digits=1, terms=3))
    PPO("MlpPolicy", env).learn(100_000)

The reply grows token by token; when it is complete it goes to the text environment, whose reward
and `info` come back with that step. Before, the reward is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..envs.text.base import check_choice, check_integer

LAYOUTS = ("one_hot", "ids")


class Tokenizer(Protocol):
    """What `TokenMDP` asks of a tokenizer; those of Hugging Face have it."""

    def encode(self, text: str, /) -> Sequence[int]:
        """Tokens of a text."""

    def decode(self, tokens: Any, /) -> str:
        """Text of tokens."""

    def __len__(self) -> int:
        """Size of the vocabulary."""


class CharacterTokenizer:
    """One token per character of an alphabet; the position in the alphabet is the token.

    Args:
        alphabet: the characters, without repeats.
    """

    def __init__(self, alphabet: str) -> None:
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"alphabet={alphabet!r} must hold characters, none of them twice")
        self.alphabet = alphabet
        self._tokens = {character: token for token, character in enumerate(alphabet)}

    def __len__(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text.

        Raises:
            ValueError: a character is not in the alphabet.
        """
        foreign = sorted(set(text) - set(self._tokens))
        if foreign:
            raise ValueError(f"{foreign} are not in the alphabet {self.alphabet!r}")
        return [self._tokens[character] for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return "".join(self.alphabet[token] for token in tokens)


class TokenMDP(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A text environment in which an action is one token.

    Action: `Discrete(vocab)`. A reply is complete when it holds the environment's stop, when the
    tokenizer's end token is written (it stands for the stop), or after `max_tokens` tokens or
    `max_reply` characters. In an environment of several turns the next reply then begins.

    Observation, a flat `Box`: `prompt_tokens` places for the end of the prompt, filled from the
    right, and `max_tokens` places for the reply so far, filled from the left. With "one_hot"
    (float32) a place is one number per token of the vocabulary, all 0 where it is empty; with
    "ids" (int64) it is the token, and the size of the vocabulary where it is empty.

    Masks: `info["action_mask"]` (int8 [vocab]) and `action_masks()` (bool, the convention of
    sb3-contrib) mark the tokens that a well-formed reply may hold: those that decode to the
    environment's `reply_characters`, and the end token. Any token may be written all the same, so
    that agents without masks run; it makes a wrong reply. An agent that masks learns faster.

    Args:
        env: an environment of texts with `stop`, `max_reply`, `max_prompt` and `alphabet`, such as
            those of `envs/text`.
        tokenizer: an object with `encode`, `decode` and a length or a `vocab_size`; by default one
            token per character of the environment's alphabet. An `eos_token_id` is its end token.
        max_tokens: tokens of a reply; by default `max_reply` of the environment.
        prompt_tokens: tokens of the prompt that are seen, its last ones; by default `max_prompt`.
        observation: "one_hot" or "ids".

    Raises:
        ValueError: the environment has no text, the tokenizer lacks a method, or a number is out
            of range.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        tokenizer: Tokenizer | None = None,
        *,
        max_tokens: int | None = None,
        prompt_tokens: int | None = None,
        observation: str = "one_hot",
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            prompt_tokens=prompt_tokens,
            observation=observation,
        )
        super().__init__(env)
        base: Any = env.unwrapped
        if not isinstance(env.action_space, spaces.Text) or not hasattr(base, "stop"):
            raise ValueError(f"{base} is no text environment: its actions are {env.action_space}")
        self.tokenizer = CharacterTokenizer(base.alphabet) if tokenizer is None else tokenizer
        for name in ("encode", "decode"):
            if not callable(getattr(self.tokenizer, name, None)):
                raise ValueError(f"tokenizer {tokenizer!r} has no method {name}")
        self.vocabulary = _size(self.tokenizer)
        self.max_tokens = check_integer(
            "max_tokens", base.max_reply if max_tokens is None else max_tokens, 1, 2**20
        )
        self.prompt_tokens = check_integer(
            "prompt_tokens", base.max_prompt if prompt_tokens is None else prompt_tokens, 1, 2**20
        )
        self.one_hot = check_choice("observation", observation, LAYOUTS) == "one_hot"
        self.end_token = getattr(self.tokenizer, "eos_token_id", None)
        self.action_space = spaces.Discrete(self.vocabulary)
        places = self.prompt_tokens + self.max_tokens
        self.observation_space = (
            spaces.Box(0.0, 1.0, (places * self.vocabulary,), np.float32)
            if self.one_hot
            else spaces.Box(0, self.vocabulary, (places,), np.int64)
        )
        self._mask = self._legal(base.reply_characters)
        self._prompt: list[int] = []
        self._tokens: list[int] = []
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """A new task; options are those of the text environment."""
        prompt, info = self.env.reset(seed=seed, options=options)
        self._begin(prompt)
        self._ended = False
        return self._observe(), self._info(info)

    def step(self, action: int) -> tuple[NDArray[Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Write one token.

        Raises:
            ValueError: the action is no token; the episode has ended.
        """
        token = self._check(action)
        if self._ended:
            raise ValueError(
                "the episode has ended, or none has begun: reset the environment first"
            )
        self._tokens.append(token)
        reply = self.reply
        if not self._complete(reply):
            return self._observe(), 0.0, False, False, self._info({})
        prompt, reward, terminated, truncated, info = self.env.step(reply)
        self._ended = terminated or truncated
        info = {**info, "reply": reply}
        if not self._ended:
            self._begin(prompt)
        return self._observe(), float(reward), terminated, truncated, self._info(info)

    @property
    def reply(self) -> str:
        """The reply so far."""
        ended = bool(self._tokens) and self._tokens[-1] == self.end_token
        text = str(self.tokenizer.decode(self._tokens[:-1] if ended else self._tokens))
        return text + self._base.stop if ended else text

    def action_masks(self) -> NDArray[np.bool_]:
        """The tokens that a well-formed reply may hold, bool [vocab]."""
        return self._mask.copy()

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    def _begin(self, prompt: str) -> None:
        self._prompt = list(self.tokenizer.encode(prompt))[-self.prompt_tokens :]
        self._tokens = []

    def _complete(self, reply: str) -> bool:
        base = self._base
        full = len(self._tokens) >= self.max_tokens or len(reply) >= base.max_reply
        return full or base.stop in reply

    def _observe(self) -> NDArray[Any]:
        ids = np.full(self.prompt_tokens + self.max_tokens, self.vocabulary, dtype=np.int64)
        begin = self.prompt_tokens
        ids[begin - len(self._prompt) : begin] = self._prompt
        ids[begin : begin + len(self._tokens)] = self._tokens
        if not self.one_hot:
            return ids
        places = np.zeros((len(ids), self.vocabulary + 1), dtype=np.float32)
        places[np.arange(len(ids)), ids] = 1.0
        return places[:, : self.vocabulary].reshape(-1)

    def _info(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": self._mask.astype(np.int8)}

    def _legal(self, characters: str) -> NDArray[np.bool_]:
        allowed = set(characters) | set(self._base.stop)
        texts = (self.tokenizer.decode([token]) for token in range(self.vocabulary))
        mask = np.array([bool(text) and set(text) <= allowed for text in texts])
        if self.end_token is not None:
            mask[self.end_token] = True
        return mask

    def _check(self, action: Any) -> int:
        given = np.asarray(action)
        if given.shape != () or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"action {action!r} is no token: {given.dtype} of shape {given.shape}")
        return check_integer("action", int(given), 0, self.vocabulary - 1)


def _size(tokenizer: Any) -> int:
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else getattr(tokenizer, "vocab_size", 0)
    return check_integer("size of the tokenizer's vocabulary", size, 1, 2**31)
