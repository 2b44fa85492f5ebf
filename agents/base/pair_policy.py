"""Policies that choose a guest (virtual machine) and a host (physical machine) for it.

They read a cluster of any size from the observations of `VMRescheduling-v0`, so one trained on
small clusters also acts in large ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.cluster.features import PM_FEATURES, VM_FEATURES
from .nets.tree_attention import Encoded, TreeEncoder

NEVER = -1e8  # logit of what is masked
TIED = 1e-4  # logits that differ by less are equal; rounding differs between sizes of a batch
KEYS = ("pms", "vms", "owner", "legal", "progress")

# -- distributions over a masked choice ------------------------------------------------------------


def masked(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Logits, -1e8 where not `allowed` (bool, same shape)."""
    return logits.masked_fill(~allowed, NEVER)


def log_prob_of(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Log probability [n] of the chosen `index` [n] under `logits` [n, A]."""
    return logits.log_softmax(-1).gather(-1, index[:, None])[:, 0]


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    """Entropy [n] of `logits` [n, A], in nats; masked choices add nothing."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def first_best(logits: torch.Tensor) -> torch.Tensor:
    """Index [n] of the largest logit; of those that tie with it the first."""
    best = logits.max(-1, keepdim=True).values
    return (logits > best - TIED).int().argmax(-1)


def pruned(probabilities: torch.Tensor, quantile: float) -> torch.Tensor:
    """Drop what is less likely than the given quantile of its row, and renormalize.

    The quantile is that of all entries (interpolated), masked ones included, so that 0.98 of 280
    machines leaves six. Equal probabilities all stay. (.5, .3, .15, .05) at 0.5 becomes
    (.625, .375, 0, 0).

    Args:
        probabilities: [n, A].
        quantile: in [0, 1]; 0 drops nothing.
    """
    # What is below the threshold by rounding alone stays: so do rows of equal probabilities.
    threshold = probabilities.quantile(quantile, dim=-1, keepdim=True) * (1 - 1e-6)
    kept = torch.where(probabilities >= threshold, probabilities, 0.0)
    return kept / kept.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Choice:
    """How to choose from a distribution.

    Attributes:
        greedy: the best in every row, in none, or in the rows of a boolean tensor [n]; elsewhere a
            sample.
        quantiles: below which samples of the first and of the second stage are not drawn.
        generator: for the samples; None: torch's own.
    """

    greedy: bool | torch.Tensor = False
    quantiles: tuple[float, float] = (0.0, 0.0)
    generator: torch.Generator | None = None

    def __call__(self, logits: torch.Tensor, stage: int) -> torch.Tensor:
        """Index [n] for `logits` [n, A] of stage 0 or 1."""
        if self.greedy is True:
            return first_best(logits)
        probabilities = logits.softmax(-1)
        if self.quantiles[stage] > 0:
            probabilities = pruned(probabilities, self.quantiles[stage])
        sample = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
        if self.greedy is False:
            return sample
        return torch.where(self.greedy, first_best(logits), sample)


class PairDistribution(Protocol):
    """A distribution over pairs (guest, host); actions are int [n, 2]."""

    def choose(self, choice: Choice) -> torch.Tensor:
        """Actions."""

    def judge(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of actions and entropies, both [n]; where it takes two stages, the
        entropy of the second one is that given the first part of `actions`."""


# -- policies --------------------------------------------------------------------------------------


class Tables(NamedTuple):
    """An observation as tables: P hosts, V guests, C = P (or 2 P) second actions.

    Attributes:
        hosts, guests: features [n, P, 8] and [n, V, 6].
        owner: host of each guest, int [n, V]; -1 for padding.
        legal: bool [n, V, C].
        progress: share of the moves that are made, [n, 1].
    """

    hosts: torch.Tensor
    guests: torch.Tensor
    owner: torch.Tensor
    legal: torch.Tensor
    progress: torch.Tensor


class PairPolicy(ActorCriticPolicy):
    """Actor and critic on the encoding of a cluster; a subclass writes the actor.

    A subclass creates its networks in `_build_actor` and returns a distribution from
    `distribution`. The observation space says which clusters are trained on; `predict` takes
    observations of any other size as well (a batch must be of one size).

    Args:
        observation_space, action_space: of `VMRescheduling-v0`.
        lr_schedule: learning rate as a function of the progress remaining.
        use_sde: part of SB3's interface, must be False.
        width, heads, blocks, feedforward: of the encoder.
        sparse: whether the encoder has tree attention.

    Raises:
        ValueError: the spaces are others, or `use_sde` is asked for.
    """

    observation_space: gym.spaces.Dict
    action_space: gym.spaces.MultiDiscrete

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        use_sde: bool = False,
        width: int = 32,
        heads: int = 2,
        blocks: int = 1,
        feedforward: int = 64,
        sparse: bool = True,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde=True is for continuous actions, pairs are discrete")
        if (
            not isinstance(observation_space, gym.spaces.Dict)
            or set(observation_space) != set(KEYS)
            or not isinstance(action_space, gym.spaces.MultiDiscrete)
            or action_space.shape != (2,)
        ):
            raise ValueError(
                f"{type(self).__name__} takes observations Dict({', '.join(KEYS)}) and actions "
                f"MultiDiscrete([V, P]), got {observation_space} and {action_space}"
            )
        self.sizes = {
            **{"width": width, "heads": heads, "blocks": blocks},
            **{"feedforward": feedforward},
        }
        self.sparse = sparse
        super().__init__(observation_space, action_space, lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "sparse": self.sparse,
            **self.sizes,
        }

    def _build(self, lr_schedule: Schedule) -> None:
        hosts = self.observation_space["pms"].shape
        assert hosts is not None
        choices = int(self.action_space.nvec[1]) * PM_FEATURES // hosts[0]
        self.encoder = TreeEncoder(PM_FEATURES, VM_FEATURES, sparse=self.sparse, **self.sizes)
        self.value_net = nn.Linear(self.sizes["width"], 1)
        self._build_actor(choices)
        self.optimizer = torch.optim.Adam(
            self.parameters(), lr=lr_schedule(1), eps=1e-5, fused=True
        )

    def _build_actor(self, choices: int) -> None:
        """Create the networks of the actor; `choices` second actions per host."""
        raise NotImplementedError

    def distribution(self, tables: Tables, encoded: Encoded) -> PairDistribution:
        """The distribution over pairs."""
        raise NotImplementedError

    # -- observations ------------------------------------------------------------------------------

    def obs_to_tensor(
        self, observation: np.ndarray | Mapping[str, np.ndarray]
    ) -> tuple[dict[str, torch.Tensor], bool]:
        """One observation or a batch, of a cluster of any size, and whether it is a batch.

        Raises:
            ValueError: an entry is missing, or the sizes of the entries do not belong together.
        """
        if not isinstance(observation, Mapping) or any(key not in observation for key in KEYS):
            given = sorted(observation) if isinstance(observation, Mapping) else type(observation)
            raise ValueError(f"an observation has the entries {list(KEYS)}, got {given}")
        arrays = {key: np.asarray(observation[key], np.float32) for key in KEYS}
        batched = arrays["owner"].ndim == 2
        if not batched:
            arrays = {key: value[None] for key, value in arrays.items()}
        shapes = {key: value.shape for key, value in arrays.items()}
        rows, guests = shapes["owner"]
        hosts = shapes["pms"][-1] // PM_FEATURES
        choices = max(shapes["legal"][-1] // max(guests * hosts, 1), 1)
        expected = {
            "pms": (rows, hosts * PM_FEATURES),
            "vms": (rows, guests * VM_FEATURES),
            "owner": (rows, guests),
            "legal": (rows, guests * hosts * choices),
            "progress": (rows, 1),
        }
        if shapes != expected:
            raise ValueError(f"an observation of these sizes has {expected}, got {shapes}")
        tensors = {key: torch.as_tensor(value, device=self.device) for key, value in arrays.items()}
        return tensors, batched

    @staticmethod
    def tables(observation: Any) -> Tables:
        """Tables from batched tensors."""
        owner = observation["owner"].long()
        rows, guests = owner.shape
        return Tables(
            observation["pms"].float().reshape(rows, -1, PM_FEATURES),
            observation["vms"].float().reshape(rows, guests, VM_FEATURES),
            owner,
            observation["legal"].reshape(rows, guests, -1) > 0.5,
            observation["progress"].float().reshape(rows, 1),
        )

    # -- SB3's interface ---------------------------------------------------------------------------

    def _read(self, observation: Any) -> tuple[torch.Tensor, PairDistribution]:
        """Values [n, 1] and the distribution."""
        tables = self.tables(observation)
        encoded: Encoded = self.encoder(tables.hosts, tables.guests, tables.owner, tables.progress)
        # After the last move there is nothing to come.
        values = self.value_net(encoded.critic) * (tables.progress < 1)
        return values, self.distribution(tables, encoded)

    def forward(
        self, obs: Any, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions [n, 2], values [n, 1] and log probabilities [n]."""
        values, distribution = self._read(obs)
        actions = distribution.choose(Choice(greedy=deterministic))
        return actions, values, distribution.judge(actions)[0]

    def evaluate_actions(
        self, obs: Any, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values [n, 1], log probabilities [n] and entropies [n]."""
        values, distribution = self._read(obs)
        return values, *distribution.judge(actions.long())

    def get_distribution(self, obs: Any) -> Any:
        """The distribution over pairs, a `PairDistribution`."""
        return self._read(obs)[1]

    def predict_values(self, obs: Any) -> torch.Tensor:
        """Values [n, 1]."""
        if bool((obs["progress"] >= 1).all()):  # SB3 asks for each end of an episode by itself
            return torch.zeros(len(obs["progress"]), 1, device=self.device)
        return self._read(obs)[0]

    def choose(self, obs: Any, choice: Choice) -> torch.Tensor:
        """Actions [n, 2] for batched tensors."""
        return self._read(obs)[1].choose(choice)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.choose(observation, Choice(greedy=deterministic))


def start_small(layer: nn.Linear, gain: float = 0.01) -> None:
    """Orthogonal weights, so small that a new policy is nearly uniform (as SB3 starts heads)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)


class JointDistribution:
    """One choice among all pairs.

    Args:
        logits: [n, V, C].
    """

    def __init__(self, logits: torch.Tensor) -> None:
        self.columns = logits.shape[2]
        self.logits = logits.flatten(1)

    def choose(self, choice: Choice) -> torch.Tensor:
        """Actions [n, 2]."""
        index = choice(self.logits, 0)
        return torch.stack([index // self.columns, index % self.columns], dim=1)

    def judge(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of actions and entropies, both [n]."""
        index = actions[:, 0] * self.columns + actions[:, 1]
        return log_prob_of(self.logits, index), entropy_of(self.logits)


class FlatPolicy(PairPolicy):
    """The usual way: one head over all pairs, which must find out by itself what is legal.

    A score is a two-layer network on the features and the embeddings of guest and host. Only rows
    of padding are masked, so the environment must punish illegal moves (`penalty_mode`).
    """

    def _build_actor(self, choices: int) -> None:
        width = self.sizes["width"]
        self.host_part = nn.Linear(PM_FEATURES + width, width)
        self.guest_part = nn.Linear(VM_FEATURES + width, width)
        self.pair_net = nn.Linear(width, choices)
        start_small(self.pair_net)

    def distribution(self, tables: Tables, encoded: Encoded) -> PairDistribution:
        """All pairs of guests that are there."""
        hosts = self.host_part(torch.cat([tables.hosts, encoded.hosts], dim=2))
        guests = self.guest_part(torch.cat([tables.guests, encoded.guests], dim=2))
        scores = self.pair_net(functional.gelu(guests[:, :, None] + hosts[:, None]))
        present = (tables.owner >= 0)[..., None]
        return JointDistribution(masked(scores.flatten(2), present.expand_as(tables.legal)))
