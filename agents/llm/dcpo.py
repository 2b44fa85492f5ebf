"""DCPO: clip bounds that know how likely a token was, and advantages that remember the prompt.

Shihui Yang, Chengfeng Dou, Peidong Guo, Kai Lu, Qiang Ju, Fei Deng, Rihui Xin: DCPO: Dynamic
Clipping Policy Optimization (arXiv 2509.02333).

Three stages of GRPO change. q is the probability of a token when it was sampled, r its ratio.

    dynamic clip    |(r - 1) r| q <= eps instead of |r - 1| <= eps, so that rare tokens have room:
                    low(q)  = 1/2 + 1/2 sqrt(max(1 - 4 eps_low / q, 0))
                    high(q) = min(1/2 + 1/2 sqrt(1 + 4 eps_high / q), 10)
    smooth          the rewards R of the i-th visit to a prompt are standardised twice, in their
    advantages      group (a_new) and with the statistics of all visits so far (a_tot):
                    A = the smaller in size of ((i-1) a_new + a_tot) / i, (a_new + (i-1) a_tot) / i
    only the        sum over the group of the token means of its replies; no division by G
    token mean      (prompts are averaged here, so that the loss does not grow with the batch)

A prompt that is now always solved, or never, teaches as long as its history says otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch

from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.text.advantages import group_statistics
from ..base.text.losses import clipped
from ..base.text.prompt_table import PromptTable
from ..base.text.token_batch import TokenBatch
from ..base.text.trial import trial
from .baselines import GRPO, SMALL
from .dapo import DAPO

LEAST = 1e-12  # probability of a token, as far as its bounds go

# -- what the paper computes -----------------------------------------------------------------------


def dynamic_bounds(
    probabilities: torch.Tensor, low: float = 0.16, high: float = 0.2, most: float = 10.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest ratio with |(r - 1) r| q <= low below 1 and <= high above it.

    Args:
        probabilities: q of any shape, under the policy that sampled; below 1e-12 as 1e-12.
        low, high: bounds of |(r - 1) r| q.
        most: no ratio may be greater. The least ratio is 1/2 or more.

    Returns:
        Two tensors in the shape of q.
    """
    q = probabilities.clamp(min=LEAST)
    return (
        0.5 + 0.5 * (1 - 4 * low / q).clamp(min=0).sqrt(),
        (0.5 + 0.5 * (1 + 4 * high / q).sqrt()).clamp(max=most),
    )


class History(NamedTuple):
    """Rewards of the visits to a prompt so far, float each of the same shape; 0 before the first.

    Attributes:
        mean: of the rewards.
        std: the merged standard deviation.
        visits: how many there were.
        replies: of each visit.
    """

    mean: torch.Tensor
    std: torch.Tensor
    visits: torch.Tensor
    replies: torch.Tensor


def merge(before: History, mean: torch.Tensor, std: torch.Tensor, replies: torch.Tensor) -> History:
    """The history with one more visit of the given statistics; visits weigh the same."""
    visits = before.visits + 1
    step = mean - before.mean
    squares = before.visits * (before.std.square() + step.square() / visits) + std.square()
    # Written so that means which agree stay what they are, and a spread of 0 stays 0.
    return History(before.mean + step / visits, (squares / visits).sqrt(), visits, replies)


def smooth_advantages(
    rewards: torch.Tensor, groups: torch.Tensor, before: History
) -> tuple[torch.Tensor, History]:
    """Advantages of the replies of one visit each to different prompts.

    Args:
        rewards: float [n].
        groups: int [n], replies to one prompt have one number.
        before: [n], of the prompt of each reply, without this visit.

    Returns:
        The advantages [n], and the histories with this visit [n].

    Raises:
        ValueError: a reply is alone in its group, or an earlier visit had another number of them.
    """
    found = group_statistics(rewards, groups)
    replies = found.size.to(rewards)
    other = (replies < 2) | ((before.visits > 0) & (replies != before.replies))
    if bool(other.any()):
        at = int(other.int().argmax())
        raise ValueError(
            "each visit to a prompt has at least 2 replies and as many as the visits before it, "
            f"group {int(groups[at])} has {int(replies[at])} after {int(before.visits[at])} visits "
            f"of {int(before.replies[at])}"
        )
    mean = torch.where(found.equal, rewards, found.mean)  # exact, as is a spread of 0
    std = found.std.masked_fill(found.equal, 0.0)
    after = merge(before, mean, std, replies)
    own, total = standard(rewards, mean, std), standard(rewards, after.mean, after.std)
    share = 1 / after.visits
    first, second = (1 - share) * own + share * total, share * own + (1 - share) * total
    return torch.where(first.abs() < second.abs(), first, second), after


def standard(rewards: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(R - mean) / std, and 0 where std is 0."""
    return torch.where(std > 0, (rewards - mean) / std.where(std > 0, 1.0), 0.0)


def visit_numbers(tasks: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Which visit of its task in a batch each reply belongs to, int [n]: 0 for the first group of
    replies to it, 1 for the second, ...; `tasks` and `groups` int [n]."""
    met: dict[int, dict[int, int]] = {}
    found = []
    for task, group in zip(tasks.tolist(), groups.tolist(), strict=True):
        visits = met.setdefault(task, {})
        found.append(visits.setdefault(group, len(visits)))
    return torch.tensor(found)


# -- the agent -------------------------------------------------------------------------------------


class DCPO(GRPO):
    """Dynamic clipping policy optimisation.

    What it remembers of each prompt goes by the id of its task. A task that occurs several times in
    one batch is visited once after the other.

    Args:
        clip_low, clip_high: bounds of |(r - 1) r| q below and above 1.
        most_ratio: no ratio counts for more, however rare its token.
        dual_clip: as in `GRPO`.
        minibatch_size: in whole groups, at least one.
        arguments: of `GRPO`.

    Logged also: `train/clip_fraction` of the tokens. Replies with an advantage, which the paper
    calls utilised, are 1 - `rollout/zero_advantage`.
    """

    paper = Paper(
        slug="dcpo",
        title="DCPO: Dynamic Clipping Policy Optimization",
        authors="Shihui Yang, Chengfeng Dou, Peidong Guo, Kai Lu, Qiang Ju, Fei Deng, Rihui Xin",
        year=2025,
        arxiv="2509.02333",
        code="github.com/lime-RL/DCPO",
    )
    example = Example(
        "Arithmetic-v0",
        {"digits": 1, "pool": 6},
        "TextPolicy",
        {**SMALL, "epochs": 2, "minibatch_size": 8},
        steps=96,
    )
    whole_groups: ClassVar[bool] = True  # the loss is a mean over prompts

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_low: float = 0.16,
        clip_high: float = 0.2,
        most_ratio: float = 10.0,
        dual_clip: float | None = 10.0,
        **common: Any,
    ) -> None:
        if most_ratio <= 1:
            raise ValueError(f"most_ratio is above 1, got {most_ratio}")
        self.most_ratio = most_ratio
        super().__init__(
            *(policy, env), clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, **common
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.history = PromptTable(dict.fromkeys(History._fields, 0.0))
        self.tables["history"] = self.history

    def visit(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, History]:
        """Advantages [N], and the tasks of the batch [m] with their histories after it [m].

        Raises:
            ValueError: the batch does not say of which tasks its replies are.
        """
        assert batch.rewards is not None and batch.groups is not None
        if "task" not in batch.extra:
            raise ValueError(
                "what is remembered of a prompt goes by the id of its task, extra['task']; the "
                f"batch has {sorted(batch.extra)}"
            )
        tasks, groups = batch.extra["task"].cpu(), batch.groups.cpu()
        rewards = batch.rewards.cpu().double()
        names, member = tasks.unique(return_inverse=True)
        state = History(**self.history.read(names))
        advantages, turns = torch.zeros_like(rewards), visit_numbers(tasks, groups)
        for turn in turns.unique():
            rows = turns == turn
            at = member[rows]
            before = History(*(column[at] for column in state))
            advantages[rows], after = smooth_advantages(rewards[rows], groups[rows], before)
            for column, values in zip(state, after, strict=True):
                column[at] = values  # all replies of a group say the same
        return advantages.to(batch.rewards), names, state

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Smooth advantages."""
        return self.visit(batch)[0]

    def clip_bounds(self, batch: TokenBatch) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Dynamic bounds."""
        assert batch.old_log_probs is not None
        bounds = (self.clip_low, self.clip_high, self.most_ratio)
        least, greatest = dynamic_bounds(batch.old_log_probs.exp(), *bounds)
        return 1 - least, greatest - 1

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        """Token means, summed over the replies to a prompt, mean over the prompts."""
        assert batch.groups is not None
        return super().loss(batch) * len(batch) / len(batch.groups.unique())

    def track(self, batch: TokenBatch) -> None:
        """Remember the visits."""
        _, tasks, state = self.visit(batch)
        self.history.write(tasks, **state._asdict())


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_UPDATES, RARE = 100, 0.2  # RARE: tokens of less than this probability
TASKS: dict[str, Any] = {"digits": (1, 2, 3), "pool": 64}
SET_UP: dict[str, Any] = {
    **{"prompts": 16, "group_size": 8, "epochs": 4, "learning_rate": 1e-4},
    # Fewer are learnt by heart, and hardly any group is mixed.
    "demonstrations": 10_000,
}
# The sum over a group is 8 times GRPO's mean, and so is the bound of its gradient.
SUMMED: dict[str, Any] = {**SET_UP, "max_grad_norm": 8.0}


class WithoutSmoothing(DCPO):
    """DCPO with the advantages of GRPO."""

    advantage = GRPO.advantage


class WithoutDynamicBounds(DCPO):
    """DCPO with bounds of ratios that are the same for all tokens."""

    clip_bounds = GRPO.clip_bounds


class Counting(GRPO):
    """Also counts replies with an advantage, rare tokens, and those of them that are clipped."""

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """As the agent's."""
        found = super().advantage(batch)
        self.note(utilised=(found != 0).sum())
        return found

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """As the agent's."""
        assert batch.advantages is not None and batch.old_log_probs is not None
        rare = batch.mask & (batch.old_log_probs.exp() < RARE)
        ratio = self.token_ratios(batch).detach()
        cut = clipped(ratio, batch.advantages, *self.clip_bounds(batch))
        self.note(rare=rare.sum(), rare_clipped=(cut & rare).sum())
        return super().token_losses(batch)


def outcome(cls: type[GRPO], seed: int, scale: float, arguments: dict[str, Any]) -> Outcome:
    """One run on a pool whose prompts return every fourth update."""
    replies = max(round(scale * CLAIM_UPDATES), 2) * SET_UP["prompts"] * SET_UP["group_size"]
    counting = type(cls.__name__, (Counting, cls), {})
    found = trial(counting, seed, replies=replies, arguments=TASKS, **arguments)
    utilised = float(found.log["train/utilised"].sum())
    steps, accuracy = map(torch.tensor, found.curve)
    return found.outcome(
        **{
            # Of all replies that were sampled, also those that DAPO drops.
            "utilisation": utilised / found.agent.num_timesteps,
            "clipped rare tokens": found.mean("train/rare_clipped") / found.mean("train/rare"),
            "clipped tokens": found.mean("train/clip_fraction"),
            "accuracy area": float(torch.trapezoid(accuracy, steps) / (steps[-1] - steps[0])),
            "pool accuracy": found.agent.accuracy(range(TASKS["pool"]), "train"),
        }
    )


def grpo_arm(seed: int, scale: float) -> Outcome:
    """GRPO."""
    return outcome(GRPO, seed, scale, SET_UP)


def dapo_arm(seed: int, scale: float) -> Outcome:
    """DAPO."""
    return outcome(DAPO, seed, scale, SET_UP)


def dcpo_arm(seed: int, scale: float) -> Outcome:
    """DCPO."""
    return outcome(DCPO, seed, scale, SUMMED)


def without_smoothing_arm(seed: int, scale: float) -> Outcome:
    """DCPO without smooth advantages."""
    return outcome(WithoutSmoothing, seed, scale, SUMMED)


def without_dynamic_bounds_arm(seed: int, scale: float) -> Outcome:
    """DCPO with the bounds of GRPO."""
    return outcome(WithoutDynamicBounds, seed, scale, {**SUMMED, "clip_low": 0.2})


DCPO.claim = Claim(
    text="On a pool of 64 sums that return, with 4 epochs per batch and as many replies, more "
    "replies have an advantage with DCPO than with GRPO, at most half as many tokens of a "
    "probability below 0.2 are clipped, and held-out accuracy on the way is not worse (by 0.02). "
    "DAPO, and DCPO without one of its two ideas, are shown beside them.",
    arms={
        "GRPO": grpo_arm,
        "DAPO": dapo_arm,
        "DCPO": dcpo_arm,
        "without smooth advantages": without_smoothing_arm,
        "without dynamic bounds": without_dynamic_bounds_arm,
    },
    criteria=(
        Superior("utilisation", "DCPO", "GRPO"),
        # Not worse by more than -0.5 of GRPO's: at most half of it.
        NotInferior(
            *("clipped rare tokens", "DCPO", "GRPO"),
            margin=-0.5,
            relative=True,
            higher_is_better=False,
        ),
        NotInferior("accuracy area", "DCPO", "GRPO", margin=0.02),
    ),
    seeds=6,
    core_minutes=12.0,
)
