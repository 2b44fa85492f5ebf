"""LOOP: discrepancies of hypotheses, which one is played and for how long, and what that earns."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from stable_baselines3.common.callbacks import BaseCallback

import palaestra
from palaestra.agents.tabular import loop_average_reward as loop
from palaestra.wrappers.sb3 import make_sb3

F, F_GAIN = np.array([[0, -0.2], [0.3, 0.5]]), 0.4
H, H_GAIN = np.array([[0, 0.1], [0.2, -0.1]]), 0.6
BOTH, GAINS = np.stack([F, H]), np.array([F_GAIN, H_GAIN])
SEEN = loop.Seen(
    np.array([0, 0, 0, 1]),
    np.array([0, 0, 1, 1]),
    np.array([0.4, 0, 0.1, 1]),
    np.array([0, 1, 1, 1]),
)
P = np.array([[[1, 0], [0.5, 0.5]], [[0.5, 0.5], [0, 1]]])
R = np.array([[0.2, 0], [0, 1]])


def squared(discrepancies):
    return float((discrepancies**2).sum())


def world_of(seen, states=2, actions=2):
    """Visits, shares of the next states and mean rewards of some steps."""
    counts, pays = np.zeros((states, actions, states)), np.zeros((states, actions))
    np.add.at(counts, (seen.states, seen.actions, seen.next_states), 1)
    np.add.at(pays, (seen.states, seen.actions), seen.rewards)
    visits = counts.sum(axis=-1)
    return visits, counts / np.maximum(visits, 1)[..., None], pays / np.maximum(visits, 1)


def river(**arguments):
    return gym.make("RiverSwim-v0", **{**loop.RIVER, **arguments})


def agent_for(env, worlds=None, seed=0, cls=loop.LOOP, **arguments):
    """An agent whose hypotheses are the optima of some worlds, by default of 24 rivers."""
    action_values, gains = loop.solved(*(loop.rivers() if worlds is None else worlds))
    arguments = {"action_values": action_values, "gains": gains, **arguments}
    return cls("TablePolicy", env, seed=seed, **arguments)


class Trace(BaseCallback):
    """Notes, before every step, the state, the hypothesis and its discrepancy, and the action."""

    def __init__(self):
        super().__init__()
        self.states, self.actions, self.chosen, self.changed = [], [], [], []

    def _on_rollout_start(self):
        self.states.append(int(self.model._last_obs[0]))

    def _on_step(self):
        self.chosen.append(self.model.current)
        self.actions.append(int(self.model.policy.values[self.states[-1]].argmax()))
        return True


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_the_discrepancies():
    of_f = loop.value_discrepancies(SEEN, F.max(axis=1), F, F_GAIN)
    assert squared(of_f) == pytest.approx(0.53, abs=1e-9)
    found = loop.excess_discrepancy(*world_of(SEEN), BOTH, GAINS)
    assert_allclose(found, [0.525, 0.775], atol=1e-9)
    assert loop.excess_discrepancy(*world_of(SEEN), H, H_GAIN) == pytest.approx(0.775, abs=1e-9)


def test_worked_example_of_the_choice():
    found = loop.excess_discrepancy(*world_of(SEEN), BOTH, GAINS)
    assert loop.most_optimistic(found, GAINS, beta=0.6) == 0
    assert loop.most_optimistic(found, GAINS, beta=0.8) == 1
    assert loop.most_optimistic(found, GAINS, beta=0.5) == 0  # none is consistent
    assert loop.most_optimistic(found, np.array([0.6, 0.6]), beta=0.8) == 0  # equally optimistic


@pytest.mark.parametrize(("beta", "due"), [(0.15, True), (0.2, False)])
def test_worked_example_of_the_lazy_update(beta, due):
    env = gym.make("FiniteMDP-v0", P=P, low=R[..., None])
    agent = loop.LOOP("TablePolicy", env, action_values=BOTH, gains=GAINS, beta=beta)
    assert agent.current == 1  # before any data, the more optimistic one
    trajectories = loop.Trajectories(
        np.stack([SEEN.states, SEEN.next_states], axis=1),
        SEEN.actions[:, None],
        SEEN.rewards[:, None],
    )
    agent.counts.add(trajectories)
    agent.discrepancy = float(agent.discrepancies(agent.current))
    assert agent.discrepancy == pytest.approx(0.775, abs=1e-9)
    assert agent.due() is due


def test_worked_example_of_relative_value_iteration():
    action_values, gain = loop.solved(P, R)
    assert gain == pytest.approx(1.0, abs=1e-9)
    assert_allclose(action_values, [[-0.8, 0], [0, 2]], atol=1e-9)
    several = loop.solved(np.stack([P, P[::-1, :, ::-1]]), np.stack([R, R[::-1]]))
    assert_allclose(several[1], [1, 1], atol=1e-9)
    assert_allclose(several[0][1], [[-2, 0], [-2.8, -2]], atol=1e-9)  # V(0) = 0 there, too


# -- discrepancies ---------------------------------------------------------------------------------


@st.composite
def steps(draw):
    count = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return loop.Seen(
        *(rng.integers(size, size=count) for size in (3, 2)),
        rng.standard_normal(count),
        rng.integers(3, size=count),
    ), rng


@settings(deadline=None)
@given(steps())
def test_the_excess_is_above_the_best_table(drawn):
    seen, rng = drawn
    f, gain = rng.standard_normal((3, 2)), float(rng.standard_normal())
    values = f.max(axis=1)
    visits, shares, means = world_of(seen, 3, 2)
    own = squared(loop.value_discrepancies(seen, values, f, gain))
    best = squared(loop.value_discrepancies(seen, values, means + shares @ values, 0.0))
    excess = float(loop.excess_discrepancy(visits, shares, means, f, gain))
    assert excess == pytest.approx(own - best, abs=1e-9)
    other = squared(loop.value_discrepancies(seen, values, rng.standard_normal((3, 2)), gain))
    assert other >= best - 1e-9


def test_the_discrepancies_of_a_model_are_those_of_its_values():
    rng = np.random.default_rng(0)
    model = rng.dirichlet(np.ones(3), (3, 2)), rng.random((3, 2))
    action_values, gain = loop.solved(*model)
    values = action_values.max(axis=1)
    states, actions, following = np.array([[0, 2, 1], [1, 0, 0], [2, 2, 0]])
    seen = loop.Seen(states, actions, np.array([0.3, 0.1, 0.9]), following)
    from_values = loop.value_discrepancies(seen, values, action_values, float(gain))
    from_model = loop.value_discrepancies(seen, values, model[1] + model[0] @ values, 0.0)
    assert_allclose(from_values, from_model, atol=1e-8)
    assert_allclose(loop.bellman_errors(*model, action_values, gain), 0, atol=1e-8)


def test_pairs_never_visited_contribute_nothing():
    nothing = np.zeros((2, 2)), np.zeros((2, 2, 2)), np.zeros((2, 2))
    assert_allclose(loop.excess_discrepancy(*nothing, BOTH, GAINS), [0, 0])


# -- AGEC ------------------------------------------------------------------------------------------


def test_agec_of_one_pair_and_of_pairs_with_hypotheses_of_their_own():
    times = np.arange(1_000)
    same = np.zeros(1_000, dtype=np.int64)
    assert loop.agec_estimate(np.full((1, 1, 1), -3.0), same, same, same) == pytest.approx(
        2 * 1_000 / 1_001
    )
    errors = 0.5 * np.eye(4)[..., None]  # hypothesis k is wrong in state k alone
    turns = times % 4
    found = loop.agec_estimate(errors, turns, turns, same)
    assert found == pytest.approx(2 * 4 * 1_000 / (1_000 + 4))
    assert loop.agec_estimate(0 * errors, turns, turns, same) == 0


def test_agec_of_a_run_is_of_the_size_of_the_world():
    env, trace = river(), Trace()
    agent = agent_for(env, seed=3).learn(1_000, trace)
    core = env.unwrapped.core
    errors = loop.bellman_errors(core.P[0], core.R[0], agent.action_values, agent.gains)
    where = (np.array(each) for each in (trace.chosen, trace.states, trace.actions))
    assert 0 < loop.agec_estimate(errors, *where) < 2 * errors[0].size


# -- the agent -------------------------------------------------------------------------------------


def test_it_changes_seldom_and_ends_with_a_hypothesis_that_the_data_allow():
    agent, trace = agent_for(river(), seed=1), Trace()
    discrepancies = []
    agent.learn(2_000, [trace, Noter(discrepancies)])
    chosen = np.array(trace.chosen)
    assert agent.changes == (np.diff(chosen) != 0).sum() <= 6
    assert agent.discrepancy <= 4 * agent.beta
    # A change follows a discrepancy above 4 beta, and nothing else does.
    above = np.array(discrepancies[:-1]) > 4 * agent.beta
    assert_allclose(above, np.diff(chosen) != 0)
    assert agent.discrepancies().shape == (24,)


class Noter(BaseCallback):
    """Appends the discrepancy after every step to a list."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def _on_step(self):
        self.found.append(self.model.discrepancy)
        return True


def test_what_it_plays_promises_no_less_than_the_truth():
    agent, trace = agent_for(river(), seed=2), Trace()
    agent.learn(2_000, trace)
    core = river().unwrapped.core
    truth = float(loop.solved(core.P[0], core.R[0])[1])
    assert truth == pytest.approx(0.287496, abs=1e-6)
    index = int(np.abs(agent.gains - truth).argmin())
    assert agent.discrepancies()[index] <= agent.beta
    assert (agent.gains[trace.chosen] >= truth - 1e-9).all()


def test_greed_stays_at_the_near_bank_and_optimism_does_not():
    regrets = {}
    for cls in (loop.LOOP, loop.LeastDiscrepancy):
        agent = agent_for(river(), seed=5, cls=cls)
        if cls is loop.LeastDiscrepancy:  # its first choice may be that the far bank pays nothing
            agent.current = int(agent.gains.argmin())
        agent.learn(1_500)
        visits = agent.counts.visits[0]
        regrets[cls] = 0.287496 - (visits * river().unwrapped.core.R[0]).sum() / visits.sum()
    assert regrets[loop.LeastDiscrepancy] > 0.2 > 0.1 > regrets[loop.LOOP]


def test_beta_may_be_0_where_nothing_is_random():
    still = np.eye(2)[[[0, 1], [0, 1]]]  # action a leads to state a
    rewards = np.array([[0.2, 0], [0, 1]])
    richer, poorer = rewards + [[0.9, 0], [0, 0]], 0.5 * rewards
    worlds = np.stack([still] * 3), np.stack([poorer, rewards, richer])
    env = gym.make("FiniteMDP-v0", P=still, low=rewards[..., None], max_steps=30)
    agent = agent_for(env, worlds, beta=0.0)
    assert agent.current == 2
    agent.learn(200)
    assert (agent.current, agent.changes) == (1, 1)
    assert agent.predict(np.array([0, 1]), deterministic=True)[0].tolist() == [1, 1]


def test_a_class_without_the_truth_is_warned_of_once():
    env = gym.make("FiniteMDP-v0", P=P, low=R[..., None], max_steps=30)
    agent = loop.LOOP("TablePolicy", env, action_values=BOTH, gains=GAINS, beta=0.01, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(100)
    messages = [str(each.message) for each in caught if "contradicts" in str(each.message)]
    assert len(messages) == 1
    assert "above beta=0.01" in messages[0]
    assert agent.current == agent.discrepancies().argmin()


def test_parallel_environments_are_learned_from_together():
    agent = agent_for(make_sb3("RiverSwim-v0", 4, **loop.RIVER), seed=0).learn(2_000)
    assert agent.num_timesteps == agent.counts.visits.sum() == 2_000
    assert agent.changes <= 6


def test_an_episode_that_is_cut_is_not_seen_as_a_way_back():
    env = gym.make("FiniteMDP-v0", P=P, low=R[..., None], max_steps=5)
    agent = agent_for(env, (P[None], R[None])).learn(300)
    seen = agent.counts.transitions()[0]
    assert (seen[1, 1] == [0, 1]).all()  # state 1 is never left


def test_a_task_that_ends_is_refused_unless_its_end_leads_on():
    ways = np.zeros((3, 1, 3))
    ways[[0, 1, 2], 0, [1, 2, 2]] = 1
    env = gym.make("FiniteMDP-v0", P=ways, low=[[[0]], [[1]], [[0]]], terminal=(2,))
    hypothesis = {"action_values": np.zeros((1, 3, 1)), "gains": [0.5]}
    agent = loop.LOOP("TablePolicy", env, **hypothesis)
    with pytest.raises(ValueError, match="the task ended in state 2, so that it has no average"):
        agent.learn(10)
    agent = loop.LOOP("TablePolicy", env, **hypothesis, continuing=True).learn(10)
    assert_allclose(agent.counts.transitions()[0, :, 0], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_arguments_that_make_no_sense():
    env = gym.make("FiniteMDP-v0", P=P, low=R[..., None])
    for arguments, message in (
        ({}, "N hypotheses, at least 1"),
        ({"action_values": np.zeros((0, 2, 2)), "gains": []}, "N hypotheses, at least 1"),
        ({"action_values": F, "gains": F_GAIN}, r"gains has shape \(\) .* \[N, 2, 2\]"),
        ({"action_values": BOTH, "gains": [0.4]}, r"gains has shape \(1,\) .* \(2, 2, 2\)"),
        ({"action_values": BOTH, "gains": [0.4, np.nan]}, "must be finite"),
        ({"action_values": BOTH, "gains": GAINS, "beta": -0.1}, "beta=-0.1"),
        ({"action_values": BOTH, "gains": GAINS, "beta": np.nan}, "beta=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            palaestra.agents.LOOP("TablePolicy", env, **arguments)
    with pytest.raises(ValueError, match="Discrete"):
        palaestra.agents.LOOP(
            "TablePolicy", gym.make("CartPole-v1"), action_values=BOTH, gains=GAINS
        )


def test_the_hypotheses_of_the_example_are_a_machine_that_wears_and_one_that_does_not():
    core = loop.LOOP.example.build().unwrapped.core
    action_values, gain = loop.solved(core.P[0], core.R[0])
    assert_allclose(action_values, loop.WEARS, atol=1e-9)
    assert gain == pytest.approx(0.75, abs=1e-9)
    agent = agent_for(loop.LOOP.example.build(), seed=0, **loop.LOOP.example.kwargs).learn(100)
    assert (agent.current, agent.changes) == (1, 1)


def test_a_world_whose_gain_depends_on_the_start_is_refused():
    apart = np.stack([np.eye(2)] * 2, axis=1)  # no state is ever left
    with pytest.raises(ValueError, match="multichain"):
        loop.solved(apart, R)
