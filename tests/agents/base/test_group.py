"""The pipeline of group-based agents: what its stages get, and what it refuses."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from palaestra.agents import GRPO, TextReinforce
from palaestra.agents.base.group import GroupAlgorithm, Rollouts, Selection
from palaestra.agents.base.text.trial import trial
from palaestra.agents.llm.baselines import SMALL


def make(cls=GRPO, env=None, **arguments):
    env = gym.make("Arithmetic-v0", digits=1) if env is None else env
    return cls("TextPolicy", env, seed=0, device="cpu", **{**SMALL, **arguments})


def rewarded(agent, rule):
    """The agent, paid by a rule of the reply's text."""
    agent.reward = lambda rollouts: agent.tensor([rule(text) for text in rollouts.texts])
    return agent


STAGES = ("select", "rollout", "reward", "advantage", "weight", "loss", "track")


def noting(stage, method):
    """The method, which first notes its name."""

    def stage_of(self, *given):
        self.called.append(stage)
        return method(self, *given)

    return stage_of


class Paid(GRPO):
    """Pays replies by their place."""

    called = []

    def reward(self, rollouts):
        return torch.arange(len(rollouts.texts)).float()


Recorded = type("Recorded", (Paid,), {name: noting(name, getattr(Paid, name)) for name in STAGES})


def test_stages_are_called_in_order_and_the_loss_for_every_minibatch():
    agent = make(Recorded, epochs=2, minibatch_size=8)
    agent.learn(0)
    agent.called = []
    agent.learn(16)
    assert agent.called == [*STAGES[:5], *["loss"] * 4, "track"]


def test_tasks_of_a_batch_do_not_repeat_while_the_pool_has_enough():
    agent = make(env=gym.make("Arithmetic-v0", digits=1, pool=6), prompts=6)
    ids = [task.index for task in agent.select().tasks]
    assert sorted(ids) == list(range(6))
    small = make(env=gym.make("Arithmetic-v0", digits=1, pool=2), prompts=6)
    assert {task.index for task in small.select().tasks} <= {0, 1}


@pytest.mark.parametrize("replies", [[2, 2, 2], [1, 4, 2]])
def test_replies_to_a_task_are_neighbours_in_any_number(replies):
    agent = make()
    found = agent.rollout(Selection(agent.tasks_of([3, 5, 7]), replies))
    groups = sum(([group] * n for group, n in enumerate(replies)), [])
    assert found.batch.groups.tolist() == groups
    assert found.batch.extra["task"].tolist() == [[3, 5, 7][group] for group in groups]
    assert [task.index for task in found.tasks] == found.batch.extra["task"].tolist()
    for row, text in enumerate(found.texts):
        tokens = found.batch.tokens[row : row + 1], found.batch.mask[row : row + 1]
        assert agent.policy.tokenizer.decode(*tokens) == [text]
        assert agent.tasks.verify(found.tasks[row], text) == found.verdicts[row]
    with torch.no_grad():
        scores = agent.policy.log_probs(found.batch)
    torch.testing.assert_close(scores, found.batch.old_log_probs, rtol=0, atol=1e-5)


def test_rollouts_can_be_kept_and_joined():
    agent = make()
    one, two = (agent.rollout(Selection(agent.tasks_of(ids), [2] * 2)) for ids in ([1, 2], [3, 4]))
    joined = Rollouts.join([one, two])
    assert joined.batch.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert joined.texts == one.texts + two.texts
    kept = joined.keep(torch.tensor([False, True] * 4))
    assert kept.batch.extra["task"].tolist() == [1, 2, 3, 4]
    assert kept.texts == joined.texts[1::2] and len(kept.tasks) == len(kept.verdicts) == 4
    for wrong in (([], []), (agent.tasks_of([1]), [0]), (agent.tasks_of([1]), [1, 1])):
        with pytest.raises(ValueError, match="at least 1 for each of its tasks"):
            Selection(*wrong)


@pytest.mark.parametrize("cls", [GRPO, TextReinforce])
def test_rewards_of_right_replies_make_them_likelier(cls):
    # Replies that begin with a 1 are paid: soon most do.
    agent = rewarded(make(cls, learning_rate=3e-3, prompts=8), lambda text: text.startswith("1"))
    agent.learn(32)
    before = agent._metrics["rollout/reward"]
    agent.learn(32 * 40, reset_num_timesteps=False)
    assert agent._metrics["rollout/reward"] > max(0.8, before)


def test_without_a_signal_nothing_changes_and_it_is_counted():
    agent = rewarded(make(), lambda text: 0.25)
    agent.learn(0)  # the warm start
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(32)
    assert agent._metrics["train/skipped"] == 1
    assert agent._metrics["rollout/no_signal"] == agent._metrics["rollout/zero_advantage"] == 1
    assert all(torch.equal(before[k], v) for k, v in agent.policy.state_dict().items())
    # With a reference there is still a divergence to reduce.
    agent = rewarded(make(kl_coef=0.1), lambda text: 0.25)
    agent.learn(32)
    assert agent._metrics["train/skipped"] == 0
    assert agent._metrics["train/kl_reference"] >= 0


def test_the_reference_is_the_policy_before_the_first_update_also_after_loading(tmp_path):
    agent = rewarded(make(kl_coef=0.1, learning_rate=1e-2), len)
    agent.learn(0)
    start = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(48)
    agent.save(tmp_path / "agent")
    loaded = GRPO.load(tmp_path / "agent", env=gym.make("Arithmetic-v0", digits=1))
    for each in (agent, loaded):
        kept = each.reference.state_dict()
        assert all(torch.equal(start[name], kept[name]) for name in start)
    assert any(not torch.equal(start[k], v) for k, v in loaded.policy.state_dict().items())


class Weighted(GRPO):
    """Counts the first reply of each group only."""

    def weight(self, batch):
        first = torch.cat([torch.ones(1), batch.groups.diff().bool().float()])
        return first


def test_weights_scale_the_losses_of_tokens():
    agent = make(Weighted)
    batch = agent.rollout(Selection(agent.tasks_of([1, 2]), [2, 2])).batch
    batch.rewards = torch.tensor([1.0, 0, 1, 0])
    batch.advantages = agent.advantage(batch)[:, None]
    batch.log_probs = batch.old_log_probs.clone().requires_grad_()
    batch.weights = agent.weight(batch)[:, None]
    agent.loss(batch).backward()
    assert (batch.log_probs.grad[1::2] == 0).all()
    assert (batch.log_probs.grad[::2][batch.mask[::2]] != 0).all()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_refused_with_its_prompt(wrong):
    agent = rewarded(make(), lambda text: wrong)
    with pytest.raises(ValueError, match=r"reward (nan|inf) of the reply '.*' to '\d\+\d='"):
        agent.learn(16)


def test_environments_that_are_not_of_texts_or_are_changed_by_wrappers_are_refused():
    with pytest.raises(ValueError, match="needs a TextEnv"):
        make(env=gym.make("CartPole-v1"))
    wrapped = gym.wrappers.TransformReward(gym.make("Arithmetic-v0"), lambda reward: -reward)
    with pytest.raises(ValueError, match="Wrappers would not be heard"):
        make(env=wrapped)
    assert isinstance(
        make(env=DummyVecEnv([lambda: gym.make("Arithmetic-v0", digits=1)])), GroupAlgorithm
    )


def test_samples_show_the_first_and_the_latest_batch():
    agent = make()
    agent.learn(16)
    first = agent.samples["before"]
    agent.learn(48, reset_num_timesteps=False)
    assert agent.samples["before"] == first and len(first) == agent.prompts
    for prompt, reply, reward in first + agent.samples["after"]:
        task = agent.tasks.problem(prompt.removesuffix("="))
        assert agent.tasks.score(agent.tasks.verify(task, reply)) == reward


def test_metrics_have_the_names_of_the_field():
    agent = make(epochs=2, minibatch_size=8)
    rewarded(agent, len).learn(16)
    assert set(agent._metrics) == {
        *("rollout/reward", "rollout/correct", "rollout/length", "rollout/ended"),
        *("rollout/no_signal", "rollout/zero_advantage", "train/skipped", "train/loss"),
        *("train/entropy", "train/kl", "train/grad_norm", "train/clip_fraction"),
    }
    assert 0 < agent._metrics["train/entropy"] < np.log(len(agent.tasks.alphabet))
    assert agent._metrics["train/kl"] >= 0


def test_a_trial_gives_all_agents_the_same_warm_start():
    small = {**SMALL, "demonstrations": 200, "imitate_until": 0.02}
    given = {"arguments": {"digits": 2}, "replies": 48, "tests": 32}
    first, second = (trial(cls, 5, **given, **small) for cls in (GRPO, TextReinforce))
    assert first.before == second.before == first.curve[1][0]
    assert first.curve[0] == [0.0, 16.0, 32.0, 48.0]
    assert len(first.log["rollout/reward"]) == 3
    assert first.mean("rollout/length", 1) == pytest.approx(first.log["rollout/length"][1:].mean())
    outcome = first.outcome(own=1.0)
    assert outcome.metrics == {
        **{"own": 1.0, "accuracy": first.after, "accuracy of the warm start": first.before}
    }
    assert outcome.samples == first.agent.samples
