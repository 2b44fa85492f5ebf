"""A cluster that changes while an agent thinks."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.cluster.mapping import Mapping
from palaestra.envs.cluster.moves import all_legal
from palaestra.envs.cluster.vm_rescheduling import VMRescheduling

TWO = Mapping([[16, 0], [16, 0]], [[99, 0], [99, 0]], [4, 6], [1, 1], [0, 1], [0, 0])


def with_events(env, events):
    """Replace the events of the tape: (second, row that arrives or -1, uniform)."""
    slots = env.tape["event_seconds"].shape[1]
    seconds, vm = np.full(slots, np.inf), np.full(slots, -2)
    pick = np.zeros(slots)
    for index, (moment, row, uniform) in enumerate(events):
        seconds[index], vm[index], pick[index] = moment, row, uniform
    env.tape = {
        **env.tape,
        "event_seconds": seconds[None],
        "event_vm": vm[None],
        "event_pick": pick[None],
    }


def make(events, cores=8, **arguments):
    """Two VMs on two machines; rows 2 and 3 are arrivals of `cores` cores and 1 of memory."""
    env = gym.make(
        "VMRescheduling-v0", mappings=TWO, vms=4, churn=1.0, migrations=3, **arguments
    ).unwrapped
    env.reset(seed=0)
    with_events(env, events)
    size = np.array([[4, 6, cores, cores]])
    env.state = {**env.state, "cores": size, "memory": np.ones_like(size)}
    return env


def test_an_arrival_takes_the_place_where_the_fewest_cores_are_left():
    env = make([(0.5, 2, 0.0)])
    observation, info = env.advance(1.0)
    assert observation["owner"].tolist() == [0, 1, 1, -1]  # 10 cores are free there, 12 on 0
    assert env.state["free_cores"][0].tolist() == [[12, 0], [2, 0]]
    assert (info["arrived"], info["departed"], info["refused"], info["seconds"]) == (1, 0, 0, 1.0)
    np.testing.assert_array_equal(env.state["legal"], all_legal(env.state, 1))
    assert info["action_mask"][2].tolist() == [True, True]
    assert env.state["t"][0] == 0


def test_an_arrival_that_fits_nowhere_or_finds_no_row_is_refused():
    env = make([(0.5, 2, 0.0), (0.6, -2, 0.0)], cores=14)
    assert env.advance(1.0)[1]["refused"] == 2
    assert env.state["owner"][0].tolist() == [0, 1, -1, -1]


def test_a_departure_frees_its_place_and_the_last_vm_never_leaves():
    env = make([(0.5, -1, 0.7), (0.6, -1, 0.0)])
    observation, info = env.advance(1.0)
    assert observation["owner"].tolist() == [0, -1, -1, -1]
    assert info["departed"] == 1
    assert env.state["free_cores"][0].tolist() == [[12, 0], [16, 0]]
    assert not info["action_mask"][1:].any()


def test_a_plan_that_has_gone_stale_is_skipped_and_reported():
    env = make([(0.5, 2, 0.0)], cores=8)
    assert env.action_masks()[0].tolist() == [True, True]
    env.advance(1.0)  # 2 cores are left on machine 1
    _, reward, _, _, info = env.step(np.array([0, 1]))
    assert (reward, info["skipped"]) == (0.0, 1)
    assert env.state["owner"][0, 0] == 0
    assert env.step(np.array([2, 0]))[4]["skipped"] == 1  # another step that can be made


@pytest.mark.parametrize("penalty_mode", [False, True])
def test_what_became_impossible_while_the_agent_thought_is_not_its_fault(penalty_mode):
    env = make([(0.5, 2, 0.0)], inference_seconds=1.0, penalty_mode=penalty_mode)
    _, reward, _, _, info = env.step(np.array([0, 1]))  # legal when it was observed
    assert (reward, info["skipped"], info["seconds"]) == (0.0, 1, 1.0)
    _, reward, _, _, info = env.step(np.array([0, 1]))  # it was shown to be illegal
    assert (reward, info["skipped"]) == (-1.0 if penalty_mode else 0.0, 2)


def test_the_reward_is_that_of_the_move_alone():
    # The arrival turns 12 and 10 free cores into 12 and 2; moving VM 1 (6 cores) to machine 0
    # leaves 6 and 8, without it 14 fragments stay 14.
    env = make([(0.5, 2, 0.0)], inference_seconds=1.0)
    _, reward, _, _, info = env.step(np.array([1, 0]))
    assert reward == 0.0
    assert info["fragment_rate"] == 1.0
    assert env.state["free_cores"][0].tolist() == [[6, 0], [8, 0]]


def test_events_come_at_the_rate_that_was_asked_for():
    core = VMRescheduling(pms=10, load=0.6, churn=4.0, inference_seconds=0.5, migrations=20)
    tape = core.tapes(40, 0)
    within = (tape["event_seconds"] <= 10).sum(axis=1)
    assert np.mean(within) == pytest.approx(40, rel=0.08)
    assert (np.diff(tape["event_seconds"], axis=1) >= 0).all()
    assert (tape["event_seconds"][:, -1] > core.tape_seconds).all()
    arrivals = (tape["event_vm"] != -1).mean()
    assert arrivals == pytest.approx(0.5, abs=0.05)


def test_time_passes_with_the_steps_and_is_the_same_in_one_go():
    arguments = {"pms": 4, "load": 0.6, "churn": 2.0, "inference_seconds": 1.5, "migrations": 4}
    env = gym.make("VMRescheduling-v0", **arguments).unwrapped
    env.reset(seed=5)
    state = env.core.elapse(env.state, env.tape, 6.0)
    for _ in range(4):
        stay = np.argwhere(env.state["owner"][0] >= 0)[0, 0]
        *_, info = env.step(np.array([stay, env.state["owner"][0, stay]]))
    assert info["seconds"] == 6.0
    assert info["arrived"] + info["departed"] + info["refused"] > 0
    for name in ("owner", "free_cores", "legal", "event"):
        np.testing.assert_array_equal(env.state[name], state[name])


def test_advance_is_refused_without_churn_and_beyond_the_tape():
    with pytest.raises(ValueError, match="without churn"):
        env = gym.make("VMRescheduling-v0", pms=2).unwrapped
        env.reset(seed=0)
        env.advance(1.0)
    env = make([])
    env.advance(40.0)
    for wrong in (21.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"outside \[0, 20\]"):
            env.advance(wrong)
    vector = gym.make_vec("VMRescheduling-v0", num_envs=3, pms=2, churn=3.0).unwrapped
    vector.reset(seed=0)
    single = gym.make("VMRescheduling-v0", pms=2, churn=3.0).unwrapped
    single.reset(seed=2)
    observations, infos = vector.advance(5.0)
    observation, info = single.advance(5.0)
    np.testing.assert_array_equal(observations["owner"][2], observation["owner"])
    assert infos["arrived"][2] == info["arrived"]
