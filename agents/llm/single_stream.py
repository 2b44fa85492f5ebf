"""SPO: one reply to a prompt, and a memory of the prompt in the place of a group.

Zhongwen Xu, Zihan Ding: Single-stream Policy Optimization (arXiv 2509.13232).

GRPO judges a reply by others to the same prompt, and learns nothing where all are alike. SPO draws
one reply r in [0, 1] to each prompt x and judges it by what it remembers of x: discounted counts
alpha and beta of successes and failures, with v = alpha / (alpha + beta) and N = alpha + beta.

    select      P(x) ~ sqrt(v (1 - v)) / N^gamma + eps       prompts of medium difficulty first
    advantage   A = r - v, then (A - mean) / (std + 1e-8)    over the whole batch; v before r counts
    track       alpha <- rho alpha + r, beta <- rho beta + 1 - r
                rho = clip(2^(-D / D_half), rho_low, rho_high)

D is how far the policy has moved on x since x was last met: the mean of |log pi_then - log pi_now|
over the tokens of the last reply to x. (The paper writes a divergence; its code computes this.) So
v <- v + (r - v) / (rho N + 1): the more the policy has changed, the sooner old replies are
forgotten. v does not know the reply that it judges, so as a baseline it adds no bias.

A prompt starts with n0 replies, s of them right, from which nothing else is learned:

    alpha = N0 (s + 1/2) / (n0 + 1),   beta = N0 (n0 - s + 1/2) / (n0 + 1),   N0 = 1 / (1 - rho_low)

The paper draws them for all its prompts before it learns; here a prompt gets them when it becomes a
candidate for the first time, so that a pool may be of any size. They count as timesteps.

The loss is GRPO's clipped surrogate, as the mean over all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.group import GroupAlgorithm, Rollouts, Selection
from ..base.resumable import prefixed
from ..base.text.advantages import standardised
from ..base.text.losses import reply_means
from ..base.text.prompt_table import PromptTable
from ..base.text.token_batch import TokenBatch
from ..base.text.trial import trial
from .baselines import GRPO, SMALL

# -- what the paper computes -----------------------------------------------------------------------


def initial_counts(
    successes: torch.Tensor, replies: int, rho_low: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and beta [n] of prompts with `successes` [n] among their first `replies` >= 1."""
    scale = 1 / (1 - rho_low) / (replies + 1)
    return scale * (successes + 0.5), scale * (replies - successes + 0.5)


def drift(then: torch.Tensor, now: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """D [n]: mean of |then - now| over the tokens of each reply; log-probabilities [n, t]."""
    return reply_means((then - now).abs(), mask)


def forgetting(
    drifts: torch.Tensor, half: float = 0.06, low: float = 0.875, high: float = 0.96
) -> torch.Tensor:
    """rho [n], the share of the counts that is kept: 2^(-drifts / half), from low to high."""
    return torch.exp2(-drifts / half).clamp(low, high)


def update_counts(
    alpha: torch.Tensor, beta: torch.Tensor, rewards: torch.Tensor, rho: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and beta after one more reply with rewards in [0, 1]; [n] each."""
    return rho * alpha + rewards, rho * beta + (1 - rewards)


def batch_advantages(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """r - v, standardised over the batch, [n]; exactly 0 where all are equal.

    Raises:
        ValueError: a batch of one, which has no spread.
    """
    if len(rewards) < 2:
        raise ValueError(f"advantages are standardised over at least 2 replies, got {len(rewards)}")
    whole = torch.zeros_like(rewards, dtype=torch.int64)
    return standardised(rewards - values, whole, epsilon=1e-8)


def prompt_probabilities(
    alpha: torch.Tensor, beta: torch.Tensor, exploration: float = 0.05, gamma: float = 0.0
) -> torch.Tensor:
    """P [n], proportional to sqrt(v (1 - v)) / N^gamma + exploration."""
    size = alpha + beta
    weights = (alpha * beta).sqrt() / size / size**gamma + exploration
    return weights / weights.sum()


# -- the agent -------------------------------------------------------------------------------------


class SingleStreamPO(GRPO):
    """Single-stream Policy Optimization (SPO), for rewards from 0 to 1.

    It remembers two counts and the last reply, with its log-probabilities, of every task that it
    has met.

    Args:
        prompts: tasks of a batch, at least 2, with one reply each.
        group_size: 1.
        candidates: tasks from which those of a batch are chosen, at least `prompts`; a pool that
            has fewer is taken as a whole.
        first_replies: n0, to a task that becomes a candidate for the first time. 0: its counts
            start at 1/2 each.
        drift_half: D_half, above 0.
        rho_low, rho_high: bounds of what is kept of the counts, 0 <= low <= high <= 1, low < 1.
        exploration: eps, above 0.
        gamma: power of N in the choice of prompts, at least 0.
        arguments: of `GRPO`. The paper's code has clip_high=0.28 and dual_clip=10.

    Logged also: `train/drift` and `train/rho`, means over the batch, and `train/value_error`, the
    mean of |r - v|.
    """

    paper = Paper(
        slug="single_stream",
        title="Single-stream Policy Optimization",
        authors="Zhongwen Xu, Zihan Ding",
        year=2025,
        arxiv="2509.13232",
        code="github.com/verl-project/verl-recipe",
    )
    example = Example(
        "Arithmetic-v0",
        {"digits": 1, "pool": 12},  # so small that tasks are met again
        "TextPolicy",
        {**SMALL, "prompts": 8, "group_size": 1, "candidates": 10, "first_replies": 0},
        steps=96,
    )

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        prompts: int = 128,
        group_size: int = 1,
        candidates: int = 256,
        first_replies: int = 8,
        drift_half: float = 0.06,
        rho_low: float = 0.875,
        rho_high: float = 0.96,
        exploration: float = 0.05,
        gamma: float = 0.0,
        **common: Any,
    ) -> None:
        if group_size != 1:
            raise ValueError(f"there are no groups here: group_size is 1, got {group_size}")
        if not 2 <= prompts <= candidates or first_replies < 0:
            raise ValueError(
                "prompts is at least 2, candidates at least prompts and first_replies at least 0, "
                f"got prompts={prompts}, candidates={candidates}, first_replies={first_replies}"
            )
        if not (0 <= rho_low <= rho_high <= 1 and rho_low < 1 and drift_half > 0):
            raise ValueError(
                "0 <= rho_low <= rho_high <= 1, rho_low below 1 and drift_half above 0, got "
                f"rho_low={rho_low}, rho_high={rho_high}, drift_half={drift_half}"
            )
        if not (exploration > 0 and gamma >= 0):
            raise ValueError(
                "exploration is above 0 and gamma at least 0, got "
                f"exploration={exploration}, gamma={gamma}"
            )
        self.candidates, self.first_replies = candidates, first_replies
        self.drift_half, self.rho_low, self.rho_high = drift_half, rho_low, rho_high
        self.exploration, self.gamma = exploration, gamma
        super().__init__(policy, env, prompts=prompts, group_size=group_size, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.counts = self.tables["counts"] = PromptTable({"alpha": 0.5, "beta": 0.5})
        self.last: TokenBatch | None = None  # the last reply to each task, in one row

    aggregate = GroupAlgorithm.aggregate  # the mean over all tokens

    def select(self) -> Selection:
        """Tasks of the pool, those of medium difficulty with the best chances."""
        size = self.tasks.pool_size
        ids = self.generator.choice(size, min(self.candidates, size), replace=False)
        self.meet([task for task in ids.tolist() if task not in self.counts])
        counts = self.counts.read(torch.from_numpy(ids))
        chances = prompt_probabilities(**counts, exploration=self.exploration, gamma=self.gamma)
        again = len(ids) < self.prompts
        chosen = self.generator.choice(ids, self.prompts, replace=again, p=chances.numpy())
        return Selection(self.tasks_of(chosen.tolist()), [1] * self.prompts)

    def meet(self, ids: Sequence[int]) -> None:
        """Start the counts of tasks with their first replies, where there are any."""
        if not ids or not self.first_replies:
            return
        rollouts = self.rollout(Selection(self.tasks_of(ids), [self.first_replies] * len(ids)))
        rewards = self.checked(self.reward(rollouts), rollouts)
        self.num_timesteps += len(rewards)
        successes = rewards.cpu().double().view(len(ids), -1).sum(dim=1)
        alpha, beta = initial_counts(successes, self.first_replies, self.rho_low)
        self.counts.write(torch.tensor(ids), alpha=alpha, beta=beta)

    def checked(self, rewards: torch.Tensor, rollouts: Rollouts) -> torch.Tensor:
        """The rewards.

        Raises:
            ValueError: one is not from 0 to 1, so that it is no share of a success.
        """
        wrong = (rewards < 0) | (rewards > 1)
        if bool(wrong.any()):
            row = int(wrong.int().argmax())
            raise ValueError(
                f"reward {float(rewards[row])} of the reply {rollouts.texts[row]!r} to "
                f"{rollouts.tasks[row].prompt!r}: successes are counted, so rewards are from 0 to 1"
            )
        return super().checked(rewards, rollouts)

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """What is better than remembered of the task, standardised over the batch."""
        assert batch.rewards is not None
        counts = self.counts.read(batch.extra["task"])
        values = (counts["alpha"] / (counts["alpha"] + counts["beta"])).to(batch.rewards)
        self.note(value_error=(batch.rewards - values).abs().mean())
        return batch_advantages(batch.rewards, values)

    def track(self, batch: TokenBatch) -> None:
        """Count the replies, each after those to its task that stand before it in the batch."""
        assert batch.rewards is not None
        tasks = batch.extra["task"]
        drifts = self.drifts(tasks)
        rho = forgetting(drifts, self.drift_half, self.rho_low, self.rho_high)
        self.note(drift=drifts.mean(), rho=rho.mean())
        rewards = batch.rewards.cpu().double()
        # The n-th replies to their tasks are counted together, n = 0, 1, ...
        number = (tasks[:, None] == tasks).tril(-1).sum(dim=1).cpu()
        for n in range(int(number.max()) + 1):
            rows = number == n
            alpha, beta = update_counts(
                **self.counts.read(tasks[rows]), rewards=rewards[rows], rho=rho[rows]
            )
            self.counts.write(tasks[rows], alpha=alpha, beta=beta)
        self.keep_last(batch)

    @torch.no_grad()
    def drifts(self, tasks: torch.Tensor) -> torch.Tensor:
        """D of tasks int [n], float64 [n] on the CPU, by one pass of the policy over the last
        replies; 0 where a task is new, and from the second time on that it stands in `tasks`: the
        policy is still the same then."""
        found: dict[int, float] = {}
        if self.last is not None:
            known = torch.isin(self.last.extra["task"], tasks).nonzero()[:, 0]
            if len(known):
                before = self.last.select(known)
                assert before.old_log_probs is not None
                now = self.policy.log_probs(before, self.temperature)
                moved = drift(before.old_log_probs, now, before.mask)
                found = dict(zip(before.extra["task"].tolist(), moved.tolist(), strict=True))
        return torch.tensor([found.pop(task, 0.0) for task in tasks.tolist()]).double()

    @torch.no_grad()
    def keep_last(self, batch: TokenBatch) -> None:
        """Keep the last reply to each task, with its log-probabilities by the policy as it is."""
        arrays = (batch.prompts, batch.prompt_mask, batch.tokens, batch.mask)
        now = self.policy.log_probs(batch, self.temperature)
        own = TokenBatch(*arrays, old_log_probs=now, extra={"task": batch.extra["task"]})
        joined = own if self.last is None else TokenBatch.join([self.last, own])
        # A dictionary keeps the last row of each task.
        rows = {task: row for row, task in enumerate(joined.extra["task"].tolist())}
        self.last = joined.select(torch.tensor(list(rows.values()), device=self.device))

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the last replies."""
        values, tensors = super().extra_state()
        if self.last is not None:
            last = self.last.tensors() | self.last.extra
            tensors |= {f"last.{name}": tensor for name, tensor in last.items()}
        return values, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.last = None
        if last := prefixed(tensors, "last"):
            task = last.pop("task")
            self.last = TokenBatch(**last, extra={"task": task}).to(self.device)


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_UPDATES, CLAIM_REPLIES = 120, 128  # replies of an update
SUMS: dict[str, Any] = {"digits": (1, 2, 3), "pool": 400}


def outcome_of(agent_class: type[GroupAlgorithm], seed: int, replies: int, **agent: Any) -> Outcome:
    """How many replies of a run taught nothing, and what the policy can do after it."""
    run = trial(agent_class, seed, replies=replies, arguments=SUMS, **agent)
    silent = run.log["rollout/zero_advantage"]
    drawn = run.agent.num_timesteps
    return run.outcome(
        **{
            "zero advantage": float(silent.mean()),
            # Replies that only start the counts of a prompt are without use to the policy, too.
            "replies without use": 1 - float((1 - silent).sum()) * CLAIM_REPLIES / drawn,
            "accuracy on the pool": run.agent.accuracy(range(SUMS["pool"]), "train"),
            "replies": float(drawn),
        }
    )


def budget(scale: float) -> int:
    """Replies of an arm."""
    return max(round(scale * CLAIM_UPDATES), 10) * CLAIM_REPLIES


def grpo_arm(seed: int, scale: float) -> Outcome:
    """GRPO: 16 prompts with 8 replies."""
    return outcome_of(GRPO, seed, budget(scale), prompts=16, group_size=8)


def single_stream_arm(seed: int, scale: float) -> Outcome:
    """SPO: 128 prompts with one reply, and two first replies to each prompt of the pool."""
    # An update begins only where a whole one is left: first replies are no multiple of a batch.
    replies = budget(scale) - (CLAIM_REPLIES - 1)
    return outcome_of(
        SingleStreamPO, seed, replies, prompts=128, candidates=256, first_replies=2, rho_low=0.8
    )


SingleStreamPO.claim = Claim(
    text="On sums of one to three digits with a pool of 400 and the same number of sampled "
    "replies, those that start the counts of a prompt included, a smaller share of the replies "
    "that SPO learns from than of GRPO's has an advantage of exactly 0. Reported beside it: "
    "accuracy on held-out tasks and on the pool.",
    arms={"SPO": single_stream_arm, "GRPO": grpo_arm},
    criteria=(Superior("zero advantage", "SPO", "GRPO", higher_is_better=False),),
    seeds=8,
    core_minutes=7.0,
)
