"""Knapsack RL: what replies are worth, where the knapsack puts them, and what is remembered."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm.baselines import SMALL, TokenMeanGRPO
from palaestra.agents.llm.dapo import teaches
from palaestra.agents.llm.knapsack_rl import (
    allocate,
    learning_gain,
    mixed_chance,
    plan_rollouts,
    rollouts_for,
    rollouts_until_mixed,
    spread,
    success_estimate,
    successes,
    task_value,
)

P = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)
UNKNOWN = float("nan")

rates = st.one_of(st.sampled_from([0.0, 0.125, 0.5, 1.0]), st.floats(0.0, 1.0))


def close(found, expected, tolerance=1e-7):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(found).double(), expected, rtol=0, atol=tolerance)


def plan(p, default=8, **arguments):
    p = torch.tensor(p, dtype=torch.float64)
    return plan_rollouts(p, ~p.isnan(), default, **{"high": 32, **arguments})


def make(pool=6, **arguments):
    """A small agent whose replies succeed about half of the time: where they are early in the
    alphabet."""
    env = gym.make("Arithmetic-v0", digits=1, pool=pool)
    own = {**SMALL, "minimum_history": 2, "window": 4, **arguments}
    agent = palaestra.agents.KnapsackGRPO("TextPolicy", env, seed=0, device="cpu", **own)
    agent.reward = lambda rollouts: agent.tensor([text < "5" for text in rollouts.texts])
    return agent


def tracked(agent):
    """The batches of an agent, as they come to be tracked."""
    batches, track = [], agent.track

    def keep(batch):
        batches.append(batch)
        track(batch)

    agent.track = keep
    return batches


# -- values ----------------------------------------------------------------------------------------


def test_worked_example_of_values():
    close(learning_gain(P), [0.045125, 0.147, 0.125, 0.009])
    close(task_value(P, torch.tensor(8)), [0.01518815, 0.1385161, 0.12402344, 0.0051258])


def test_worked_example_of_rollouts_until_both_outcomes_are_seen():
    close(rollouts_until_mixed(P), [20.052632, 3.7619048, 3, 10.111111], 1e-6)
    close(rollouts_for(P, 0.9), [44.890567, 6.4556962, 3.3219281, 21.854345], 1e-6)


def test_where_one_outcome_alone_occurs_no_number_of_rollouts_shows_both():
    ends = torch.tensor([0.0, 1.0])
    assert (mixed_chance(ends, torch.tensor(1000)) == 0).all()
    for found in (rollouts_until_mixed(ends), rollouts_for(ends, 0.9), rollouts_for(P, 1.0)):
        assert (found == torch.inf).all()


def test_the_mean_number_of_rollouts_until_both_outcomes_is_a_sum_of_chances():
    counts = torch.arange(1, 2000)[:, None]
    # E[N] = sum_N P(not both after N), and 1 for N = 0.
    close(1 + (1 - mixed_chance(P, counts)).sum(dim=0), rollouts_until_mixed(P), 1e-6)


# -- the knapsack ----------------------------------------------------------------------------------


def test_worked_example_of_the_allocation():
    found, even = allocate(P, 32, 2, 32), torch.full((4,), 8)
    assert found.tolist() == [12, 11, 7, 2]
    for counts, value, share in (
        (found, 0.2895012, 0.73589933),
        (even, 0.28285348, 0.71014656),
    ):
        close(task_value(P, counts).sum(), value)
        close((counts * mixed_chance(P, counts)).sum() / 32, share)


@st.composite
def knapsacks(draw):
    p = draw(st.lists(rates, min_size=1, max_size=4))
    low = draw(st.integers(2, 4))
    high = low + draw(st.integers(0, 5))
    return p, draw(st.integers(low * len(p), high * len(p))), low, high


@given(knapsacks())
@settings(max_examples=60, deadline=None)
def test_no_allocation_is_worth_more(knapsack):
    p, budget, low, high = knapsack
    p = torch.tensor(p, dtype=torch.float64)
    found = allocate(p, budget, low, high)
    assert found.sum() == budget and found.min() >= low and found.max() <= high
    every = torch.tensor(list(product(range(low, high + 1), repeat=len(p))))
    best = task_value(p, every[every.sum(dim=1) == budget]).sum(dim=1).max()
    close(task_value(p, found).sum(), best, 1e-12)


def test_of_equal_marginal_values_the_smaller_index_comes_first():
    assert allocate(torch.tensor([0.5, 0.5, 0.5]), 10, 2, 9).tolist() == [4, 3, 3]
    assert allocate(torch.tensor([0.0, 1.0]), 9, 2, 6).tolist() == [6, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], 3, 2, 9), "budget from 4 to 18, got 3"),
        (([0.5, 0.5], 19, 2, 9), "budget from 4 to 18, got 19"),
        (([0.5], 4, 1, 9), "2 <= low <= high replies, got low=1"),
        (([0.5], 4, 9, 8), "got low=9, high=8"),
        (([0.5, 1.5], 8, 2, 9), "from 0 to 1, got 1.5"),
        (([UNKNOWN], 8, 2, 9), "from 0 to 1, got nan"),
    ],
)
def test_allocations_that_cannot_be_are_refused(arguments, message):
    p, *others = arguments
    with pytest.raises(ValueError, match=message):
        allocate(torch.tensor(p), *others)


# -- the plan of a batch ---------------------------------------------------------------------------


def test_worked_example_of_the_plan():
    assert plan([0, 0.1, 0.5, 1, 0.25, UNKNOWN]).tolist() == [2, 17, 7, 2, 12, 8]


def test_worked_example_of_a_plan_with_more_rollouts_than_the_knapsack_needs():
    assert plan([0, 0.5, 0.5, 1]).tolist() == [20, 5, 5, 2]
    assert plan([0, 0.5, 0.5, 1], confidence=1.0).tolist() == [2, 14, 14, 2]


def test_what_is_left_goes_to_prompts_that_always_failed_or_to_the_others():
    assert plan([0, 0, 1, UNKNOWN, 1]).tolist() == [14, 14, 2, 8, 2]  # no knapsack: 24 are left
    assert plan([0, 0, 1], default=9).tolist() == [13, 12, 2]
    assert plan([1, 0.5, UNKNOWN]).tolist() == [7, 5, 12]  # none has failed: 9 are left over
    assert plan([1, UNKNOWN, 1]).tolist() == [8, 8, 8]
    assert plan([0.5, 0.5]).tolist() == [8, 8]  # all in the knapsack: nothing is left over


def test_rollouts_that_do_not_fit_below_high_are_spread():
    assert plan([0, 0.02], high=6).tolist() == [10, 6]
    assert plan([0.5, 0.02, 0.9], high=6).tolist() == [8, 8, 8]
    assert plan([0.5, 0.02, 1], high=6).tolist() == [6, 6, 12]


def test_all_numbers_of_the_plan_can_be_chosen():
    assert plan([0, 1, 0.5], failed=6, solved=3, low=4, confidence=1.0).tolist() == [6, 3, 15]


@st.composite
def batches(draw):
    p = draw(st.lists(st.one_of(st.just(UNKNOWN), rates), min_size=1, max_size=20))
    default = draw(st.integers(2, 12))
    small = st.integers(2, default)
    arguments = {name: draw(small) for name in ("low", "failed", "solved")}
    high = arguments["low"] + draw(st.integers(0, 40))
    return p, {
        **arguments,
        "default": default,
        "high": high,
        "confidence": draw(st.sampled_from([0.5, 0.9, 1.0])),
    }


@given(batches())
@settings(max_examples=200, deadline=None)
def test_a_plan_spends_the_budget_and_gives_every_prompt_its_least(batch):
    p, arguments = batch
    found = plan(p, **arguments)
    assert found.sum() == arguments["default"] * len(p)
    rates = torch.tensor(p, dtype=torch.float64)
    for least, chosen in (
        (arguments["default"], rates.isnan()),
        (arguments["failed"], rates == 0),
        (arguments["solved"], rates == 1),
        (arguments["low"], (rates > 0) & (rates < 1)),
    ):
        assert (found[chosen] >= least).all()
    knapsack = (rates > 0) & (rates < 1)
    if arguments["default"] <= arguments["high"] or not bool(knapsack.all()):
        assert (found[knapsack] <= arguments["high"]).all()
    assert torch.equal(found, plan(p, **arguments))


def test_a_spread_is_even():
    chosen = torch.tensor([True, False, True, True])
    assert spread(7, chosen).tolist() == [3, 0, 2, 2]
    assert spread(7, ~chosen | chosen.new_tensor([False] * 4)).tolist() == [0, 7, 0, 0]


@pytest.mark.parametrize(
    ("p", "arguments", "message"),
    [
        ([0.5], {"low": 1}, "low=1"),
        ([0.5], {"failed": 1}, "failed is from 2 to .* 8, got 1"),
        ([0.5], {"solved": 9}, "solved is from 2 to .* 8, got 9"),
        ([0.5], {"confidence": 0.0}, "confidence is above 0"),
        ([-0.5], {}, "from 0 to 1, got -0.5"),
    ],
)
def test_plans_that_cannot_be_are_refused(p, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(p, **arguments)


def test_a_rate_that_is_no_number_must_be_unknown():
    with pytest.raises(ValueError, match="got nan"):
        plan_rollouts(torch.tensor([UNKNOWN]), torch.tensor([True]), 8)


# -- outcomes --------------------------------------------------------------------------------------


def test_worked_example_of_estimates():
    close(success_estimate([[0, 0, 1, 1], [1, 0]], 4), 0.75)
    close(success_estimate([[0, 0], [1, 0, 1, 0, 0]], 4), 0.4)


def test_without_outcomes_there_is_no_estimate():
    assert torch.tensor(success_estimate([], 4)).isnan()


def test_outcomes_are_two_numbers_or_lie_above_a_threshold():
    assert successes(torch.tensor([0.0, 1, 1])).tolist() == [False, True, True]
    assert successes(torch.tensor([-1.0, 1])).tolist() == [False, True]
    assert successes(torch.tensor([0.2, 0.7, 0.5]), 0.5).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="got 0.5: say with success_above"):
        successes(torch.tensor([1.0, 0.5]))


# -- the agent -------------------------------------------------------------------------------------


def test_every_batch_has_the_same_size_and_groups_follow_the_plan():
    agent = make(group_size=6)
    batches = tracked(agent)
    agent.learn(8 * 24)
    sizes = [batch.groups.bincount() for batch in batches]
    assert all(each.sum() == 24 and each.min() >= 2 for each in sizes)
    assert sizes[0].tolist() == [6] * 4  # nothing was known
    assert max(int(each.max()) for each in sizes) > 6


def test_the_plan_rests_on_what_is_remembered():
    agent = make(pool=4)
    agent.history = {0: [[0, 0, 0, 0]], 1: [[1, 0, 0, 0], [0, 1]], 2: [[1, 1]], 3: [[1]]}
    selection = agent.select()
    order = [task.index for task in selection.tasks]
    assert sorted(order) == [0, 1, 2, 3]
    p = torch.tensor([0.0, 0.25, 1.0, UNKNOWN]).double()[order]
    expected = plan_rollouts(p, ~p.isnan(), 4)
    assert selection.replies == expected.tolist() != [4] * 4


def test_what_is_remembered_gives_the_estimate_of_all_visits():
    agent = make(pool=3, prompts=3)
    batches = tracked(agent)
    visits = {task: [] for task in range(3)}
    for updates in range(1, 11):
        agent.learn(12, reset_num_timesteps=False)
        assert len(batches) == updates
        batch = batches[-1]
        for task in range(3):
            visits[task].append(batch.rewards[batch.extra["task"] == task].int().tolist())
            kept = agent.history[task]
            assert visits[task][-len(kept) :] == kept
            assert success_estimate(kept, 4) == success_estimate(visits[task], 4)
            assert sum(map(len, kept[1:])) < 4
    assert 0 < sum(map(sum, visits[0])) < sum(map(len, visits[0]))


def test_a_task_that_a_batch_holds_twice_is_one_visit():
    agent = make(pool=1, prompts=2)
    agent.learn(8)
    assert len(agent.history[0]) == 1 and len(agent.history[0][0]) == 8


def test_outcomes_survive_a_checkpoint(tmp_path):
    agent = make().learn(64)
    assert len({len(visits) for visits in agent.history.values()} | {0}) > 1
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=agent.tasks)
    assert loaded.history == agent.history
    loaded.generator.bit_generator.state = agent.generator.bit_generator.state
    ours, theirs = agent.select(), loaded.select()
    assert ours.replies == theirs.replies != [4] * 4
    assert ours.tasks == theirs.tasks


def test_the_share_of_advantages_that_are_not_zero_is_the_effective_gradient_ratio():
    agent = make()
    batches = tracked(agent)
    for _ in range(6):
        agent.learn(16, reset_num_timesteps=False)
        useful = teaches(batches[-1].rewards, batches[-1].groups).float().mean()
        close(1 - agent._metrics["rollout/zero_advantage"], useful, 1e-6)


@pytest.mark.parametrize("name", ["KnapsackGRPO", "TokenMeanGRPO"])
def test_tokens_weigh_the_same_whatever_the_size_of_their_group(name):
    cls = palaestra.agents.KnapsackGRPO if name == "KnapsackGRPO" else TokenMeanGRPO
    agent = cls("TextPolicy", cls.example.build(), **cls.example.kwargs)
    assert (agent.clip_low, agent.clip_high) == (0.2, 0.28)
    mask = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 0], [1, 0]]).bool()
    tokens, log_probs = torch.zeros_like(mask).long(), torch.full(mask.shape, -1.0)
    batch = TokenBatch(
        *(tokens, mask, tokens, mask),
        old_log_probs=log_probs,
        log_probs=log_probs,
        rewards=torch.tensor([1.0, 0, 0, 1, 0]),
        groups=torch.tensor([0, 0, 0, 1, 1]),
    )
    batch.advantages = agent.advantage(batch)[:, None]
    # (2/3, -1/3, -1/3) / sqrt(1/3) and (1/2, -1/2) / sqrt(1/2); the second reply has two tokens.
    close(batch.advantages[:, 0], [1.1547005, -0.5773503, -0.5773503, 0.7071068, -0.7071068], 1e-5)
    close(agent.loss(batch), 0.5773503 / 6, 1e-5)


def test_a_rare_success_counts_at_most_five():
    agent = make()
    mask = torch.ones(48, 1).bool()
    tokens = torch.zeros(48, 1).long()
    rewards = torch.tensor([1.0] + [0.0] * 47)
    batch = TokenBatch(tokens, mask, tokens, mask, rewards=rewards, groups=tokens[:, 0])
    found = agent.advantage(batch)
    close(found[0], 5.0)
    close(found[1:], torch.full((47,), -0.1443376), 1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"low": 1}, "low=1"),
        ({"high": 1}, "high=1"),
        ({"group_size": 1}, "low is from 2 to .* 1, got 2"),
        ({"failed": 1}, "failed is from 2 to .* 4, got 1"),
        ({"confidence": 1.5}, "confidence is above 0 and at most 1, got 1.5"),
        ({"minimum_history": 5}, "minimum_history=5, window=4"),
        ({"minimum_history": 0}, "minimum_history=0, window=4"),
        ({"clip_high": -1.0}, "clip_high"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


def test_graded_rewards_need_a_threshold():
    agent = make()
    agent.reward = lambda rollouts: agent.tensor([0.5 for _ in rollouts.texts])
    with pytest.raises(ValueError, match="success_above"):
        agent.learn(1)
    agent.success_above = 0.4
    agent.learn(1)
    assert all(min(visit) == 1 for visits in agent.history.values() for visit in visits)
