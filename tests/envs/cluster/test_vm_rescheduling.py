"""The dynamics of `VMRescheduling-v0`, with numbers worked out by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.cluster.mapping import Mapping
from palaestra.envs.cluster.vm_rescheduling import VMRescheduling


def mapping(capacity, vms, conflicts=(), memory=1000):
    """`capacity`: cores per node of each machine; `vms`: (machine, node, cores[, memory])."""
    cores = np.array(
        [[*each, 0][:2] if isinstance(each, tuple) else [each, 0] for each in capacity]
    )
    owner, node, size = (np.array([vm[part] for vm in vms]) for part in range(3))
    needed = np.array([vm[3] if len(vm) > 3 else 0 for vm in vms])
    return Mapping(
        cores, np.where(cores > 0, memory, 0), size, needed, owner, node, np.array(conflicts)
    )


def make(given, **arguments):
    env = gym.make("VMRescheduling-v0", mappings=given, **arguments).unwrapped
    env.reset(seed=0)
    return env


def free(env):
    return env.state["free_cores"][0].tolist()


# Free 24 and 8 cores: 8 + 8 of 32 are fragments.
PLATEAU = mapping([32, 32], [(0, 0, 4), (0, 0, 4), (1, 0, 12), (1, 0, 12)])


def test_worked_example_no_single_move_gains_but_two_together_do():
    env = make(PLATEAU)
    assert env.core.info(env.state)["fragment_rate"][0] == 0.5
    start = env.get_state()
    mask = env.action_masks()
    assert mask[:2].tolist() == [[True, True]] * 2
    for vm, pm in np.argwhere(mask):
        env.set_state(*start)
        assert env.step(np.array([vm, pm]))[1] <= 0
    env.set_state(*start)
    assert env.step(np.array([0, 1]))[1] == 0
    _, reward, _, _, info = env.step(np.array([1, 1]))
    assert reward == 0.125
    assert info["fragment_rate"] == 0
    assert free(env) == [[32, 0], [0, 0]]


def test_worked_example_one_move_gains_an_eighth():
    env = make(mapping([16, 32], [(0, 0, 4), (1, 0, 12)]))
    assert free(env) == [[12, 0], [20, 0]]
    assert env.core.info(env.state)["fragment_rate"][0] == 0.5
    _, reward, _, _, info = env.step(np.array([0, 1]))
    assert reward == 0.125
    assert info["fragment_rate"] == 0


def test_a_vm_keeps_its_node_if_it_fits_there_and_else_takes_the_other():
    env = make(mapping([(16, 16), (16, 16), (16, 16)], [(0, 1, 8), (1, 1, 12), (2, 0, 2)]))
    env.step(np.array([0, 1]))  # node 1 of machine 1 has only 4 cores left
    assert free(env)[1] == [8, 4]
    assert env.state["node"][0, 0] == 0
    env.step(np.array([0, 2]))
    assert free(env) == [[16, 16], [16, 4], [6, 16]]


def test_memory_counts_like_cores():
    env = make(mapping([(16, 16), (16, 16)], [(0, 0, 2, 30), (1, 0, 2, 80)], memory=100))
    env.step(np.array([0, 1]))  # 20 of memory are left on node 0
    assert env.state["node"][0, 0] == 1
    full = make(mapping([16, 16], [(0, 0, 2, 30), (1, 0, 2, 80)], memory=100))
    assert full.action_masks()[0].tolist() == [True, False]


def test_a_split_vm_needs_room_on_both_nodes():
    env = make(mapping([(44, 44), (44, 44)], [(0, 2, 64), (1, 0, 16)]))
    assert env.action_masks()[0].tolist() == [True, False]
    env = make(mapping([(44, 44), (44, 44)], [(0, 2, 64), (1, 0, 8)]))
    _, reward, *_ = env.step(np.array([0, 1]))
    assert free(env) == [[44, 44], [4, 12]]
    # 12 and 12 beside 4 and 12 before, 12 and 12 beside 4 and 12 afterwards
    assert reward == 0


def test_conflicts_keep_vms_apart_and_move_with_them():
    env = make(mapping([32, 32, 32], [(0, 0, 4), (1, 0, 4), (2, 0, 4)], [(0, 1)]))
    assert env.action_masks()[:2].tolist() == [[True, False, True], [False, True, True]]
    env.step(np.array([1, 2]))
    assert env.action_masks()[:2].tolist() == [[True, True, False], [False, True, True]]
    assert env.action_masks()[2].all()


def test_staying_beside_a_vm_of_the_same_machine_is_legal_whatever_conflicts_there_are():
    # The conflict of 0 and 1 blocks machine 1 for VM 0, and not its own.
    env = make(mapping([32, 32], [(0, 0, 4), (1, 0, 4)], [(1, 0)]))
    assert env.action_masks().tolist() == [[True, False], [False, True]]
    assert env.step(np.array([0, 0]))[1] == 0


def test_an_infeasible_action_is_named_with_its_reason():
    env = make(mapping([32, 8], [(0, 0, 12), (1, 0, 4), (0, 0, 2)], [(1, 2)]), vms=4)
    with pytest.raises(
        ValueError, match=r"\[0, 1\] of sub-environment 0.*12 cores.*\[4, 0\] cores"
    ):
        env.step(np.array([0, 1]))
    with pytest.raises(ValueError, match="machine 0 hosts a VM in conflict with VM 1"):
        env.step(np.array([1, 0]))
    with pytest.raises(ValueError, match="row 3 holds no VM"):
        env.step(np.array([3, 0]))
    assert env.state["t"][0] == 0


def test_penalty_mode_charges_one_and_changes_nothing():
    env = make(mapping([16, 16], [(0, 0, 16), (1, 0, 4)]), penalty_mode=True, vms=3)
    before = free(env)
    for step, action in enumerate(([0, 1], [2, 0])):  # too large, and no VM at all
        _, reward, _, _, info = env.step(np.array(action))
        assert reward == -1
        assert free(env) == before
        assert info["skipped"] == step + 1
        assert info["fragment_rate"] == 1.0
        assert env.state["moved"][0].tolist() == [-1, -1, -1]
    assert env.step(np.array([0, 0]))[1] == 0
    assert env.state["t"][0] == 3


def test_the_extended_action_asks_for_the_other_node():
    vms = [(0, 0, 4), (1, 2, 8), (1, 1, 12), (1, 0, 2)]
    env = make(mapping([(16, 16), (16, 16)], vms), extended=True)
    assert env.action_space.nvec.tolist() == [4, 4]
    # Machine 1 has 10 cores on node 0 and none on node 1.
    assert env.action_masks().tolist() == [
        [True, True, True, True],
        [True, False, True, False],  # a split VM has no other node
        [True, True, True, False],  # 12 cores fit on either node of machine 0, not beside itself
        [True, True, True, False],
    ]
    _, reward, *_ = env.step(np.array([0, 1]))
    assert env.state["node"][0, 0] == 1
    assert free(env)[0] == [16, 12]
    assert reward == 0
    env.step(np.array([0, 3]))  # asks for node 0 of machine 1
    assert (env.state["owner"][0, 0], env.state["node"][0, 0]) == (1, 0)
    env.step(np.array([2, 1]))  # asks for node 0 of machine 0
    assert (env.state["owner"][0, 2], env.state["node"][0, 2]) == (0, 0)


def test_the_extended_action_falls_back_to_the_node_that_has_room():
    env = make(mapping([(16, 16), (16, 16)], [(0, 0, 4), (1, 1, 14)]), extended=True)
    env.step(np.array([0, 3]))  # node 1 of machine 1 has 2 cores left
    assert env.state["node"][0, 0] == 0


def test_no_free_core_is_no_fragment():
    env = make(mapping([4, 8], [(0, 0, 4), (1, 0, 8)]))
    observation, info = env.reset(seed=0)
    assert info["fragment_rate"] == 0
    assert not observation["pms"].reshape(2, 8)[:, [0, 1, 4, 5, 6, 7]].any()


def test_a_vm_larger_than_every_other_machine_can_only_stay():
    env = make(mapping([32, 8, 8], [(0, 0, 20), (1, 0, 2)]))
    assert env.action_masks()[0].tolist() == [True, False, False]
    assert env.step(np.array([0, 0]))[1] == 0


@pytest.mark.parametrize("extended", [False, True])
def test_without_migrations_the_first_step_ends_and_nothing_may_move(extended):
    env = make(PLATEAU, migrations=0, extended=extended)
    mask = env.action_masks()
    assert (mask.sum(axis=1) == 1).all()
    with pytest.raises(ValueError, match="migrations=0"):
        env.step(np.array([0, 1 + extended]))
    _, reward, terminated, truncated, _ = env.step(np.argwhere(mask)[0])
    assert (reward, terminated, truncated) == (0, False, True)
    np.testing.assert_array_equal(env.action_masks(), mask)


def test_episodes_are_cut_after_the_migrations():
    env = make(PLATEAU, migrations=3)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_observation_rows_are_those_of_the_specification():
    given = mapping([(44, 44), (44, 20)], [(0, 0, 4, 10), (1, 2, 20, 40), (0, 1, 24, 6)])
    env = make([given, PLATEAU], migrations=4)
    observation, _ = env.reset(options={"mapping": 0})
    pms = observation["pms"].reshape(2, 8)
    vms = observation["vms"].reshape(4, 6)
    scale = 2000.0
    expected = [40 / 88, 20 / 88, 990 / scale, 994 / scale, 8 / 40, 8 / 16, 4 / 20, 4 / 16]
    np.testing.assert_allclose(pms[0], expected, rtol=1e-6)
    expected = [34 / 88, 10 / 88, 980 / scale, 980 / scale, 2 / 34, 2 / 16, 10 / 10, 10 / 16]
    np.testing.assert_allclose(pms[1], expected, rtol=1e-6)
    np.testing.assert_allclose(vms[0], [4 / 88, 0, 10 / scale, 0, 4 / 16, 0], rtol=1e-6)
    np.testing.assert_allclose(
        vms[1], [10 / 88, 10 / 88, 20 / scale, 20 / scale, 10 / 16, 10 / 16], rtol=1e-6
    )
    np.testing.assert_allclose(vms[2], [0, 24 / 88, 0, 6 / scale, 0, 8 / 16], rtol=1e-6)
    assert not vms[3].any()
    assert observation["owner"].tolist() == [0, 1, 0, -1]
    assert not observation["legal"].reshape(4, 2)[3].any()
    assert env.step(np.array([0, 0]))[0]["progress"] == 0.25


def test_mappings_of_different_sizes_share_a_space_and_can_be_chosen():
    small = mapping([32], [(0, 0, 4)])
    env = make([PLATEAU, small])
    assert env.action_space.nvec.tolist() == [4, 2]
    seen = {int(env.reset(seed=seed)[0]["owner"][1]) for seed in range(20)}
    assert seen == {-1, 0}  # both are drawn
    observation, _ = env.reset(options={"mapping": 1})
    assert observation["owner"].tolist() == [0, -1, -1, -1]
    assert env.action_masks().tolist() == [[True, False]] + [[False, False]] * 3
    for wrong, message in (
        (2, "outside 0 .. 1"),
        (-1, "outside"),
        ("1", "integer"),
        (True, "integer"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options={"mapping": wrong})
    with pytest.raises(ValueError, match="needs the argument mappings"):
        gym.make("VMRescheduling-v0").reset(options={"mapping": 0})


def test_actions_drawn_right_after_seeding_the_space_are_legal_at_the_next_start():
    env = gym.make("VMRescheduling-v0", pms=5, migrations=3)
    for seed in range(20):
        env.reset()
        env.step(env.action_space.sample())
        env.action_space.seed(seed)
        action = env.action_space.sample()
        env.reset(seed=seed)
        env.step(action)
        drawn = {tuple(env.action_space.sample()) for _ in range(20)}
        assert len(drawn) > 3


def test_a_thousand_machines_fit_into_one_environment():
    core = VMRescheduling(pms=1000, migrations=2)
    tape = core.tapes(1, 3)
    state = core.initial(tape)
    vm, pm = np.argwhere(state["legal"][0] & (state["owner"][0][:, None] != np.arange(1000)))[-1]
    after = core.transition(state, np.array([[vm, pm]]), tape)
    assert after["owner"][0, vm] == pm
    np.testing.assert_array_equal(after["legal"], core.initial({**tape, **_placed(after)})["legal"])


def _placed(state):
    return {name: state[name] for name in ("owner", "node", "free_cores", "free_memory")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pms": 0}, "pms=0"),
        ({"pms": 2.5}, "pms=2.5"),
        ({"vms": 0}, "vms=0"),
        ({"migrations": -1}, "migrations=-1"),
        ({"load": 0.0}, "load=0.0"),
        ({"load": 1.1}, "load=1.1"),
        ({"numa": 3}, "numa=3"),
        ({"anti_affinity": -0.1}, "anti_affinity=-0.1"),
        ({"churn": -1.0}, "churn=-1.0"),
        ({"inference_seconds": 2.0}, "without churn"),
        ({"mappings": []}, "mappings is empty"),
        ({"mappings": PLATEAU, "vms": 3}, "vms=3 rows are too few for a mapping of 4"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VMRescheduling(**arguments)
