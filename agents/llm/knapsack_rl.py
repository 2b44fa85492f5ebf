"""Knapsack RL: rollouts go where they teach most.

Ziniu Li, Congliang Chen, Tianyun Yang, Tian Ding, Ruoyu Sun, Ge Zhang, Wenhao Huang, Zhi-Quan Luo:
Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation (arXiv 2509.25849).

Eight replies to every prompt are too many for an easy one and too few for a hard one: all succeed,
or all fail, and the gradient is 0. With p the success rate of a prompt, N replies to it are worth

    Value(p, N) = P(both outcomes occur) * gain = (1 - p^N - (1 - p)^N) * p (1 - p)^2

where the gain is how far a step of learning lifts p. A batch of B prompts has the budget n B:

    maximise sum_i Value(p_i, N_i)   over integers low <= N_i <= high with sum_i N_i = n B

Value is concave in N >= 1, so the budget goes, one reply after the other, to the largest marginal
value. Around this knapsack:

    prompts without enough recorded outcomes   N = n
    prompts that always failed or succeeded    N = 2
    more than the others can use               goes to those that always failed

"Can use" is the number of replies after which both outcomes have been seen with some confidence.
The rate p is the mean outcome of the newest visit to the prompt, or, where that was short, of the
latest outcomes over visits.

The loss is that of GRPO with DAPO's clip, as a mean over tokens: a prompt counts in proportion to
its N. The authors solve the knapsack by a table over budgets, in which a prompt that stays at `low`
counts as worth 0; here it counts as Value(p, low).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..base.declare import Claim, Outcome, Paper, Superior
from ..base.group import Selection
from ..base.text.token_batch import TokenBatch
from ..base.text.trial import trial
from .baselines import GRPO, TokenMeanGRPO, example

MOST_ADVANTAGE = 5.0  # one success among 48 replies would have 6.9

# -- what the paper computes -----------------------------------------------------------------------


def mixed_chance(p: torch.Tensor, rollouts: torch.Tensor) -> torch.Tensor:
    """1 - p^N - (1 - p)^N: the chance that N >= 1 replies show both outcomes, in their shape."""
    return 1 - p**rollouts - (1 - p) ** rollouts


def learning_gain(p: torch.Tensor) -> torch.Tensor:
    """p (1 - p)^2: how far a step of learning lifts a success rate p, up to a constant."""
    return p * (1 - p) ** 2


def task_value(p: torch.Tensor, rollouts: torch.Tensor) -> torch.Tensor:
    """Value of N >= 1 replies to prompts with success rates p, in their common shape."""
    return mixed_chance(p, rollouts) * learning_gain(p)


def rollouts_until_mixed(p: torch.Tensor) -> torch.Tensor:
    """1/p + 1/(1 - p) - 1: mean number of replies until both outcomes have been seen; infinite for
    p = 0 and p = 1."""
    return 1 / p + 1 / (1 - p) - 1


def rollouts_for(p: torch.Tensor, confidence: float) -> torch.Tensor:
    """log(1 - c) / log(max(p, 1 - p)): replies after which the likelier outcome is no longer alone
    with probability c; infinite for p = 0, for p = 1 and for c = 1."""
    missed = torch.tensor(1 - confidence, dtype=p.dtype, device=p.device)
    return (missed.log() / torch.maximum(p, 1 - p).log()).abs()  # else log 1 = 0 would give -inf


def allocate(p: torch.Tensor, budget: int, low: int, high: int) -> torch.Tensor:
    """The N [B] of largest total value with low <= N <= high and sum N = budget.

    The marginal value of each further reply falls with N, so the largest ones of all prompts are
    taken. Of equal ones that of the smaller index comes first.

    Args:
        p: success rates float [B], in [0, 1].
        budget: replies to all prompts.
        low, high: replies to one prompt, at least 2 and at most.

    Raises:
        ValueError: low is below 2 or above high, a rate is outside [0, 1], or no N add up to the
            budget.
    """
    check_rates(p)
    check_bounds(low, high)
    size = len(p)
    if not low * size <= budget <= high * size:
        raise ValueError(
            f"{size} prompts with {low} to {high} replies need a budget from {low * size} to "
            f"{high * size}, got {budget}"
        )
    p, before = p.double()[:, None], torch.arange(low, high, device=p.device)
    marginal = learning_gain(p) * (p**before * (1 - p) + (1 - p) ** before * p)
    best = marginal.flatten().sort(descending=True, stable=True).indices[: budget - low * size]
    owner = torch.arange(size, device=p.device).repeat_interleave(high - low)
    return low + owner[best].bincount(minlength=size)


def spread(total: int, among: torch.Tensor) -> torch.Tensor:
    """`total` in shares as equal as can be for the True of `among`, int [B]; the first ones get
    one more."""
    found, count = torch.zeros_like(among, dtype=torch.int64), int(among.sum())
    if count:
        first = torch.arange(count, device=among.device) < total % count
        found[among] = total // count + first.long()
    return found


def plan_rollouts(
    p: torch.Tensor,
    known: torch.Tensor,
    default: int,
    *,
    low: int = 2,
    high: int = 128,
    failed: int = 2,
    solved: int = 2,
    confidence: float = 0.9,
) -> torch.Tensor:
    """Replies to each prompt of a batch, int [B], `default` B in all.

    Args:
        p: success rates float [B], in [0, 1] where they are known.
        known: bool [B]. The others get `default`.
        default: replies to a prompt on average.
        low, high: replies to a prompt with 0 < p < 1, at least and at most. Where `default` is
            above `high` and no other prompt could take what is left, they share it.
        failed, solved: replies to a prompt with p = 0 and with p = 1.
        confidence: with which those with 0 < p < 1 are to see both outcomes. What they do not need
            for it is spread over the prompts with p = 0, or without any over those with p = 1 and
            unknown p, even beyond `high`. 1: they need all that they may have.

    Raises:
        ValueError: a number or a known rate is out of range.
    """
    check_plan(default, low, high, failed, solved, confidence)
    check_rates(p[known])
    never, always, other = known & (p == 0), known & (p == 1), known & (p > 0) & (p < 1)
    even = torch.full_like(known, default, dtype=torch.int64)
    if not bool((never | other).any()):
        return even
    plan = even.masked_fill(never, failed).masked_fill(always, solved).masked_fill(other, low)
    rest = default * len(p) - int(plan.sum())
    room = int(other.sum()) * (high - low)
    needed = int(rollouts_for(p[other], confidence).clamp(max=high).floor().sum())
    receivers = never if bool(never.any()) else ~other
    if bool(receivers.any()):
        surplus = max(rest - min(needed, room), 0)
    else:
        surplus, receivers = max(rest - room, 0), other
    plan += spread(surplus, receivers)
    share = int(other.sum()) * low + rest - surplus
    plan[other] += allocate(p[other], share, low, high) - low
    return plan


def success_estimate(visits: Sequence[Sequence[int]], window: int) -> float:
    """Success rate after visits, oldest first, each a list of outcomes 0 and 1.

    The mean of the newest visit; where that has fewer than `window` outcomes, of the latest
    `window` outcomes over visits. NaN without any.
    """
    outcomes = list(chain.from_iterable(visits))
    if not outcomes:
        return float("nan")
    latest = outcomes[-max(window, len(visits[-1])) :]
    return sum(latest) / len(latest)


def successes(rewards: torch.Tensor, above: float | None = None) -> torch.Tensor:
    """Whether replies succeeded, bool [n].

    Args:
        rewards: 0 and 1, or -1 and 1, float [n].
        above: of graded rewards, which may be any: those above this number are successes.

    Raises:
        ValueError: a reward is another number, and `above` is not given.
    """
    if above is not None:
        return rewards > above
    outcomes = torch.isin(rewards, rewards.new_tensor([-1.0, 0.0, 1.0]))
    if not bool(outcomes.all()):
        raise ValueError(
            f"rewards are 0 and 1, or -1 and 1, got {float(rewards[~outcomes][0])}: say with "
            "success_above from where on a graded reward is a success"
        )
    return rewards > 0


def check_rates(p: torch.Tensor) -> None:
    """ValueError unless all success rates are in [0, 1]."""
    wrong = ~((p >= 0) & (p <= 1))
    if bool(wrong.any()):
        raise ValueError(f"success rates are from 0 to 1, got {float(p[wrong][0])}")


def check_bounds(low: int, high: int) -> None:
    """ValueError unless groups have two replies or more, and bounds are in order."""
    if not 2 <= low <= high:
        raise ValueError(f"a prompt has 2 <= low <= high replies, got low={low}, high={high}")


def check_plan(
    default: int, low: int, high: int, failed: int, solved: int, confidence: float
) -> None:
    """ValueError unless the numbers are what `plan_rollouts` allows."""
    check_bounds(low, high)
    for name, value in {"low": low, "failed": failed, "solved": solved}.items():
        if not 2 <= value <= default:
            raise ValueError(
                f"{name} is from 2 to the replies of a prompt on average, {default}, got {value}"
            )
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence is above 0 and at most 1, got {confidence}")


# -- the agent -------------------------------------------------------------------------------------


class KnapsackGRPO(TokenMeanGRPO):
    """GRPO that spends the replies of a batch where they teach most.

    A batch has `prompts` times `group_size` replies, as in GRPO; a prompt has 2 or more of them.

    Args:
        low, high: replies to a prompt that sometimes succeeds, at least and at most.
        failed, solved: replies to a prompt that always failed, and to one that always succeeded.
        confidence: see `plan_rollouts`.
        minimum_history: outcomes of a prompt from which on its success rate counts as known.
        window: outcomes of an estimate, where the newest visit has fewer.
        success_above: of graded rewards, those above this number are successes; None: rewards are 0
            and 1, or -1 and 1.
        clip_low, clip_high, dual_clip, ...: of `TokenMeanGRPO`.

    Raises:
        ValueError: an argument is out of range; while learning, a reward is no outcome.

    Logged also: `train/most_rollouts` of a prompt, `train/known` (share of the prompts whose
    success rate was known). 1 - `rollout/zero_advantage` is the paper's effective gradient ratio,
    the share of replies in groups with both outcomes.
    """

    paper = Paper(
        slug="knapsack_rl",
        title="Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation",
        authors="Ziniu Li, Congliang Chen, Tianyun Yang, Tian Ding, Ruoyu Sun, Ge Zhang, "
        "Wenhao Huang, Zhi-Quan Luo",
        year=2025,
        arxiv="2509.25849",
        code="github.com/liziniu/KnapsackRL",
    )
    # A pool of eight, so that prompts come back.
    example = replace(
        example(minimum_history=2, window=4), env_kwargs={"digits": 1, "pool": 8}, steps=128
    )

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        low: int = 2,
        high: int = 128,
        failed: int = 2,
        solved: int = 2,
        confidence: float = 0.9,
        minimum_history: int = 8,
        window: int = 16,
        success_above: float | None = None,
        group_size: int = 8,
        dual_clip: float | None = 10.0,
        **common: Any,
    ) -> None:
        check_plan(group_size, low, high, failed, solved, confidence)
        if not 1 <= minimum_history <= window:
            raise ValueError(
                "minimum_history is from 1 to the window of outcomes that are kept, got "
                f"minimum_history={minimum_history}, window={window}"
            )
        self.low, self.high, self.failed, self.solved = low, high, failed, solved
        self.confidence, self.minimum_history, self.window = confidence, minimum_history, window
        self.success_above = success_above
        super().__init__(policy, env, group_size=group_size, dual_clip=dual_clip, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.history: dict[int, list[list[int]]] = {}  # outcomes of the latest visits, by task

    def select(self) -> Selection:
        """The base's tasks, with the replies that the knapsack plans."""
        tasks = super().select().tasks
        visits = [self.history.get(task.index, []) for task in tasks]
        rates = [success_estimate(each, self.window) for each in visits]
        known = torch.tensor([sum(map(len, each)) >= self.minimum_history for each in visits])
        plan = plan_rollouts(
            torch.tensor(rates, dtype=torch.float64),
            known,
            self.group_size,
            low=self.low,
            high=self.high,
            failed=self.failed,
            solved=self.solved,
            confidence=self.confidence,
        )
        self.note(most_rollouts=plan.max(), known=known.float().mean())
        return Selection(tasks, plan.tolist())

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Rewards standardised in their group, cut to [-5, 5]."""
        return super().advantage(batch).clamp(-MOST_ADVANTAGE, MOST_ADVANTAGE)

    def track(self, batch: TokenBatch) -> None:
        """Note the outcomes of each prompt."""
        assert batch.rewards is not None
        outcomes = successes(batch.rewards, self.success_above).long()
        for task in batch.extra["task"].unique().tolist():
            visit = outcomes[batch.extra["task"] == task].tolist()
            visits = [*self.history.get(task, []), visit]
            while sum(map(len, visits[1:])) >= self.window:  # no estimate reaches the oldest
                visits = visits[1:]
            self.history[task] = visits

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the outcomes."""
        values, tensors = super().extra_state()
        return values | {"history": [list(pair) for pair in self.history.items()]}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.history = {task: visits for task, visits in values["history"]}


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_REPLIES = 120 * 128
LEVELS = (1, 2, 3, 4)  # digits: success rates from 1 to 0
OF_A_LEVEL = 128  # held-out tasks


def learned(cls: type[GRPO], seed: int, scale: float, **own: Any) -> Outcome:
    """Learn sums of one to four digits from 400 prompts."""
    arguments = {"digits": LEVELS, "pool": 400}
    replies = round(scale * CLAIM_REPLIES)
    run = trial(cls, seed, replies=replies, arguments=arguments, dual_clip=10.0, **own)
    agent, updates = run.agent, len(run.log["rollout/zero_advantage"])
    late = 1 - run.mean("rollout/zero_advantage", updates // 6)  # from update 20 of 120 on
    rollouts = run.log.get("train/most_rollouts", np.array([agent.group_size]))
    metrics = {"effective gradient ratio": late, "most rollouts": float(rollouts.max())}
    for level in LEVELS:
        ids = agent.tasks.task_ids(OF_A_LEVEL, "test", level)
        metrics[f"accuracy, {level} digits"] = agent.accuracy(ids)
    return run.outcome(**metrics)


def knapsack_arm(seed: int, scale: float) -> Outcome:
    """GRPO with the knapsack."""
    return learned(KnapsackGRPO, seed, scale, high=48, minimum_history=4, window=8)


def grpo_arm(seed: int, scale: float) -> Outcome:
    """GRPO with the same loss and 8 replies to each prompt."""
    return learned(TokenMeanGRPO, seed, scale)


KnapsackGRPO.claim = Claim(
    text="Learning sums of one to four digits from 400 prompts, 120 updates of 128 replies, GRPO "
    "with the knapsack has a larger share of replies in groups with both outcomes (updates 20 to "
    "120) than GRPO with the same loss and 8 replies to each prompt.",
    arms={"Knapsack": knapsack_arm, "GRPO": grpo_arm},
    criteria=(Superior("effective gradient ratio", "Knapsack", "GRPO"),),
    seeds=8,
    core_minutes=7.0,
)
