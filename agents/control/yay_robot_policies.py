"""High levels of YAY Robot: policies whose actions are commands in words, known by embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.checks import check_integer
from ...extras import require
from ..base.nets.mlp import mlp
from ..base.stepping import check_discrete

LEAST_TEMPERATURE = 1e-8

# -- commands and their embeddings ----------------------------------------------------------------


def command_logits(
    outputs: torch.Tensor, embeddings: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """logit_j = cos(z, e_j) / max(tau, 1e-8), [..., C].

    Args:
        outputs: z, [..., d].
        embeddings: e of C candidate commands, [C, d], none of them zero.
        temperature: tau, one number.

    Raises:
        ValueError: there is no candidate.
    """
    if not len(embeddings):
        raise ValueError("there is no candidate command to choose from")
    cosines = functional.normalize(outputs, dim=-1) @ functional.normalize(embeddings, dim=-1).T
    return cosines / temperature.clamp(min=LEAST_TEMPERATURE)


def check_embeddings(embeddings: ArrayLike, commands: int) -> NDArray[np.float32]:
    """Embeddings [C, d] as float32.

    Raises:
        ValueError: another shape, an entry that is not finite, or a zero vector.
    """
    found = np.asarray(embeddings, dtype=np.float32)
    if found.ndim != 2 or len(found) != commands or not found.size:
        raise ValueError(
            f"embeddings has shape {found.shape}, it must be a vector for each of the {commands} "
            "commands"
        )
    if not np.isfinite(found).all():
        raise ValueError("embeddings holds values that are not finite")
    if (zero := np.flatnonzero(~found.any(axis=1))).size:
        raise ValueError(f"embeddings[{zero[0]}] is zero, and has no cosine with anything")
    return found


def check_commands(commands: Sequence[str], number: int) -> tuple[str, ...]:
    """Names of commands.

    Raises:
        ValueError: there are not `number` of them, one is empty, or two are the same.
    """
    names = tuple(commands)
    if len(names) != number:
        raise ValueError(f"{len(names)} commands are named, and the environment takes {number}")
    if any(not name.split() for name in names):
        raise ValueError(f"commands={names}: one has no words")
    if len(set(names)) < number:
        raise ValueError(f"commands={names}: two are the same")
    return names


def hashed_words(commands: Sequence[str], width: int = 16) -> NDArray[np.float32]:
    """Unit vectors [C, width]: the sum of the vectors of a command's words, which are drawn from a
    normal distribution by a generator that is seeded with a hash of the word."""

    def word_vector(word: str) -> NDArray[np.float64]:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(width)

    sums = np.array([sum(map(word_vector, each.lower().split())) for each in commands])
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)


def sentence_embeddings(commands: Sequence[str], directory: str | Path) -> NDArray[np.float32]:
    """What a sentence encoder says at the first token of each command, [C, d].

    Args:
        commands: texts.
        directory: of a local Hugging Face encoder and its tokenizer (the paper's: DistilBERT).

    Raises:
        ImportError: transformers is not installed.
    """
    transformers = require("transformers", "llm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(directory, local_files_only=True).eval()
    with torch.no_grad():
        # One by one, so that no command depends on the padding that another asks for.
        rows = [
            model(**tokenizer(each, return_tensors="pt")).last_hidden_state[0, 0]
            for each in commands
        ]
    return np.asarray(torch.stack(rows).float().numpy())


# -- networks -------------------------------------------------------------------------------------


class FramesMlp(nn.Module):
    """Features of all frames side by side [B, frames x F] to z [B, outputs]."""

    def __init__(self, inputs: int, frames: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.net = mlp(inputs * frames, hidden, outputs, nn.ReLU)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """z [B, outputs] of features [B, frames, F]."""
        found: torch.Tensor = self.net(features.flatten(1))
        return found


class FramesTransformer(nn.Module):
    """A transformer encoder over frames; its last token, through a hidden layer, is z.

    Args:
        inputs: F.
        frames: how many.
        outputs: d.
        width, layers, heads, feedforward: of the encoder; features are first brought to `width`.

    Raises:
        ValueError: `width` is odd, or no multiple of `heads`.
    """

    positions: torch.Tensor

    def __init__(
        self,
        inputs: int,
        frames: int,
        outputs: int,
        *,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        feedforward: int = 512,
    ) -> None:
        super().__init__()
        if width % 2 or width % heads:
            raise ValueError(f"width={width} must be even and a multiple of heads={heads}")
        self.inputs = nn.Linear(inputs, width)
        self.register_buffer("positions", sinusoids(frames, width))
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.outputs = mlp(width, [feedforward], outputs, nn.ReLU)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """z [B, outputs] of features [B, frames, F]."""
        seen = self.encoder(self.inputs(features) + self.positions)
        found: torch.Tensor = self.outputs(seen[:, -1])
        return found


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Positions [length, width] of A. Vaswani et al., Attention Is All You Need (2017); `width` is
    even."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


# -- policies -------------------------------------------------------------------------------------


class CommandPolicy(BasePolicy):
    """Chooses the candidate whose embedding is nearest to what a network makes of the last frames.

    It sees the observations of steps t - history x skip, ..., t - skip, t, the oldest first; before
    the first step of an episode the first observation stands. `predict` remembers them in `state`:
    hand back what it returned. Without `deterministic` the command is drawn from the softmax.

    Args:
        observation_space: any of arrays.
        action_space: `Discrete`, the commands.
        lr_schedule: learning rate as a function of the progress remaining.
        commands: their names, of which `hashed_words` makes embeddings; None: "command 0", ...
        embeddings: [C, d], in place of those; those of a sentence encoder, say.
        history: frames beside the present one.
        skip: steps between two frames, at least 1.
        net_arch: hidden layers; none: a linear map.
        features_extractor_class, features_extractor_kwargs, normalize_images: as in SB3.

    Attributes:
        candidates: which commands it chooses among, bool [C].
        temperature: tau, learned.

    Raises:
        ValueError: an argument is out of range, or the action space is another.
    """

    embeddings: torch.Tensor
    candidates: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        *,
        commands: Sequence[str] | None = None,
        embeddings: ArrayLike | None = None,
        history: int = 3,
        skip: int = 1,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        **network: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
        )
        check_discrete(action_space, "commands as actions", "YAYRobot")
        number = int(action_space.n)  # type: ignore[attr-defined]
        self.history = check_integer("history", history, 0)
        self.skip = check_integer("skip", skip, 1)
        names = [f"command {i}" for i in range(number)] if commands is None else commands
        self.commands = check_commands(names, number)
        given = hashed_words(self.commands) if embeddings is None else embeddings
        self.register_buffer("embeddings", torch.from_numpy(check_embeddings(given, number)))
        self.register_buffer("candidates", torch.ones(number, dtype=torch.bool))
        self.temperature = nn.Parameter(torch.ones(()))
        self.features_extractor = self.make_features_extractor()
        sizes = (self.features_extractor.features_dim, self.history + 1)
        self.net = self.make_net(*sizes, self.embeddings.shape[1], **network)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def make_net(
        self, inputs: int, frames: int, outputs: int, *, net_arch: Sequence[int] = (64,)
    ) -> nn.Module:
        """From features [B, frames, inputs] to z [B, outputs]."""
        return FramesMlp(inputs, frames, net_arch, outputs)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of frames [B, history + 1, ...]; -inf of what is no candidate."""
        assert self.features_extractor is not None
        features = self.extract_features(frames.flatten(0, 1), self.features_extractor)
        outputs = self.net(features.unflatten(0, frames.shape[:2]))
        logits = command_logits(outputs, self.embeddings, self.temperature)
        return logits.masked_fill(~self.candidates, -math.inf)

    def remember(
        self,
        observations: torch.Tensor,
        memory: torch.Tensor | None,
        starts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames that a decision sees, and the memory after it.

        Args:
            observations: [n, ...].
            memory: the observations of the history x skip steps before; None: there were none.
            starts: whose episode begins here, bool [n].

        Returns:
            [n, history + 1, ...], and the memory [n, history x skip, ...].
        """
        present = observations[:, None]
        first = present.expand(-1, self.history * self.skip, *observations.shape[1:])
        if memory is None:
            memory = first
        elif starts is not None:
            memory = torch.where(starts.view(-1, *[1] * (first.ndim - 1)), first, memory)
        line = torch.cat([memory, present], dim=1)
        return line[:, :: self.skip], line[:, 1:]

    def choose(self, frames: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Commands [n] for frames [n, history + 1, ...]."""
        with torch.no_grad():
            logits = self(frames)
        if deterministic:
            return logits.argmax(dim=-1)
        return torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As SB3's. `state` is what the last call returned; where `episode_start` is true (bool
        [n]) it is forgotten."""
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        memory = None if state is None else torch.as_tensor(state[0], device=self.device)
        starts = None
        if episode_start is not None:
            starts = torch.as_tensor(np.atleast_1d(episode_start), device=self.device).bool()
        frames, memory = self.remember(observations, memory, starts)
        found = self.choose(frames, deterministic).cpu().numpy()
        kept = (memory.cpu().numpy(),) if self.history else None
        return found if batched else found[0], kept

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.choose(self.remember(observation, None)[0], deterministic)


class CommandTransformer(CommandPolicy):
    """`CommandPolicy` with a transformer encoder over the frames, as in the paper, whose frames are
    features of a frozen image network.

    Args:
        width, layers, heads, feedforward: of the encoder, as in `FramesTransformer`.
        others: as in `CommandPolicy`, without `net_arch`.
    """

    def make_net(self, inputs: int, frames: int, outputs: int, **sizes: Any) -> nn.Module:
        """From features [B, frames, inputs] to z [B, outputs]."""
        return FramesTransformer(inputs, frames, outputs, **sizes)
