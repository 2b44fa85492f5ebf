"""Text to token ids and back: one character one token, or a Hugging Face tokenizer, behind one
interface."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import torch

from ....extras import require

# Printable ASCII, newline and tab: what a prompt in plain English needs.
PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " \n\t"


class Tokenizer(ABC):
    """What a `TextPolicy` asks of a tokenizer.

    A reply is complete when it ends with `stop`, which is part of the text, and with the end token,
    which is part of the tokens. Where `stop` is "", a complete reply ends with the end token alone.

    Attributes:
        eos: id of the end token.
        pad: id of the padding; masks, not ids, say what is padding.
        ends: all ids that end a reply, `eos` among them.
        stop: text that ends a reply, or "".
        implied_stops: `stop`, where a model may also write it in tokens other than the end token.
    """

    eos: int
    pad: int
    ends: tuple[int, ...]
    stop: str
    implied_stops: tuple[str, ...] = ()

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, nothing added."""

    @abstractmethod
    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a prompt, with whatever must come before it."""

    @abstractmethod
    def reply_ids(self, text: str) -> list[int]:
        """Token ids of a reply, the end token included where the reply is complete."""

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """The text of the tokens of a reply; the end token becomes `stop`."""

    @abstractmethod
    def holds(self, ids: torch.Tensor, stops: Sequence[str]) -> torch.Tensor:
        """Whether the text of each row of ids [n, t] ends in, or its last token completes, one of
        the strings: bool [n]. Rows hold replies so far, without padding."""

    def check_stops(self, stops: Sequence[str]) -> None:
        """ValueError where a string can never be written."""
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stop strings are a list of non-empty strings, got {stops!r}")

    def encode(
        self, prompts: Sequence[str], prefixes: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts, each followed by its prefix, as ids and mask [b, p], left-padded.

        Raises:
            ValueError: a prompt has no token at all, or cannot be encoded.
        """
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        if prefixes is not None:
            rows = [row + self.ids(text) for row, text in zip(rows, prefixes, strict=True)]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise ValueError(f"prompt {empty[0]} is empty, and this model has no token to begin it")
        return padded(rows, self.pad, left=True)

    def encode_replies(self, replies: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Replies as ids and mask [n, t], right-padded.

        Raises:
            ValueError: a reply has no token at all, or cannot be encoded.
        """
        rows = [self.reply_ids(reply) for reply in replies]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise ValueError(f"reply {empty[0]} has no token: a complete one ends with {self.stop}")
        return padded(rows, self.pad, left=False)

    def decode(self, ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Texts of replies ids [n, t], of which those under `mask` (bool [n, t]) count."""
        rows = zip(ids.tolist(), mask.tolist(), strict=True)
        return [self.text(list(compress(*row))) for row in rows]


class CharTokenizer(Tokenizer):
    """One character, one token: the position in the alphabet is the id.

    The ids after those of the alphabet are the end token (unless `stop` names a character of the
    alphabet for it), the beginning of a prompt and the padding. The model writes characters and the
    end token only, so what it writes can always be decoded.

    A character outside the alphabet is an error and never replaced: a model that reads "37?25"
    where "37×25" was written would be wrong for a reason that nobody sees.

    Args:
        alphabet: characters, each once.
        stop: character that is the end token, "" for an end token without text.

    Raises:
        ValueError: the alphabet is empty or repeats a character, or `stop` is not one of its
            characters.
    """

    def __init__(self, alphabet: str = PRINTABLE, stop: str = "") -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"an alphabet holds each of its characters once, got {alphabet!r}")
        if stop and (len(stop) != 1 or stop not in alphabet):
            raise ValueError(f"stop is one character of {alphabet!r} or '', got {stop!r}")
        self.alphabet, self.stop = alphabet, stop
        self.index = {character: i for i, character in enumerate(alphabet)}
        self.eos = self.index[stop] if stop else len(alphabet)
        self.ends = (self.eos,)
        self.outputs = len(alphabet) + (not stop)  # ids that a model may write: 0 to outputs - 1
        self.bos, self.pad = self.outputs, self.outputs + 1
        self.tokens = self.outputs + 2
        self._texts = [*alphabet, *[""] * (self.tokens - len(alphabet))]  # of each id

    def ids(self, text: str) -> list[int]:
        """As in `Tokenizer`.

        Raises:
            ValueError: a character is not in the alphabet.
        """
        try:
            return [self.index[character] for character in text]
        except KeyError:
            place = next(i for i, character in enumerate(text) if character not in self.index)
            raise ValueError(
                f"character {text[place]!r} at place {place} of {text!r} is not in the alphabet "
                f"{self.alphabet!r}"
            ) from None

    def prompt_ids(self, text: str) -> list[int]:
        """As in `Tokenizer`; a prompt may hold the stop."""
        return [self.bos, *self.ids(text)]

    def reply_ids(self, text: str) -> list[int]:
        """As in `Tokenizer`.

        Raises:
            ValueError: a character is not in the alphabet, or stands after the stop.
        """
        if not self.stop:
            return [*self.ids(text), self.eos]
        if self.stop in text[:-1]:
            raise ValueError(f"reply {text!r} goes on after its stop {self.stop!r}")
        return self.ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """As in `Tokenizer`."""
        return "".join([self._texts[i] for i in ids])

    def check_stops(self, stops: Sequence[str]) -> None:
        """As in `Tokenizer`."""
        super().check_stops(stops)
        for stop in stops:
            self.ids(stop)

    def holds(self, ids: torch.Tensor, stops: Sequence[str]) -> torch.Tensor:
        """As in `Tokenizer`."""
        found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for stop in stops:
            if len(stop) <= ids.shape[1]:
                found |= (ids[:, -len(stop) :] == ids.new_tensor(self.ids(stop))).all(dim=1)
        return found


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a local Hugging Face model directory.

    Args:
        path: the directory, or the tokenizer as transformers has read it.
        stop: text that a reply is given where the model wrote its end token.
        chat: wrap every prompt as a user's message in the tokenizer's chat template.
        ends: further ids that end a reply, such as an end of turn.

    Raises:
        ValueError: the directory holds no tokenizer, or one without an end token, or without the
            chat template asked for.
        ImportError: the extra "llm" is not installed.
    """

    def __init__(
        self, path: Any, stop: str = "", chat: bool = False, ends: Sequence[int] = ()
    ) -> None:
        self.inner: Any = path
        if isinstance(path, str | Path):
            transformers = require("transformers", extra="llm")
            try:
                self.inner = transformers.AutoTokenizer.from_pretrained(
                    str(path), local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # transformers raises a different class for every defect
                raise ValueError(f"{path}: no tokenizer could be read: {error}") from error
        else:
            path = path.name_or_path or type(path).__name__
        if self.inner.eos_token_id is None:
            raise ValueError(f"{path}: the tokenizer has no end token (eos_token)")
        if chat and not self.inner.chat_template:
            raise ValueError(f"{path}: the tokenizer has no chat template (chat=True)")
        self.stop, self.chat = stop, chat
        self.eos = self.inner.eos_token_id
        self.pad = self.eos if self.inner.pad_token_id is None else self.inner.pad_token_id
        self.ends = tuple(dict.fromkeys([self.eos, *ends]))
        self.implied_stops = (stop,) if stop else ()
        self._tables: dict[str, torch.Tensor] = {}

    def ids(self, text: str) -> list[int]:
        """As in `Tokenizer`."""
        found: list[int] = self.inner(text, add_special_tokens=False)["input_ids"]
        return found

    def prompt_ids(self, text: str) -> list[int]:
        """As in `Tokenizer`."""
        if self.chat:
            message = [{"role": "user", "content": text}]
            return self.ids(
                self.inner.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            )
        # Some tokenizers close every text with the end token: after that nothing would follow.
        found: list[int] = self.inner(text)["input_ids"]
        return found[:-1] if len(found) > 1 and found[-1] == self.eos else found

    def reply_ids(self, text: str) -> list[int]:
        """As in `Tokenizer`."""
        if self.stop and not text.endswith(self.stop):
            return self.ids(text)
        return [*self.ids(text.removesuffix(self.stop)), self.eos]

    def text(self, ids: Sequence[int]) -> str:
        """As in `Tokenizer`."""
        ended = bool(ids) and ids[-1] in self.ends
        kept = ids[:-1] if ended else ids
        found: str = self.inner.decode(list(kept), skip_special_tokens=True)
        return found + self.stop if ended else found

    def holds(self, ids: torch.Tensor, stops: Sequence[str]) -> torch.Tensor:
        """As in `Tokenizer`."""
        found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        longer = []
        for stop in stops:
            if len(stop) == 1 and stop.isascii() and stop != " ":
                table = self._tables[stop] = self._table(stop).to(ids.device)
                found |= table[ids[:, -1].clamp(max=len(table) - 1)]
            else:
                longer.append(stop)
        if longer:
            # One token for each byte of the longest string is enough to find it in, after one
            # character that may be cut in half.
            tail = ids[:, -(max(len(stop.encode()) for stop in longer) + 4) :].tolist()
            texts = [self.inner.decode(row, skip_special_tokens=True) for row in tail]
            held = [any(stop in text for stop in longer) for text in texts]
            found |= torch.tensor(held, dtype=torch.bool, device=ids.device)
        return found

    def _table(self, character: str) -> torch.Tensor:
        """Which tokens hold a character, bool [tokens + 1]; the last entry is for ids beyond."""
        if character not in self._tables:
            texts = self.inner.batch_decode([[i] for i in range(len(self.inner))])
            self._tables[character] = torch.tensor([*(character in t for t in texts), False])
        return self._tables[character]


def padded(
    rows: Sequence[Sequence[int]], pad: int, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one array and its mask [n, longest row]."""
    width = max((len(row) for row in rows), default=0)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)[:, None]
    gaps = [[pad] * (width - len(row)) for row in rows]
    both = zip(rows, gaps, strict=True)
    ids = torch.tensor(
        [[*gap, *row] if left else [*row, *gap] for row, gap in both], dtype=torch.int64
    ).reshape(len(rows), width)
    places = torch.arange(width)
    return ids, places >= width - lengths if left else places < lengths
