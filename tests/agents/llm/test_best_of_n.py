"""Best of n: the measures with their worked example, and the agent that chooses."""

from __future__ import annotations

from itertools import combinations

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.text.measures import best_of_n_kl, expected_best_of_n, pass_at_k

SCORES = torch.tensor([0.1, 0.9, 0.4, 0.6]).double()


def make(env=None, **arguments):
    cls = palaestra.agents.BestOfN
    env = cls.example.build() if env is None else env
    changed = {**cls.example.kwargs, **arguments}
    return cls("TextPolicy", env, seed=0, device="cpu", **changed)


# -- measures --------------------------------------------------------------------------------------


def test_worked_example_of_the_expected_best():
    found = [float(expected_best_of_n(SCORES, n)) for n in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5, 0.71666667, 0.825, 0.9], abs=1e-7)


def test_worked_example_of_the_divergence():
    found = [best_of_n_kl(n) for n in (1, 2, 4, 8)]
    assert found == pytest.approx([0, 0.19314718, 0.63629436, 1.2044415], abs=1e-7)


def test_worked_example_of_pass_at_k():
    correct = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0])
    found = [float(pass_at_k(correct, k)) for k in (1, 2, 4)]
    assert found == pytest.approx([0.375, 0.64285714, 0.92857143], abs=1e-7)


def test_the_expected_best_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.integers(0, 4, (3, 6)).astype(float))  # with ties
    values = torch.tensor(rng.normal(size=(3, 6)))
    for n in range(1, 7):
        for given, of in ((None, scores), (values, values)):
            found = expected_best_of_n(scores, n, given)
            for row in range(3):
                # `max` keeps the first of equal ones, as the best of n does.
                best = [
                    float(of[row, max(chosen, key=lambda i: float(scores[row, i]))])
                    for chosen in combinations(range(6), n)
                ]
                assert float(found[row]) == pytest.approx(np.mean(best), abs=1e-9)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_reply():
    correct = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    for k in range(1, 6):
        expected = [
            np.mean([any(row[i] for i in chosen) for chosen in combinations(range(5), k)])
            for row in correct.tolist()
        ]
        assert pass_at_k(correct, k).tolist() == pytest.approx(expected, abs=1e-12)
        assert pass_at_k(correct.bool(), k).tolist() == pytest.approx(expected, abs=1e-12)


def test_large_samples_do_not_overflow():
    scores = torch.linspace(0, 1, 4096).double()
    assert float(expected_best_of_n(scores, 1)) == pytest.approx(0.5)
    assert float(expected_best_of_n(scores, 2048)) == pytest.approx(2048 / 2049, abs=1e-3)
    assert float(pass_at_k(torch.arange(4096) < 1, 1024)) == pytest.approx(0.25)


def test_the_divergence_is_reached_where_no_reply_is_likely():
    """The best of n of M equally likely replies has the probabilities ((k + 1)^n - k^n) / M^n."""
    for n in (2, 4, 8):
        k = np.arange(100_000) / 100_000
        best = (k + 1e-5) ** n - k**n
        exact = float(
            np.sum(best * np.log(best * 100_000, where=best > 0, out=np.zeros_like(best)))
        )
        assert exact == pytest.approx(best_of_n_kl(n), abs=1e-4)
        coarse = np.array([0.5**n, 1 - 0.5**n])
        assert float(np.sum(coarse * np.log(coarse * 2))) < best_of_n_kl(n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_best_of_n(SCORES, 5), "n must be from 1 to the 4 scores, got 5"),
        (lambda: expected_best_of_n(SCORES, 0), "n must be from 1"),
        (lambda: pass_at_k(SCORES > 0.5, 5), "k must be from 1 to the 4 replies, got 5"),
        (lambda: pass_at_k(SCORES > 0.5, 0), "k must be from 1"),
        (lambda: best_of_n_kl(0), "n must be at least 1, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- the agent -------------------------------------------------------------------------------------


def shortest(prompts, replies):
    return [-len(reply) for reply in replies]


def test_it_keeps_the_reply_that_scores_best_and_the_first_of_equal_ones():
    agent = make(n=6, scorer=shortest)
    agent.learn(0)
    for prompt in ("1+1=", "2+3=", "9+9="):
        texts = agent.policy.generate(
            prompt, 6, temperature=1.0, generator=agent.draws_of(prompt)
        ).texts
        assert agent.predict(prompt, deterministic=True)[0] == min(texts, key=len)
    agent.scorer = lambda prompts, replies: np.zeros(len(replies))
    assert agent.predict(prompt, deterministic=True)[0] == texts[0]


def test_several_prompts_are_replied_to_as_each_alone():
    agent = make(scorer=shortest)
    agent.learn(0)
    prompts = ["1+1=", "2+3=", "9+9="]
    together = agent.predict(np.array(prompts, dtype=object), deterministic=True)[0]
    assert together.dtype == object
    assert together.tolist() == [agent.predict(p, deterministic=True)[0] for p in prompts]
    first, second = (agent.predict(prompts * 5)[0] for _ in range(2))
    assert len(first) == 15 and first != second


def test_the_environment_chooses_by_what_it_would_pay():
    env = gym.make("Arithmetic-v0", digits=1)
    agent = make(env, n=64)
    agent.learn(0)
    attached = agent.get_env()
    best = []
    for _ in range(12):
        observation = attached.reset()
        reply = agent.predict(observation, deterministic=True)[0]
        paid = attached.step(reply)[1]
        texts = agent.policy.generate(
            observation[0], 64, temperature=1.0, generator=agent.draws_of(observation[0])
        ).texts
        task = env.unwrapped.choose({"problem": observation[0][:-1]})
        possible = max(env.unwrapped.score(env.unwrapped.verify(task, text)) for text in texts)
        assert paid[0] == possible
        best.append(possible)
    assert max(best) == 1  # some task was solved by one of its replies
    with pytest.raises(ValueError, match="only its own prompt can be replied to"):
        agent.predict("123+456=")
    agent.env = None
    with pytest.raises(ValueError, match="needs one text environment"):
        agent.predict("1+1=")


def test_more_replies_are_never_worse_in_the_log():
    agent = make(n=6, prompts=8)
    agent.learn(48 * 2)
    names = [f"rollout/best_of_{k}" for k in (1, 2, 4, 6)]
    assert set(names) <= set(agent._metrics)
    values = [agent._metrics[name] for name in names]
    assert values == sorted(values)
    assert values == pytest.approx(
        [agent._metrics[f"rollout/pass_at_{k}"] for k in (1, 2, 4, 6)]
    )  # the environment pays 1 for a right reply
    assert agent.num_timesteps == 96


def test_the_log_shows_what_the_environment_pays_for_the_choice_of_the_scorer():
    agent = make(n=4, prompts=8, scorer=lambda prompts, replies: np.zeros(len(replies)))
    agent.learn(32)
    taught = make(n=4, prompts=8)
    taught.learn(32)
    assert agent._metrics["rollout/best_of_1"] == taught._metrics["rollout/best_of_1"]
    assert agent._metrics["rollout/pass_at_4"] == taught._metrics["rollout/pass_at_4"]
    # A blind scorer keeps the first of its replies, whatever they are worth.
    assert agent._metrics["rollout/best_of_4"] <= taught._metrics["rollout/best_of_4"]


def test_a_scorer_is_given_again_when_a_file_is_read(tmp_path):
    agent = make(scorer=shortest)
    agent.learn(0)
    agent.save(tmp_path / "agent")
    cls = palaestra.agents.BestOfN
    with pytest.raises(ValueError, match="chose by a scorer, which no file can hold"):
        cls.load(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent", scorer=shortest)
    assert loaded.n == 4
    prompts = ["1+1=", "2+2="]
    assert (
        loaded.predict(prompts, deterministic=True)[0]
        == agent.predict(prompts, deterministic=True)[0]
    )


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda prompts, replies: [float("nan")] * len(replies), "to '1\\+1=' has the score nan"),
        (lambda prompts, replies: [1.0], r"must give 4 numbers, got an array \[1\]"),
    ],
)
def test_scores_that_choose_nothing_are_refused(scorer, message):
    agent = make(scorer=scorer)
    agent.learn(0)
    with pytest.raises(ValueError, match=message):
        agent.predict("1+1=")


@pytest.mark.parametrize("wrong", [{"n": 0}, {"prompts": 0}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="n and prompts are at least 1"):
        make(**wrong)
