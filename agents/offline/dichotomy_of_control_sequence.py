"""Dichotomy of control along episodes; what it is about stands in `dichotomy_of_control.py`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import update_learning_rate

from ...envs.checks import check_integer
from ..base.declare import Example
from ..base.offline_actor_critic import Batch
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import OfflineTensors, episode_ends
from ..base.stages import gradient_step
from .base_decision_transformer import DecisionTransformer, masked_mean
from .dichotomy_of_control import TabularDoC, check_weights
from .dichotomy_of_control_policies import LatentPolicy

# -- the paper's computation ----------------------------------------------------------------------


def information_bound(
    positives: torch.Tensor, scores: torch.Tensor, log_reference: torch.Tensor
) -> torch.Tensor:
    """E f - E log E_rho exp f, a scalar: the best f makes it I(outcome; z | h, a) and a constant.

    Args:
        positives: f of what happened, [B].
        scores: f of the same h, a and z with C outcomes, [B, C].
        log_reference: log rho of these outcomes, [C] or a number; -inf: an outcome that is dropped.
    """
    return (positives - torch.logsumexp(scores + log_reference, dim=-1)).mean()


def gaussian_kl(
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    other_mean: torch.Tensor,
    other_log_variance: torch.Tensor,
) -> torch.Tensor:
    """KL of normal laws with independent entries from others, [...], of tensors [..., Z]."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other_mean).square() * (-other_log_variance).exp()
    return 0.5 * (ratio + distance - 1 + other_log_variance - log_variance).sum(dim=-1)


def gaussian_nll(
    value: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
) -> torch.Tensor:
    """-log of the density of normal laws with independent entries, [...], of tensors [..., Z]."""
    distance = (value - mean).square() * (-log_variance).exp()
    return 0.5 * (distance + log_variance + math.log(2 * math.pi)).sum(dim=-1)


# -- the agent ------------------------------------------------------------------------------------


class SequenceDoC(DecisionTransformer):
    """DoC along sequences: the transformer reads no returns, its heads read latents of the future.

    Latents are Gaussian and of a whole window; a window's first `context` steps are those that
    the policy learns, what follows is only there to be inferred from. Information about rewards and
    next observations is estimated at one step of each window: it is what the best scores find less
    the constant, which is what they find with zeros for z. No information is negative, so an
    estimate below zero counts as none: otherwise the latents learn to mislead the scores, and run
    away from them.

    Args:
        policy: "MlpPolicy"; sizes go into `policy_kwargs`, see `LatentPolicy`.
        env: an `OfflineDataset` of at least two whole episodes, with rewards and next observations.
        future: steps of a window beyond the context; None: as many as the context has.
        latent: width of z.
        draws: latents of which the one of most value is played; without chance always the same
            draws of the standard normal law are scaled.
        information_weight, prior_weight: w_I, w_p.
        context, horizon, warmup_steps, max_grad_norm, learning_rate, batch_size, common: as in
            `DecisionTransformer`, which has a `target_return`; here it must be None.

    Raises:
        ValueError: as there; or a return is asked for, or there are less than two episodes.
    """

    paper = TabularDoC.paper
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": LatentPolicy}
    needed: ClassVar[tuple[str, ...]] = ("rewards", "next_observations")
    example = Example(
        DecisionTransformer.example.env,
        DecisionTransformer.example.env_kwargs,
        kwargs={**DecisionTransformer.example.kwargs, "latent": 4, "draws": 8},
        steps=20,
        data=DecisionTransformer.example.data,
    )
    policy: LatentPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        future: int | None = None,
        latent: int = 32,
        draws: int = 100,
        information_weight: float = 1.0,
        prior_weight: float = 1.0,
        target_return: None = None,
        **common: Any,
    ) -> None:
        refuse_target(target_return)
        self.future = None if future is None else check_integer("future", future, 0)
        self.latent = check_integer("latent", latent, 1)
        self.draws = check_integer("draws", draws, 1)
        self.information_weight, self.prior_weight = check_weights(information_weight, prior_weight)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        own = {"latent": self.latent, "draws": self.draws}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()

    def check_data(self, dataset: OfflineDataset) -> None:
        """As the base's; ValueError also where there are less than two episodes."""
        super().check_data(dataset)
        if len(episode_ends(dataset)) < 2:
            raise ValueError("the data hold one episode, at least two are needed")

    @torch.no_grad()
    def fit_scales(self, tensors: OfflineTensors) -> None:
        """As the base's, with the scale of rewards."""
        super().fit_scales(tensors)
        rewards = tensors.column("rewards")
        self.policy.reward_mean.copy_(rewards.mean())
        self.policy.reward_deviation.copy_(rewards.std(correction=0) + 1e-6)

    def draw(self) -> Batch:
        """Windows of context and future, with the step of each that is scored, `scored` [B]."""
        assert self.tensors is not None
        length = self.context + (self.context if self.future is None else self.future)
        batch = self.tensors.sample_windows(self.batch_size, length, self.generator)
        known = batch["mask"][:, : self.context].sum(dim=1)
        places = torch.from_numpy(self.generator.random(self.batch_size)).to(known.device)
        batch["scored"] = (places * known).long()
        return batch

    # -- a step ------------------------------------------------------------------------------------

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """That of all but the scores, and theirs."""
        return [*super().optimizers(), self.policy.score_optimizer]

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        # Its rate rises over the first steps, as that of the other does.
        update_learning_rate(
            self.policy.score_optimizer, self.policy.optimizer.param_groups[0]["lr"]
        )

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of all but the scores, which lowers the bound, then one of the scores."""
        mean, log_variance = self.policy.infer(batch)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        known = {name: part[:, : self.context] for name, part in batch.items() if part.ndim > 1}
        hidden = self.hidden(known)
        loss = self.imitation(known, hidden, latents, mean, log_variance)
        place = (torch.arange(len(latents), device=latents.device), batch["scored"])
        scored = {name: part[place] for name, part in known.items()}
        history = hidden[place].detach()
        told, silent = self.bound(scored, history, latents), self.bound(scored, history, None)
        information = (told - silent.detach()).clamp(min=0)
        self.note(loss=loss, information=information)
        weighted = self.information_weight * information
        gradient_step(self.policy.optimizer, loss + weighted, self.max_grad_norm)
        told = self.bound(scored, history, latents.detach())
        gradient_step(self.policy.score_optimizer, -(told + silent))
        return {}

    def hidden(self, known: Batch) -> torch.Tensor:
        """Hidden states [B, K, width] of the histories."""
        silent = torch.zeros_like(known["rewards"])[..., None]
        return self.policy.hidden(
            silent, known["observations"], known["actions"], known["timesteps"]
        )

    def imitation(
        self,
        known: Batch,
        hidden: torch.Tensor,
        latents: torch.Tensor,
        mean: torch.Tensor,
        log_variance: torch.Tensor,
    ) -> torch.Tensor:
        """The terms of the loss but the information, a scalar.

        Args:
            known: windows [B, K, ...].
            hidden: [B, K, width].
            latents, mean, log_variance: of z [B, Z].
        """
        head = self.policy.head
        along = latents[:, None].expand(*hidden.shape[:2], -1)
        returns = known["returns_to_go"] / self.policy.return_scale
        prior_mean, prior_log_variance = head.expect(hidden)
        fixed = prior_mean.detach(), prior_log_variance.detach()
        losses = head.losses(hidden, along, known["actions"])
        losses = losses + (head.values(hidden, along) - returns).square()
        kl = gaussian_kl(mean[:, None], log_variance[:, None], *fixed)
        losses = losses + self.prior_weight * kl
        losses = losses + gaussian_nll(along.detach(), prior_mean, prior_log_variance)
        return masked_mean(losses, known["mask"])

    def bound(
        self, scored: Batch, history: torch.Tensor, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """`information_bound` with the outcomes of the minibatch as rho, a scalar.

        Args:
            scored: a step of each window, [B, ...].
            history: [B, width].
            latents: [B, Z]; None: the scores do not know them.
        """
        scores = self.policy.scores(
            history,
            history.new_zeros(len(history), self.latent) if latents is None else latents,
            scored["actions"],
            scored["rewards"],
            scored["next_observations"],
        )
        uniform = torch.full_like(scores[0], -math.log(len(scores)))
        return information_bound(scores.diagonal(), scores, uniform)

    # -- acting ------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        rewards: Any = None,
        target_return: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """As the base's, but rewards are not looked at, and no return can be asked for.

        Raises:
            ValueError: a return is asked for.
        """
        refuse_target(target_return)
        return super().predict(observation, state, episode_start, deterministic)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.score_optimizer"], []


def refuse_target(target_return: Any) -> None:
    """ValueError where a return is asked for."""
    if target_return is not None:
        raise ValueError(
            f"target_return={target_return}: SequenceDoC asks for the latent of the highest value, "
            "not for a return"
        )
