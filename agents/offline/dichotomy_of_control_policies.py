"""What acts with latents of the future: tables for one decision, a transformer along episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ..base.nets.mlp import mlp
from ..base.nets.trajectory import BoxHead, DiscreteHead, TrajectoryTransformer
from ..base.tabular import DiscretePolicy
from .base_decision_policy import DecisionPolicy, History

LEAST_MASS = 0.01  # latents that the prior gives no more than this are not asked for
SCORED = 128  # width of what the inner product of scores is taken of


class LatentTables(DiscretePolicy):
    """Logits q(z | s, a, r), pi(a | z, s), V(r | z, s) and p(z | s), and the latent asked for.

    Args:
        observation_space, action_space: `Discrete`.
        lr_schedule: of Adam.
        levels: R, returns that are told apart.
        latents: Z; None: A * R.
        target: which return is asked for; the last one is the highest.
        spread: standard deviation of the posterior's logits at first; all other tables start
            uniform.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        levels: int = 2,
        latents: int | None = None,
        target: int = -1,
        spread: float = 1.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.target = target
        s, a, r = self.states, self.actions, levels
        z = a * r if latents is None else latents
        self.posterior = nn.Parameter(spread * torch.randn(s, a, r, z, dtype=torch.float64))
        self.action_logits, self.value_logits, self.prior = (
            nn.Parameter(torch.zeros(shape, dtype=torch.float64))
            for shape in ((s, z, a), (s, z, r), (s, z))
        )
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def log_laws(self) -> tuple[torch.Tensor, ...]:
        """Logarithms of q [S, A, R, Z], pi [S, Z, A], V [S, Z, R] and p [S, Z]."""
        tables = (self.posterior, self.action_logits, self.value_logits, self.prior)
        return tuple(table.log_softmax(dim=-1) for table in tables)

    @torch.no_grad()
    def chosen_latents(self) -> torch.Tensor:
        """The latent asked for in each state, int64 [S].

        Of those with a prior mass above `LEAST_MASS`, the one that makes the target most probable;
        where there is none, the most probable one.
        """
        return best_latents(self.prior.softmax(-1), self.value_logits.softmax(-1)[..., self.target])

    @torch.no_grad()
    def laws(self) -> torch.Tensor:
        """Probabilities of the actions when asked for the target, [S, A]."""
        laws = self.action_logits.softmax(dim=-1)
        return laws[torch.arange(self.states), self.chosen_latents()]

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        laws = self.laws()[observation.long()]
        return laws.argmax(dim=1) if deterministic else torch.multinomial(laws, 1)[:, 0]


def best_latents(prior: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """The likely latent with the best chance of the target, int64 [S].

    Args:
        prior: p(z | s) [S, Z]. Likely is what has more than `LEAST_MASS`; where nothing has, only
            the most probable latent is.
        chances: V(target | z, s) [S, Z].
    """
    likely = prior > LEAST_MASS
    likely |= (prior == prior.amax(-1, keepdim=True)) & ~likely.any(-1, keepdim=True)
    return chances.masked_fill(~likely, -torch.inf).argmax(dim=-1)


class LatentHead(nn.Module):
    """What knows latents z on top of a hidden state h: prior, value, and the head of the actions.

    So many latents are valued for one pass of the transformer.

    Args:
        actions: the head that it feeds.
        width: of a hidden state.
        latent: width of z.
        draws: latents of which the best one is played.
    """

    noise: torch.Tensor

    def __init__(
        self, actions: BoxHead | DiscreteHead, width: int, latent: int, draws: int
    ) -> None:
        super().__init__()
        self.actions = actions
        self.prior = nn.Linear(width, 2 * latent)
        self.joined = mlp(width + latent, [width], width, nn.ReLU, activate_output=True)
        self.value = mlp(width + latent, [width], 1, nn.ReLU)
        # What is played without chance compares latents, too: always the same ones.
        self.register_buffer("noise", torch.randn(draws, latent))

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions [B, K, ...] as the transformer reads them, [B, K, E]."""
        return self.actions.encode(actions)

    def expect(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of p(z | h), [..., Z], of hidden states [..., width]."""
        mean, log_variance = self.prior(hidden).chunk(2, dim=-1)
        return mean, log_variance

    def values(self, hidden: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """V(z, h), [...], in units of the scale of returns."""
        found: torch.Tensor = self.value(torch.cat([hidden, latents], dim=-1))[..., 0]
        return found

    def losses(
        self, hidden: torch.Tensor, latents: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """Those of the actions' head for recorded actions [B, K, ...] given h and z, [B, K]."""
        return self.actions.losses(self.joined(torch.cat([hidden, latents], dim=-1)), actions)

    def act(self, hidden: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """Actions for hidden states [n, width]: of latents of the prior the one of most value."""
        mean, log_variance = self.expect(hidden)
        shape = (len(hidden), *self.noise.shape)
        noise = self.noise.expand(shape) if deterministic else torch.randn(shape).to(hidden)
        latents = mean[:, None] + (0.5 * log_variance[:, None]).exp() * noise
        best = self.values(hidden[:, None].expand(*shape[:2], -1), latents).argmax(dim=1)
        chosen = latents[torch.arange(len(hidden)), best]
        return self.actions.act(self.joined(torch.cat([hidden, chosen], dim=-1)), deterministic)


class LatentPolicy(DecisionPolicy):
    """A decision transformer whose return token is silent; `LatentHead` knows what to ask for.

    Rewards are no part of the history h_t.

    Args:
        observation_space, action_space, lr_schedule, weight_decay, network: as in `DecisionPolicy`.
        latent: width of z.
        draws: latents of which the best one is played.

    Attributes:
        reward_mean, reward_deviation: of the data.
        future: the transformer of what a window holds, read by `posterior`.
        score_optimizer: of `given` and `outcome`, whose inner product is the score f.
    """

    reward_mean: torch.Tensor
    reward_deviation: torch.Tensor
    head: Any  # a LatentHead; the base has a head of actions there

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        latent: int = 32,
        draws: int = 100,
        context: int = 20,
        horizon: int = 1_000,
        weight_decay: float = 1e-4,
        **network: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            context=context,
            horizon=horizon,
            weight_decay=weight_decay,
            **network,
        )
        width, actions = self.network.time.embedding_dim, self.network.action.in_features
        inputs = self.network.observation.in_features
        self.head = LatentHead(self.head, width, latent, draws)
        # A step's reward and action come first, so that its hidden state knows the whole step.
        self.future = TrajectoryTransformer(
            1 + actions, inputs, actions, **{**network, "horizon": horizon}
        )
        self.posterior = nn.Linear(width, 2 * latent)
        self.given = mlp(width + latent + actions, [width], SCORED, nn.ReLU)
        self.outcome = mlp(1 + inputs, [width], SCORED, nn.ReLU)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_deviation", torch.ones(()))
        learned = [*self.trained(), *self.future.parameters(), *self.posterior.parameters()]
        scoring = [*self.given.parameters(), *self.outcome.parameters()]
        self.optimizer, self.score_optimizer = (
            torch.optim.AdamW(each, lr=lr_schedule(1), weight_decay=weight_decay, fused=True)
            for each in (learned, scoring)
        )

    # -- along windows -----------------------------------------------------------------------------

    def scaled_rewards(self, rewards: torch.Tensor) -> torch.Tensor:
        """Rewards [...] as numbers of the size of 1, [..., 1]."""
        return ((rewards - self.reward_mean) / self.reward_deviation)[..., None]

    def infer(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of q(z | window), [B, Z]; the window is all of the batch's."""
        actions = self.head.encode(batch["actions"])
        hidden = self.future(
            torch.cat([self.scaled_rewards(batch["rewards"]), actions], dim=-1),
            self.features(batch["observations"]),
            actions,
            batch["timesteps"],
            batch["mask"].sum(dim=1) - 1,
        )
        mean, log_variance = self.posterior(hidden).chunk(2, dim=-1)
        return mean, log_variance

    def scores(
        self,
        hidden: torch.Tensor,
        latents: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        following: torch.Tensor,
    ) -> torch.Tensor:
        """f of row i's h, z and a and of row j's reward and next observation, [B, B].

        Args:
            hidden, latents: [B, width], [B, Z].
            actions, rewards, following: as recorded, [B, ...], [B], [B, ...].
        """
        encoded, seen = self.head.encode(actions[:, None]), self.features(following[:, None])
        given = self.given(torch.cat([hidden, latents, encoded[:, 0]], dim=-1))
        outcome = self.outcome(torch.cat([self.scaled_rewards(rewards), seen[:, 0]], dim=-1))
        found: torch.Tensor = given @ outcome.T
        return found

    def condition(
        self, history: History, started: NDArray[np.bool_], rewards: Any = None, **asked: Any
    ) -> NDArray[np.float64]:
        """Nothing, zeros [n, 1]: the latent is drawn once the history is read."""
        return np.zeros((len(started), 1))
