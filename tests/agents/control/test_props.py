"""PROPS: the worked examples, descents in tables, PPO as it was, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from torch.testing import assert_close

from palaestra.agents import PROPS, ROS, BufferPPO
from palaestra.agents.base.ppo import ProximalAlgorithm
from palaestra.agents.control.props import (
    GRID,
    better_exit,
    clipped_ratio,
    gradient_of,
    sampled,
    sampling_error,
    tabular_descent,
)
from palaestra.agents.control.ros import approximate_kl

SMALL = {
    **{"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"},
    **{"policy_kwargs": {"net_arch": [8]}},
}
DISCRETE = {"states": 4, "branching": 2, "max_steps": 10}


def made(cls, steps=0, env=None, **arguments):
    """An agent of a small world that has learned for some steps."""
    env = gym.make("Garnet-v0", **DISCRETE) if env is None else env
    agent = cls("MlpPolicy", env, **{**SMALL, **arguments})
    return agent.learn(steps) if steps else agent


def pendulum():
    return gym.make("Pendulum-v1")


def assert_same(left, right):
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Watch(BaseCallback):
    """Notes a number at every step, or stops at one."""

    def __init__(self, read=lambda agent: None, stop_at=None):
        super().__init__()
        self.read, self.stop_at, self.seen = read, stop_at, []

    def _on_step(self):
        self.seen.append(self.read(self.model))
        return len(self.seen) != self.stop_at


# -- the worked examples --------------------------------------------------------------------------

TARGET = torch.tensor([0.5, 0.25, 0.25, 0.1], dtype=torch.float64).log()
BEHAVIOUR = torch.tensor([0.3, 0.3, 0.4, 0.08], dtype=torch.float64).log()


def test_worked_example_of_the_loss() -> None:
    log_ratio = (BEHAVIOUR - TARGET).requires_grad_()
    terms = clipped_ratio(log_ratio, 0.3)
    assert_close(terms, torch.tensor([0.7, 1.2, 1.6, 0.8], dtype=torch.float64))
    assert_close(terms.mean().item(), 1.075)
    terms.mean().backward()
    assert ((log_ratio.grad != 0) == torch.tensor([False, True, True, True])).all()


def test_worked_example_of_the_divergence() -> None:
    assert approximate_kl(BEHAVIOUR - TARGET).mean().item() == pytest.approx(0.070411, abs=1e-6)


def test_worked_example_of_one_state() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    counts = torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64)
    assert sampling_error(counts, logits).item() == pytest.approx(0.294910, abs=1e-6)
    found = tabular_descent(logits, counts, rate=1.0, steps=1)
    assert_close(logits - found, torch.tensor([[0.3, -0.1, -0.2]], dtype=torch.float64))
    change = found.softmax(-1) - logits.exp()
    assert ((change > 0) == torch.tensor([[False, True, True]])).all()


# -- the paper's computation ----------------------------------------------------------------------


def test_a_ratio_beyond_all_bounds_is_clamped() -> None:
    far = torch.tensor([-1000.0, 1000.0, torch.inf], dtype=torch.float64)
    top = float(np.exp(20.0))
    assert_allclose(clipped_ratio(far, 0.3), [0.7, top, top])
    assert_allclose(approximate_kl(far), [np.expm1(-20.0) + 20, top - 21, top - 21])


def test_with_epsilon_one_the_loss_is_the_ratio() -> None:
    assert_close(clipped_ratio(BEHAVIOUR - TARGET, 1.0), (BEHAVIOUR - TARGET).exp())


@given(st.lists(st.integers(0, 6), min_size=6, max_size=6), st.integers(0, 99))
def test_sampling_error_is_zero_on_the_frequencies_and_never_negative(counts, seed) -> None:
    table = torch.tensor(counts, dtype=torch.float64).reshape(2, 3)
    drawn = torch.as_tensor(np.random.default_rng(seed).standard_normal((2, 3)))
    assert sampling_error(table, drawn.log_softmax(-1)) >= -1e-12
    frequencies = (table / table.sum(-1, keepdim=True)).nan_to_num(1.0).clamp(min=1e-300).log()
    assert_close(sampling_error(table, frequencies).item(), 0.0)


def test_a_descent_stays_where_the_data_have_the_frequencies_of_the_target() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], dtype=torch.float64)
    counts = torch.tensor([[4.0, 2.0, 2.0], [1.0, 6.0, 1.0]], dtype=torch.float64)
    assert_close(tabular_descent(probs.log(), counts, rate=20.0), probs.log())


def test_a_descent_without_data_leaves_the_target() -> None:
    logits = torch.randn(3, 2, 4, dtype=torch.float64)
    assert_close(tabular_descent(logits, torch.zeros_like(logits), rate=20.0), logits)


def test_a_descent_with_delta_zero_takes_one_step() -> None:
    logits, counts = torch.zeros(1, 3).double(), torch.tensor([[4.0, 1.0, 0.0]]).double()
    one = tabular_descent(logits, counts, rate=0.1, steps=1)
    assert_close(tabular_descent(logits, counts, rate=0.1, delta=0.0), one)
    more = tabular_descent(logits, counts, rate=0.1)
    assert more[0, 0] < one[0, 0]


def test_each_data_set_of_a_batch_stops_by_itself() -> None:
    rng = np.random.default_rng(0)
    logits = torch.as_tensor(rng.standard_normal((2, 3)))
    counts = torch.as_tensor(rng.integers(0, 9, (4, 2, 3)).astype(float))
    together = tabular_descent(logits.expand(4, 2, 3), counts, rate=5.0)
    alone = [tabular_descent(logits, each, rate=5.0) for each in counts]
    assert_close(together, torch.stack(alone))


def test_an_action_below_the_clip_is_not_pushed_further() -> None:
    logits, counts = torch.zeros(1, 2).double(), torch.tensor([[9.0, 0.0]]).double()
    clipped = tabular_descent(logits, counts, rate=0.05, delta=np.inf, steps=400).softmax(-1)
    raw = tabular_descent(logits, counts, rate=0.05, delta=np.inf, steps=400, epsilon=1.0)
    assert 0.33 < clipped[0, 0] < 0.35  # 0.7 of a half
    assert raw.softmax(-1)[0, 0] < 0.2


# -- PPO with a buffer ----------------------------------------------------------------------------


@pytest.mark.parametrize("env", [None, pendulum])
def test_with_one_batch_it_is_ppo(env) -> None:
    left, right = (
        made(cls, 96, env() if env else None, **more)
        for cls, more in ((BufferPPO, {"batches": 1}), (ProximalAlgorithm, {}))
    )
    assert_same(left, right)


def test_the_last_batches_are_learned_from_and_the_oldest_goes() -> None:
    sizes, firsts = [], []

    class Noting(BufferPPO):
        def run_epochs(self):
            sizes.append(self.rollout_buffer.buffer_size)
            firsts.append(self.rollout_buffer.rewards[0, 0])
            super().run_epochs()

    agent = made(Noting, 160, batches=3)
    assert sizes == [32, 64, 96, 96, 96]
    assert firsts[0] == firsts[1] == firsts[2]
    assert len({float(each) for each in firsts[2:]}) > 1
    assert len(agent.older["rewards"]) == 64
    agent.learn(32)  # the environment is reset
    assert sizes[-1] == 32
    agent.learn(40, Watch(stop_at=40), reset_num_timesteps=False)
    assert sizes[-1] == 64
    agent.learn(32, reset_num_timesteps=False)  # after a gap
    assert sizes[-1] == 32


def test_older_steps_are_judged_by_the_present_policy() -> None:
    agent = made(BufferPPO, 32, learning_rate=0.05, n_epochs=8)
    batches = []
    agent.run_epochs = lambda: batches.append(agent.rollout_buffer)
    older = {name: value.copy() for name, value in agent.older.items()}
    agent.learn(32, reset_num_timesteps=False)
    (joined,) = batches
    assert_array_equal(joined.rewards[:32], older["rewards"])
    observations, actions = (torch.as_tensor(older[k]) for k in ("observations", "actions"))
    values, log_probs, _ = agent.policy.evaluate_actions(
        observations.flatten(0, 1), actions.flatten()
    )
    assert_allclose(joined.values[:32, 0], values.detach().flatten(), atol=1e-6)
    assert_allclose(joined.log_probs[:32, 0], log_probs.detach(), atol=1e-6)
    # The last step of the older batch goes on into the first of the latest.
    step = 31
    going = 1 - joined.episode_starts[32]
    error = joined.rewards[step] + 0.99 * going * joined.values[32] - joined.values[step]
    expected = error + 0.99 * 0.95 * going * joined.advantages[32]
    assert_allclose(joined.advantages[step], expected, atol=1e-5)


# -- who collects the data ------------------------------------------------------------------------


def distance(agent):
    """How far the behaviour policy's parameters are from the policy's."""
    ours, theirs = agent.behaviour.parameters(), agent.policy.parameters()
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("cls", [ROS, PROPS])
@pytest.mark.parametrize("env", [None, pendulum])
def test_the_behaviour_policy_starts_as_the_policy_and_leaves_it(cls, env) -> None:
    watch = Watch(distance)
    agent = made(cls, env=env() if env else None, batches=1, behaviour_steps=8)
    agent.learn(32, watch)
    assert watch.seen[:8] == [0.0] * 8
    assert min(watch.seen[8:]) > 0
    if env is not None:  # the deviation adapts, too
        assert not torch.equal(agent.behaviour.log_std, made(cls, env=env()).policy.log_std)


def test_with_older_batches_even_the_first_steps_make_up_for_them() -> None:
    agent, watch = made(PROPS, 32, batches=2, behaviour_steps=32), Watch(distance)
    agent.learn(32, watch, reset_num_timesteps=False)
    assert min(watch.seen) > 0
    assert len(set(watch.seen)) == 1  # one descent for the batch


def test_the_rollout_holds_what_the_policy_says_not_the_behaviour() -> None:
    agent = made(PROPS, batches=1, behaviour_rate=0.1)
    agent.run_epochs = lambda: None
    agent.learn(32)
    buffer = agent.rollout_buffer
    values, log_probs, _ = agent.policy.evaluate_actions(
        *agent.pairs({"observations": buffer.observations, "actions": buffer.actions})
    )
    assert_allclose(buffer.values.flatten(), values.detach().flatten(), atol=1e-6)
    assert_allclose(buffer.log_probs.flatten(), log_probs.detach(), atol=1e-6)


def test_a_behaviour_that_does_not_move_is_on_policy() -> None:
    agent = made(PROPS, 64, behaviour_rate=0.0)
    assert distance(made(PROPS, behaviour_rate=0.0)) == 0
    assert agent.logger is not None
    agent.adapt()
    assert distance(agent) == 0


def test_predict_is_the_policys_own_also_during_a_rollout() -> None:
    def read(agent):
        states = np.arange(4)
        with torch.no_grad():
            probs = agent.policy.get_distribution(torch.as_tensor(states)[:, None])
        return (agent.predict(states, deterministic=True)[0] == probs.mode().numpy()).all()

    watch = Watch(read)
    made(PROPS, behaviour_rate=1.0, behaviour_kl=100.0).learn(64, watch)
    assert all(watch.seen)


def descents(monkeypatch, **arguments):
    """How many gradient steps each descent of a rollout takes."""
    import palaestra.agents.control.props as module

    steps, original = [0], module.gradient_step

    def count(*given):
        steps[-1] += 1
        return original(*given)

    monkeypatch.setattr(module, "gradient_step", count)

    class Counting(PROPS):
        def descend(self, *given):
            super().descend(*given)
            steps.append(0)

    made(Counting, batches=1, behaviour_steps=8, **arguments).learn(32)
    return steps[:-1]


def test_a_descent_takes_all_steps_below_delta_and_one_with_delta_zero(monkeypatch) -> None:
    settings = {"behaviour_epochs": 3, "behaviour_minibatches": 5}
    # 8, 16 and 24 steps in pieces of 1, 3 and 4.
    assert descents(monkeypatch, behaviour_kl=1e9, **settings) == [24, 18, 18]
    steps = descents(monkeypatch, behaviour_kl=0.0, behaviour_minibatches=1)
    assert steps == [1, 1, 1]


def test_more_minibatches_than_steps_are_pieces_of_one(monkeypatch) -> None:
    steps = descents(monkeypatch, behaviour_kl=1e9, behaviour_epochs=1, behaviour_minibatches=1000)
    assert steps == [8, 16, 24]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"behaviour_steps": 12}, "n_steps=32 is no multiple of behaviour_steps=12"),
        ({"behaviour_steps": 0}, "behaviour_steps"),
        ({"batches": 0}, "batches"),
        ({"behaviour_rate": -1.0}, "behaviour_rate"),
        ({"behaviour_epochs": 0}, "behaviour_epochs"),
        ({"behaviour_minibatches": 0}, "behaviour_minibatches"),
        ({"behaviour_clip": 1.5}, "behaviour_clip"),
        ({"behaviour_kl": -0.1}, "behaviour_kl"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        made(PROPS, **arguments)


def test_what_the_behaviour_policy_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="use_sde must be off"):
        made(PROPS, env=pendulum(), use_sde=True)

    class Dictionaries(gym.ObservationWrapper):
        observation_space = spaces.Dict({"state": spaces.Discrete(4)})

        def observation(self, observation):
            return {"state": observation}

    env = Dictionaries(gym.make("Garnet-v0", **DISCRETE))
    with pytest.raises(ValueError, match="BufferPPO takes no Dict observations"):
        BufferPPO("MultiInputPolicy", env, **SMALL)


# -- what the claim measures ----------------------------------------------------------------------


def test_the_gradient_of_a_one_step_world_is_that_of_its_mean_reward() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rewards = torch.randn(3, 4, dtype=torch.float64)
    probs = logits.softmax(-1)
    (probs * rewards).sum(-1).mean().backward()
    assert_close(gradient_of(logits, probs / 3, rewards).detach(), logits.grad)


def test_better_exit_of_a_walk() -> None:
    core = gym.make("GridWorld-v0", **GRID).unwrapped.core
    laws = np.zeros((25, 4))
    laws[:, 1] = 1.0  # south
    laws[20:, 1], laws[20:, 2] = 0.0, 1.0  # then east
    assert better_exit(core, laws) == pytest.approx(1.0)
    assert better_exit(core, laws[:, [1, 0, 3, 2]]) == pytest.approx(0.0)  # north
    uniform = better_exit(core, np.full((25, 4), 0.25))
    assert 0.2 < uniform < 0.5


def test_props_lowers_the_sampling_error_in_tables() -> None:
    on_policy, props = (
        sampled(name, 100, 0.25)["sampling error, n = 512"] for name in ("", "PROPS")
    )
    assert props < 0.7 * on_policy
