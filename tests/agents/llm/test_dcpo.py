"""DCPO: bounds by the probability of a token, advantages with a history, sums over groups."""

from __future__ import annotations

import gymnasium
import pytest
import torch

from palaestra.agents import DCPO, GRPO
from palaestra.agents.base.text.losses import clipped
from palaestra.agents.base.text.token_batch import TokenBatch
from palaestra.agents.llm.dcpo import (
    Counting,
    History,
    WithoutDynamicBounds,
    WithoutSmoothing,
    dynamic_bounds,
    merge,
    smooth_advantages,
    visit_numbers,
)


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=tolerance)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def unmet(n):
    return History(*torch.zeros(4, n).double())


def visits(*rounds):
    """Advantages and history after each visit to one prompt."""
    state, found = unmet(len(rounds[0])), []
    for rewards in rounds:
        groups = torch.zeros(len(rewards)).long()
        advantages, state = smooth_advantages(numbers(*rewards), groups, state)
        found.append((advantages, History(*(column[0] for column in state))))
    return found


def make(cls=DCPO, pool=6, **arguments):
    env = gymnasium.make("Arithmetic-v0", digits=1, pool=pool)
    return cls("TextPolicy", env, seed=0, device="cpu", **{**DCPO.example.kwargs, **arguments})


def batch(rewards, groups, tasks=None, **more):
    """Replies of one token with rewards."""
    ones = torch.ones(len(rewards), 1)
    return TokenBatch(
        *(ones.long(), ones.bool(), ones.long(), ones.bool()),
        old_log_probs=-ones,
        rewards=torch.tensor(rewards),
        groups=torch.tensor(groups),
        extra={} if tasks is None else {"task": torch.tensor(tasks)},
        **more,
    )


def two_replies(advantages, probabilities=((0.5, 0.4), (0.3, 0.04))):
    """The replies of the worked example, to one prompt."""
    log_probs = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
    mask = torch.ones(2, 2).bool()
    return TokenBatch(
        *(mask.long(), mask, mask.long(), mask),
        old_log_probs=numbers(0.4, 0.4, 0.4, 0.01).log().reshape(2, 2),
        log_probs=log_probs,
        advantages=numbers(*advantages)[:, None],
        rewards=numbers(1, 0),
        groups=torch.tensor([0, 0]),
    )


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_the_bounds():
    low, high = dynamic_bounds(numbers(0.9, 0.01, 0.5))
    close(low, [0.768742, 0.5, 0.5])
    close(high, [1.187184, 5.0, 1.306226])


def test_worked_example_of_three_visits():
    first, second, third = visits((1, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0))
    close(first[0], [1.5, -0.5, -0.5, -0.5])
    close(torch.stack(first[1]), [0.25, 0.5, 1, 4])
    close(second[0], [0.363803] * 4)
    close(torch.stack(second[1]), [0.625, 0.515388, 2, 4])
    close(third[0], [0.803020, 0.803020, -0.937391, -0.937391])
    close(torch.stack(third[1]), [0.583333, 0.540062, 3, 4])


def test_worked_example_of_the_loss():
    given, agent = two_replies((1, 0.5)), make()
    loss = agent.loss(given)
    close(loss, -2.3125)
    assert agent._notes["clip_fraction"] == [0.0]
    loss.backward()
    # The ratio 4 of the token of probability 0.01 has its whole gradient; fixed bounds have none.
    close(given.log_probs.grad, [[-0.625, -0.5], [-0.1875, -1.0]])
    fixed, agent = two_replies((1, 0.5)), make(WithoutDynamicBounds, clip_low=0.2)
    agent.loss(fixed).backward()
    assert agent._notes["clip_fraction"] == [0.5]
    assert (fixed.log_probs.grad == 0).tolist() == [[True, False], [False, True]]


# -- bounds ----------------------------------------------------------------------------------------


def test_bounds_are_the_solutions_of_the_papers_inequality():
    q = torch.linspace(0.001, 1, 200).double()
    low, high = dynamic_bounds(q, 0.16, 0.2)
    free = high < 10
    close(((high - 1) * high * q)[free], 0.2, 1e-12)
    real = low > 0.5
    close(((1 - low) * low * q)[real], 0.16, 1e-12)
    assert real.tolist() == (q > 4 * 0.16).tolist()
    assert (high.diff() <= 0).all() and (low.diff() >= 0).all()  # rare tokens have more room
    assert low.min() == 0.5 and high.max() == 10


def test_a_token_of_probability_zero_has_the_widest_bounds():
    for q in (torch.tensor([-torch.inf]).exp(), torch.tensor([1e-30])):
        low, high = dynamic_bounds(q)
        assert low.item() == 0.5 and high.item() == 10
    assert dynamic_bounds(torch.zeros(1), most=4.0)[1].item() == 4


def test_no_ratio_counts_more_than_the_dual_clip_where_the_advantage_is_negative():
    far = two_replies((-1, -1), ((0.4, 0.4), (0.4, 0.5)))  # the last ratio is 50
    close(make().token_losses(far), [[1, 1], [1, 10]])
    close(make(dual_clip=None).token_losses(far), [[1, 1], [1, 50]])


# -- advantages ------------------------------------------------------------------------------------


def test_equal_rewards_teach_nothing_at_the_first_visit_and_something_when_they_return():
    (first, _), (second, _), (third, state) = visits((0.1,) * 3, (0.1, 0.5, 0.9), (0.9,) * 3)
    assert (first == 0).all()
    assert (second != 0).all()
    total = (0.9 - state.mean) / state.std
    assert total > 0
    close(third, [total / 3] * 3, 1e-12)  # 1/3 and 2/3 of it: the smaller


def test_a_prompt_that_is_always_solved_teaches_nothing():
    for reward in (0.1, 0.3, 1.0):
        for advantages, state in visits(*[(reward,) * 7] * 9):
            assert (advantages == 0).all()
            assert state.mean == reward and state.std == 0


def test_the_merged_spread_is_that_within_visits_and_that_between_them():
    rounds = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).double()
    _, state = visits(*rounds.tolist())[-1]
    means, variances = rounds.mean(dim=1), rounds.var(dim=1)
    close(state.mean, means.mean(), 1e-12)
    close(state.std**2, variances.mean() + means.var(correction=0), 1e-12)
    one = merge(unmet(1), numbers(0.25), numbers(0.5), numbers(4))
    close(torch.stack(one)[:, 0], [0.25, 0.5, 1, 4], 0)


def test_visits_of_another_size_and_of_one_reply_are_refused():
    _, state = smooth_advantages(numbers(1, 0), torch.tensor([3, 3]), unmet(2))
    more = History(*(column[0].expand(3) for column in state))
    with pytest.raises(ValueError, match="group 3 has 3 after 1 visits of 2"):
        smooth_advantages(numbers(1, 0, 0), torch.tensor([3, 3, 3]), more)
    with pytest.raises(ValueError, match="group 4 has 1 after 0 visits"):
        smooth_advantages(numbers(1, 0, 0), torch.tensor([3, 3, 4]), unmet(3))


def test_a_batch_without_ids_of_its_tasks_is_refused():
    with pytest.raises(ValueError, match=r"extra\['task'\]; the batch has \[\]"):
        make().advantage(batch([1.0, 0.0], [0, 0]))


def test_a_task_that_occurs_twice_in_a_batch_is_visited_twice():
    tasks = [8, 8, 5, 5, 8, 8, 5, 5, 7, 7]
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert visit_numbers(torch.tensor(tasks), torch.tensor(groups)).tolist() == [0] * 4 + [
        *(1, 1, 1, 1, 0, 0)
    ]
    rewards = [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    together, apart = make(), make()
    given = batch(rewards, groups, tasks)
    found = together.advantage(given)
    together.track(given)
    expected = []
    for start in range(0, 10, 2):
        part = slice(start, start + 2)
        given = batch(rewards[part], groups[part], tasks[part])
        expected.append(apart.advantage(given))
        apart.track(given)
    assert torch.equal(found, torch.cat(expected))
    assert found[4] > 0 and found[6] < 0  # unanimous, against what was before
    order = torch.tensor([5, 7, 8])
    left, right = together.history.read(order), apart.history.read(order)
    for name, column in left.items():
        assert torch.equal(column, right[name])
    assert left["visits"].tolist() == [2, 1, 2]


def test_reading_advantages_does_not_count_as_a_visit():
    agent, given = make(), batch([1.0, 0.0], [0, 0], [3, 3])
    assert torch.equal(agent.advantage(given), agent.advantage(given))
    assert len(agent.history) == 0


# -- the sum over a group --------------------------------------------------------------------------


def test_the_loss_is_a_mean_over_prompts_of_sums_over_their_replies():
    agent = make()
    given = batch([1.0] * 5, [4, 4, 9, 9, 9], advantages=torch.arange(1.0, 6.0)[:, None])
    given.log_probs = given.old_log_probs
    close(agent.loss(given), -((1 + 2) + (3 + 4 + 5)) / 2)
    sums = [agent.loss(part) for part in given.minibatches(2, whole_groups=True)]
    close(torch.stack(sums), [-3, -12])


def test_minibatches_keep_groups_whole():
    agent, seen = make(epochs=1, minibatch_size=1, demonstrations=0), []
    agent.loss = lambda part: seen.append(part.groups.tolist()) or DCPO.loss(agent, part)
    agent.reward = lambda rollouts: torch.arange(16.0) % 2  # something to learn from
    agent.learn(16)
    assert sorted(seen) == [[group] * 4 for group in range(4)]


# -- the running agent -----------------------------------------------------------------------------


def test_what_is_remembered_counts_visits_and_is_saved(tmp_path):
    agent = make(pool=3, demonstrations=0)
    agent.reward = lambda rollouts: torch.arange(16.0) % 3
    agent.learn(80)  # 5 batches of 4 prompts: some come twice in one batch
    state = agent.history.state()
    assert sorted(state["task"].tolist()) == [0, 1, 2]
    assert state["visits"].sum() == 5 * 4
    assert (state["replies"] == 4).all() and (state["std"] > 0).all()
    agent.save(tmp_path / "agent")
    loaded = DCPO.load(tmp_path / "agent")
    for name, column in loaded.history.state().items():
        assert torch.equal(column, state[name])


def test_without_smoothing_advantages_are_those_of_grpo():
    given = batch([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], [3, 3, 4, 4])
    agents = make(WithoutSmoothing), make(GRPO)
    for _ in range(2):
        found, expected = (agent.advantage(given) for agent in agents)
        assert torch.equal(found, expected)
        agents[0].track(given)


def test_counting_says_what_the_claim_measures():
    cls = type("Counted", (Counting, DCPO), {})
    agent, given = make(cls), two_replies((1, 0.5), ((0.5, 0.4), (0.3, 0.06)))
    agent.token_losses(given)  # the ratio 6 is above the bound 5 of the only rare token
    assert agent._notes["rare"] == [1.0] and agent._notes["rare_clipped"] == [1.0]
    assert (
        clipped(agent.token_ratios(given), given.advantages, *agent.clip_bounds(given)).sum() == 1
    )
    agent.advantage(batch([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], [3, 3, 4, 4]))
    assert agent._notes["utilised"] == [2.0]


def test_a_greatest_ratio_below_one_is_refused():
    with pytest.raises(ValueError, match="most_ratio is above 1, got 1.0"):
        make(most_ratio=1.0)
