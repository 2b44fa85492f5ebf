"""SPO: what is remembered of a prompt, and how replies are judged and prompts chosen by it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.llm import single_stream as spo

ALPHA = torch.tensor([0.44444444, 2.2222222, 4, 7.5555556]).double()
BETA = torch.tensor([7.5555556, 5.7777778, 4, 0.44444444]).double()
REWARDS = torch.tensor([1.0, 0, 1, 1]).double()
DRIFTS = torch.tensor([0, 0.006, 0.075, 0.5]).double()


def close(found, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(), expected, rtol=0, atol=tolerance
    )


def make(pool=12, seed=0, **changes):
    """An agent without a warm start."""
    cls = palaestra.agents.SingleStreamPO
    env = gym.make("Arithmetic-v0", digits=1, pool=pool)
    arguments = {**cls.example.kwargs, "demonstrations": 0, **changes}
    return cls("TextPolicy", env, seed=seed, device="cpu", **arguments)


def replies_to(agent, tasks, replies, rewards):
    """A batch of given replies to tasks of the pool, as the first stages leave it."""
    prompts = [task.prompt for task in agent.tasks_of(tasks)]
    batch = agent.policy.batch(prompts, replies)
    batch.old_log_probs = agent.policy.log_probs(batch).detach()
    batch.rewards = torch.tensor(rewards)
    batch.extra = {"task": torch.tensor(tasks)}
    return batch


def change(policy):
    """Another policy, not far away."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_the_initial_counts():
    alpha, beta = spo.initial_counts(torch.tensor([0, 2, 4, 8]).double(), 8, 0.875)
    close(alpha, ALPHA)
    close(beta, BETA)
    close(alpha / (alpha + beta), [0.05555556, 0.27777778, 0.5, 0.94444444])


def test_worked_example_of_the_advantages():
    values = ALPHA / (ALPHA + BETA)
    close(REWARDS - values, [0.94444444, -0.27777778, 0.5, 0.05555556])
    found = spo.batch_advantages(REWARDS, values)
    close(found, [1.2011358, -1.0966892, 0.36556307, -0.47000966])


def test_worked_example_of_drift_and_forgetting():
    then = torch.tensor([[-1.0, -0.5], [-0.3, -0.2]])
    now = torch.tensor([[-1.1, -0.45], [-0.3, -0.26]])
    close(spo.drift(then, now, torch.ones(2, 2, dtype=torch.bool)), [0.075, 0.03])
    close(spo.drift(then, now, torch.tensor([[True, False], [True, True]])), [0.1, 0.03])
    close(spo.forgetting(DRIFTS), [0.96, 0.93303299, 0.875, 0.875])


def test_worked_example_of_the_update():
    rho = spo.forgetting(DRIFTS)
    alpha, beta = spo.update_counts(ALPHA, BETA, REWARDS, rho)
    close(alpha, [1.4266667, 2.0734066, 4.5, 7.6111111])
    close(beta, [7.2533333, 6.3908573, 3.5, 0.38888889])
    values = alpha / (alpha + beta)
    close(values, [0.16436252, 0.24496007, 0.5625, 0.95138889])
    # The same as a moving average.
    before, size = ALPHA / (ALPHA + BETA), ALPHA + BETA
    close(values, before + (REWARDS - before) / (rho * size + 1))


def test_worked_example_of_the_choice_of_prompts():
    close(spo.prompt_probabilities(ALPHA, BETA), [0.17375896, 0.31002187, 0.3424602, 0.17375896])
    counts = spo.update_counts(ALPHA, BETA, REWARDS, spo.forgetting(DRIFTS))
    found = spo.prompt_probabilities(*counts, gamma=0.5)
    close(found, [0.24245866, 0.27284387, 0.31086757, 0.17382991])


# -- edges of the functions ------------------------------------------------------------------------


def test_equal_advantages_are_exactly_zero():
    values = torch.full((7,), 0.1)
    assert (spo.batch_advantages(torch.full((7,), 0.3), values) == 0).all()


def test_a_batch_of_one_has_no_spread():
    with pytest.raises(ValueError, match="at least 2 replies, got 1"):
        spo.batch_advantages(torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group_size": 8}, "group_size is 1, got 8"),
        ({"prompts": 1}, "prompts is at least 2"),
        ({"candidates": 7}, "candidates at least prompts"),
        ({"first_replies": -1}, "first_replies at least 0"),
        ({"rho_low": 0.97}, "rho_low <= rho_high"),
        ({"rho_low": 1.0, "rho_high": 1.0}, "rho_low below 1"),
        ({"drift_half": 0.0}, "drift_half above 0"),
        ({"exploration": 0.0}, "exploration is above 0"),
        ({"gamma": -1.0}, "gamma at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


@pytest.mark.parametrize("reward", [-0.5, 1.5])
@pytest.mark.parametrize("first_replies", [0, 1])
def test_a_reward_that_is_no_share_of_a_success_is_refused(reward, first_replies, monkeypatch):
    agent = make(first_replies=first_replies)
    monkeypatch.setattr(agent.tasks, "score", lambda verdict: reward)
    with pytest.raises(ValueError, match=rf"reward {reward} of the reply .* to '\d\+\d='"):
        agent.update()


# -- choosing prompts ------------------------------------------------------------------------------


def test_prompts_are_repeated_only_where_the_candidates_are_too_few():
    agent = make(pool=20, prompts=8, candidates=10)
    for _ in range(20):
        ids = [task.index for task in agent.select().tasks]
        assert len(set(ids)) == len(ids) == 8
    few = make(pool=3)
    ids = [task.index for task in few.select().tasks]
    assert len(ids) == 8
    assert set(ids) <= {0, 1, 2}
    few.learn(24)  # repeated prompts are counted one after the other
    assert few.num_timesteps == 24
    assert sorted(few.last.extra["task"].tolist()) == [0, 1, 2]


def test_prompts_of_medium_difficulty_are_chosen_in_proportion():
    agent = make(pool=40, prompts=2, candidates=40, exploration=0.1)
    easy = torch.arange(20)
    agent.counts.write(easy, alpha=torch.full((20,), 99.0), beta=torch.full((20,), 1.0))
    drawn = [agent.select().tasks[0].index for _ in range(1500)]
    share = np.mean(np.array(drawn) < 20)
    weights = np.array([np.sqrt(0.99 * 0.01) + 0.1, 0.5 + 0.1])
    assert share == pytest.approx(weights[0] / weights.sum(), abs=0.03)


def test_first_replies_count_as_timesteps_and_start_the_counts():
    agent = make(first_replies=4, candidates=12)
    seen = []
    verify = agent.tasks.verify

    def note(task, reply):
        verdict = verify(task, reply)
        seen.append((task.index, verdict["correct"]))
        return verdict

    agent.tasks.verify = note
    agent.select()
    assert agent.num_timesteps == len(seen) == 48
    for task in range(12):
        right = sum(correct for index, correct in seen if index == task)
        found = agent.counts.read(torch.tensor([task]))
        close(found["alpha"], [8 * (right + 0.5) / 5])
        close(found["beta"], [8 * (4 - right + 0.5) / 5])
    agent.select()  # all of them have been met
    assert agent.num_timesteps == len(seen) == 48


def test_a_prompt_without_first_replies_starts_at_one_half():
    agent = make(first_replies=0)
    agent.select()
    assert agent.num_timesteps == len(agent.counts) == 0
    batch = replies_to(agent, [0, 1], ["1$", "2$"], [1.0, 0.0])
    close(agent.advantage(batch), spo.batch_advantages(batch.rewards, torch.full((2,), 0.5)))
    agent.track(batch)
    found = agent.counts.read(torch.tensor([0, 1, 2]))
    close(found["alpha"], [0.96 * 0.5 + 1, 0.96 * 0.5, 0.5])
    close(found["beta"], [0.96 * 0.5, 0.96 * 0.5 + 1, 0.5])


def test_equal_rewards_teach_where_other_things_were_expected():
    agent = make()
    agent.counts.write(
        torch.tensor([0, 1, 2]),
        alpha=torch.tensor([3.0, 1.0, 2.0]),
        beta=torch.tensor([1.0, 3.0, 2.0]),
    )
    batch = replies_to(agent, [0, 1, 2], ["1$", "2$", "3$"], [1.0, 1.0, 1.0])
    close(agent.advantage(batch), [-1, 1, 0])  # values 3/4, 1/4 and 1/2


# -- the memory ------------------------------------------------------------------------------------


def test_drift_is_that_of_the_last_reply_to_each_prompt_in_one_pass(monkeypatch):
    agent = make()
    agent.track(replies_to(agent, [3, 5], ["12$", "7$"], [0.0, 1.0]))
    agent.track(replies_to(agent, [5, 7, 8], ["1234567$", "11$", "9"], [0.0, 0.0, 1.0]))
    last = {3: "12$", 5: "1234567$", 7: "11$", 8: "9"}
    stored = {task: replies_to(agent, [task], [reply], [0.0]) for task, reply in last.items()}
    change(agent.policy)
    passes, scored = [], agent.policy.log_probs

    def count(batch, temperature):
        passes.append(len(batch))
        return scored(batch, temperature)

    monkeypatch.setattr(agent.policy, "log_probs", count)
    found = agent.drifts(torch.tensor([5, 9, 3, 7, 5, 8]))
    assert passes == [4]
    expected = {
        task: (scored(batch) - batch.old_log_probs).abs().mean().item()
        for task, batch in stored.items()
    }
    assert min(expected.values()) > 0.001
    # Task 9 is new; the second time that 5 stands there, the policy has not moved since the first.
    close(found, [expected[5], 0, expected[3], expected[7], 0, expected[8]])


def test_replies_to_one_prompt_are_judged_alike_and_counted_in_order():
    agent = make(drift_half=1.0, rho_low=0.1)
    agent.counts.write(torch.tensor([4]), alpha=torch.tensor([3.0]), beta=torch.tensor([1.0]))
    agent.track(replies_to(agent, [4], ["1$"], [1.0]))
    change(agent.policy)
    rho = 2 ** -agent.drifts(torch.tensor([4]))
    assert 0.1 < rho < 0.96  # neither of the bounds
    counts = agent.counts.read(torch.tensor([4]))
    alpha, beta = counts["alpha"].item(), counts["beta"].item()
    batch = replies_to(agent, [4, 2, 4], ["15$", "3$", "16$"], [0.0, 1.0, 1.0])
    value = alpha / (alpha + beta)
    expected = spo.batch_advantages(batch.rewards, torch.tensor([value, 0.5, value]))
    close(agent.advantage(batch), expected)
    agent.track(batch)
    found = agent.counts.read(torch.tensor([4]))
    close(found["alpha"], 0.96 * rho * alpha + 1)
    close(found["beta"], 0.96 * (rho * beta + 1))
    # Of two replies in a batch the later one is kept, with the policy's log-probabilities of now.
    row = agent.last.extra["task"].tolist().index(4)
    kept = agent.last.select(torch.tensor([row]))
    assert agent.policy.tokenizer.decode(kept.tokens, kept.mask) == ["16$"]
    close(kept.old_log_probs, agent.policy.log_probs(kept))
    close(agent.drifts(torch.tensor([4, 2])), [0, 0])


def test_what_is_remembered_is_what_was_drawn(monkeypatch):
    agent, seen = make(), {}
    track = agent.track

    def note(batch):
        for row, task in enumerate(batch.extra["task"].tolist()):
            seen[task] = batch.tokens[row][batch.mask[row]].tolist()
        track(batch)

    monkeypatch.setattr(agent, "track", note)
    agent.learn(40)
    last = agent.last
    assert sorted(last.extra["task"].tolist()) == sorted(seen)
    for row, task in enumerate(last.extra["task"].tolist()):
        assert last.tokens[row][last.mask[row]].tolist() == seen[task]
        prompt = agent.tasks_of([task])[0].prompt
        expected = agent.policy.tokenizer.prompt_ids(prompt)
        assert last.prompts[row][last.prompt_mask[row]].tolist() == expected


def memory(agent):
    """All tensors of the memory."""
    return {**agent.counts.state(), **agent.last.tensors(), **agent.last.extra}


def assert_same_memory(left, right):
    ours, theirs = memory(left), memory(right)
    assert ours.keys() == theirs.keys() >= {"alpha", "beta", "tokens", "old_log_probs"}
    for name in ours.keys() - {"task"}:
        assert torch.equal(ours[name], theirs[name]), name


def test_an_interrupted_run_goes_on_with_the_same_memory(tmp_path):
    arguments = {"first_replies": 2, "candidates": 9, "prompts": 4, "epochs": 2}
    whole = make(**arguments).learn(80)
    calls = []
    # Written before every update: the run is cut off in the third.
    make(**arguments).learn(
        80,
        callback=lambda *_: calls.append(1) or len(calls) < 3,
        checkpoint=tmp_path,
        checkpoint_seconds=0,
    )
    again = make(**arguments).learn(80, checkpoint=tmp_path, resume=True)
    assert again.num_timesteps == whole.num_timesteps > 12 + 24
    assert_same_memory(again, whole)
    for ours, theirs in zip(again.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_loaded_agent_remembers_its_prompts(tmp_path):
    agent = make(first_replies=1).learn(40)
    agent.save(tmp_path / "agent")
    loaded = palaestra.agents.SingleStreamPO.load(tmp_path / "agent", device="cpu")
    assert_same_memory(agent, loaded)
    change(agent.policy)
    change(loaded.policy)
    tasks = torch.arange(12)
    found = agent.drifts(tasks)
    assert (found > 0).any()
    assert torch.equal(found, loaded.drifts(tasks))


# -- what is logged --------------------------------------------------------------------------------


def test_the_log_says_how_many_replies_have_no_advantage():
    agent = make()
    batch = replies_to(agent, [0, 1, 2, 3], ["1$", "2", "3$", "4$"], [0.0, 0.0, 1.0, 1.0])
    ones = torch.ones(4)
    batch.extra |= {"correct": batch.rewards, "ended": ones}
    batch.advantages = torch.tensor([[0.0], [1.0], [0.0], [-0.5]])
    assert agent._summary(batch)["rollout/zero_advantage"] == 0.5
    # Of the second reply only a column behind its end has one.
    batch.advantages = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.1], [-0.5, 0.0]])
    assert agent._summary(batch)["rollout/zero_advantage"] == 0.5


def test_the_log_says_how_far_the_policy_moved_and_how_fast_it_forgets():
    agent = make(rho_low=0.8).learn(40)
    names = ("train/drift", "train/rho", "train/value_error", "rollout/zero_advantage")
    drift, rho, error, silent = (agent._metrics[name] for name in names)
    assert drift > 0
    assert 0.8 <= rho <= 0.9601
    assert 0 < error < 1
    assert 0 <= silent <= 1
