"""Base of the agents that improve a language model by rewards of groups of its replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.text.base import Task
from .resumable import prefixed
from .text.advantages import no_signal
from .text.losses import kl_k3, token_mean
from .text.prompt_table import PromptTable
from .text.token_batch import TokenBatch
from .text_algorithm import TextAlgorithm

SAMPLES = 8  # replies that are kept to look at


@dataclass
class Selection:
    """Tasks to reply to: B of them.

    Attributes:
        tasks: as the environment's `choose` gives them.
        replies: how often each is to be replied to, all at least 1.
    """

    tasks: list[Task]
    replies: list[int]

    def __post_init__(self) -> None:
        if not self.tasks or len(self.tasks) != len(self.replies) or min(self.replies) < 1:
            raise ValueError(
                f"a selection has a number of replies of at least 1 for each of its tasks, got "
                f"{len(self.tasks)} tasks and replies={self.replies}"
            )


@dataclass
class Rollouts:
    """Replies to the tasks of a selection; replies to one task are neighbours.

    Attributes:
        tasks: the task of each reply, N.
        texts: the replies.
        verdicts: what the environment says of each.
        batch: their tokens with `old_log_probs`; `groups` number the tasks of the selection, and
            `extra` holds `task` (its id), `correct` and `ended` (not cut by the budget), [N] each.
    """

    tasks: list[Task]
    texts: list[str]
    verdicts: list[dict[str, Any]]
    batch: TokenBatch

    def keep(self, rows: torch.Tensor) -> Rollouts:
        """Some of the replies, bool [N] or int [m]."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        chosen = index.tolist()
        return Rollouts(
            [self.tasks[i] for i in chosen],
            [self.texts[i] for i in chosen],
            [self.verdicts[i] for i in chosen],
            self.batch.select(index),
        )

    @staticmethod
    def join(parts: Sequence[Rollouts]) -> Rollouts:
        """Several as one, their groups numbered on."""
        return Rollouts(
            [task for part in parts for task in part.tasks],
            [text for part in parts for text in part.texts],
            [verdict for part in parts for verdict in part.verdicts],
            TokenBatch.join([part.batch for part in parts]),
        )


class GroupAlgorithm(TextAlgorithm):
    """Groups of replies to prompts, rewarded by the environment, and a policy gradient.

    One update is a pipeline of stages, each a method that a paper may change:

        select -> rollout -> reward -> advantage -> weight -> loss -> track

    The base has no idea of its own but this order: a subclass writes at least `advantage` and
    `token_losses`, or `loss`. Numbers that it remembers of prompts are in `tables`, by a name: they
    are saved with the agent. A timestep is a reply.

    Args:
        prompts: tasks of a batch.
        group_size: replies to each of them.
        epochs: passes over a batch.
        minibatch_size: replies of a step of the optimizer; None: the whole batch.
        kl_coef: weight of KL(policy || policy before the first update) in the loss, by the
            estimator k3; 0: there is no reference.
        policy, env, temperature, demonstrations, ...: as in `TextAlgorithm`.

    Logged: `rollout/reward`, `rollout/correct`, `rollout/length` (tokens), `rollout/ended` (share
    that the budget did not cut), `rollout/no_signal` (share of groups with equal rewards),
    `rollout/zero_advantage` (share of replies whose advantage is exactly 0), `train/entropy` (nats
    per token), `train/kl` (k3, from the policy that sampled to the one that learns), `train/loss`,
    `train/grad_norm`, `train/skipped` (1 where there was nothing to learn from), and what a stage
    says in `note`.
    """

    uses_values: ClassVar[bool] = False  # whether the policy has a value head
    whole_groups: ClassVar[bool] = False  # whether minibatches keep replies to a prompt together
    kl_in_reward: ClassVar[bool] = False  # whether rewards hold the KL term, and the loss does not

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        prompts: int = 16,
        group_size: int = 8,
        epochs: int = 1,
        minibatch_size: int | None = None,
        kl_coef: float = 0.0,
        **common: Any,
    ) -> None:
        for name, value in {
            **{"prompts": prompts, "group_size": group_size, "epochs": epochs},
            **({} if minibatch_size is None else {"minibatch_size": minibatch_size}),
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if kl_coef < 0:
            raise ValueError(f"kl_coef must be at least 0, got {kl_coef}")
        self.prompts, self.group_size, self.epochs = prompts, group_size, epochs
        self.minibatch_size, self.kl_coef = minibatch_size, kl_coef
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.shuffle = torch.Generator().manual_seed(int(self.generator.integers(2**62)))
        self.samples: dict[str, list[list[Any]]] = {}
        self.tables: dict[str, PromptTable] = {}

    def fixed_policy_arguments(self) -> dict[str, Any]:
        """A value head where the algorithm uses one."""
        return {"value_head": True} if self.uses_values else {}

    def begin(self) -> None:
        """Warm start; then the policy as it is becomes the reference."""
        super().begin()
        if self.kl_coef:
            self.keep_reference()

    # -- stages ------------------------------------------------------------------------------------

    def select(self) -> Selection:
        """Tasks of the training pool, uniformly and (where there are enough) without repeats."""
        ids = self.tasks.draw_pool(self.prompts, self.generator)
        return Selection(self.tasks_of(ids), [self.group_size] * self.prompts)

    def rollout(self, selection: Selection) -> Rollouts:
        """Replies of the policy, and what the environment says of them."""
        tasks, replies = selection.tasks, selection.replies
        groups = torch.arange(len(tasks)).repeat_interleave(torch.tensor(replies))
        every = [tasks[group] for group in groups.tolist()]
        same = len(set(replies)) == 1
        prompts = [task.prompt for task in (tasks if same else every)]
        written = self.policy.generate(
            prompts, replies[0] if same else 1, temperature=self.temperature
        )
        verdicts = list(map(self.tasks.verify, every, written.texts))
        batch = written.batch()
        batch.groups = groups.to(self.device)
        batch.extra = {
            "task": torch.tensor([task.index for task in every], device=self.device),
            "correct": self.tensor([verdict["correct"] for verdict in verdicts]),
            "ended": written.ended,
        }
        return Rollouts(every, written.texts, verdicts, batch)

    def reward(self, rollouts: Rollouts) -> torch.Tensor:
        """Rewards of the replies, float [N]: those of the environment."""
        return self.tensor(list(map(self.tasks.score, rollouts.verdicts)))

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Advantages of the replies, float [N], or of their tokens, [N, T]; constants."""
        raise NotImplementedError

    def weight(self, batch: TokenBatch) -> torch.Tensor | None:
        """Weights of the tokens in the loss, float [N], [N, 1] or [N, T]; None: all 1."""
        return None

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """Losses [N, T] of the tokens of a minibatch, whose `log_probs` have gradients."""
        raise NotImplementedError

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One number of the losses of tokens: their mean."""
        return token_mean(losses, mask)

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        """Loss of a minibatch: token losses and, with a reference, the KL term, times weights."""
        losses = self.token_losses(batch)
        if batch.weights is not None:
            losses = losses * batch.weights
        if batch.reference_log_probs is not None and not self.kl_in_reward:
            assert batch.log_probs is not None
            divergence = kl_k3(batch.log_probs, batch.reference_log_probs)
            self.note(kl_reference=token_mean(divergence.detach(), batch.mask))
            losses = losses + self.kl_coef * divergence
        return self.aggregate(losses, batch.mask)

    def track(self, batch: TokenBatch) -> None:
        """Remember what later updates need of this batch; the policy has learned from it."""

    # -- the pipeline ------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One batch of replies, and what is learned from it."""
        batch = self.gather().batch
        self.assess(batch)
        idle = self.nothing_to_learn(batch)
        if not idle:
            self.improve(batch)
        self.track(batch)
        return self._summary(batch) | {"train/skipped": float(idle)}

    def gather(self) -> Rollouts:
        """The replies of an update, some of them kept to look at."""
        self._notes.clear()
        self.tasks.np_random = self.generator
        rollouts = self.collect()
        self.look_at(rollouts)
        return rollouts

    def assess(self, batch: TokenBatch) -> None:
        """What the loss needs of a whole batch: the reference's word, advantages and weights."""
        if self.reference is not None:
            with torch.no_grad():
                batch.reference_log_probs = self.reference.log_probs(batch, self.temperature)
        batch.advantages = by_tokens(self.advantage(batch))
        weights = self.weight(batch)
        batch.weights = None if weights is None else by_tokens(weights)

    def collect(self) -> Rollouts:
        """The batch to learn from: by default one round of the first three stages."""
        return self.sample()

    def sample(self) -> Rollouts:
        """Select, roll out and reward, once."""
        rollouts = self.rollout(self.select())
        rollouts.batch.rewards = self.checked(self.reward(rollouts), rollouts)
        self.num_timesteps += len(rollouts.texts)
        return rollouts

    def nothing_to_learn(self, batch: TokenBatch) -> bool:
        """Whether the loss has no gradient at all: all advantages are 0, and no KL term."""
        assert batch.advantages is not None
        return self.reference is None and not bool(batch.advantages.any())

    def improve(self, batch: TokenBatch) -> None:
        """`epochs` passes of gradient steps over a batch."""
        size = self.minibatch_size or len(batch)
        for _ in range(self.epochs):
            whole = size >= len(batch)
            parts = batch.minibatches(size, self.shuffle, self.whole_groups)
            for part in [batch] if whole else parts:
                scores = self.policy(part, self.temperature, True, self.uses_values)
                part.log_probs, part.entropies, part.values = scores
                loss = self.loss(part)
                assert part.old_log_probs is not None
                moved = kl_k3(part.old_log_probs, scores.log_probs.detach())
                self.note(
                    loss=loss,
                    entropy=token_mean(scores.entropies.detach(), part.mask),
                    kl=token_mean(moved, part.mask),
                    grad_norm=self.step(loss),
                )

    # -- what stages use ---------------------------------------------------------------------------

    def tasks_of(self, ids: Sequence[int]) -> list[Task]:
        """Training tasks by their ids."""
        choose = self.tasks.choose
        return [choose({"task": index, "split": "train"}) for index in ids]

    def checked(self, rewards: torch.Tensor, rollouts: Rollouts) -> torch.Tensor:
        """The rewards.

        Raises:
            ValueError: one is not finite.
        """
        if not bool(rewards.isfinite().all()):
            wrong = int(rewards.isfinite().int().argmin())
            raise ValueError(
                f"reward {float(rewards[wrong])} of the reply {rollouts.texts[wrong]!r} to "
                f"{rollouts.tasks[wrong].prompt!r}: rewards are finite"
            )
        return rewards

    def look_at(self, rollouts: Rollouts) -> None:
        """Keep some replies of the first and of the latest update in `samples`."""
        batch = rollouts.batch
        assert batch.groups is not None and batch.rewards is not None
        first = [0] + (batch.groups.diff().nonzero()[:, 0] + 1).tolist()  # of each group
        rows = [
            [rollouts.tasks[i].prompt, rollouts.texts[i], float(batch.rewards[i])]
            for i in first[:SAMPLES]
        ]
        self.samples.setdefault("before", rows)
        self.samples["after"] = rows

    def _summary(self, batch: TokenBatch) -> dict[str, float]:
        assert batch.rewards is not None and batch.groups is not None
        assert batch.advantages is not None
        silent = (batch.advantages * batch.mask == 0).all(dim=1)
        found = {
            "rollout/reward": batch.rewards.mean(),
            "rollout/correct": batch.extra["correct"].mean(),
            "rollout/length": batch.lengths.float().mean(),
            "rollout/ended": batch.extra["ended"].float().mean(),
            "rollout/no_signal": no_signal(batch.rewards, batch.groups),
            "rollout/zero_advantage": silent.float().mean(),
        }
        values = torch.stack(list(found.values())).tolist()
        return dict(zip(found, values, strict=True)) | self.noted()

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the samples and the tables."""
        values, tensors = super().extra_state()
        for name, table in self.tables.items():
            tensors |= {f"{name}.{column}": rows for column, rows in table.state().items()}
        return values | {"samples": self.samples}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.samples = values["samples"]
        for name, table in self.tables.items():
            table.restore(prefixed(tensors, name))

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the generator of minibatches."""
        values, tensors = super().learning_state()
        return values, tensors | {"shuffle": self.shuffle.get_state()}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.shuffle.set_state(tensors["shuffle"].cpu())


def by_tokens(values: torch.Tensor) -> torch.Tensor:
    """Values [N] of replies as [N, 1], others as they are; constants."""
    return (values[:, None] if values.ndim == 1 else values).detach()
