"""IWOCS: the search in finite worlds, and over the physics of a simulator with SAC."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import palaestra
from palaestra.agents.base.model_sets import draw_models
from palaestra.agents.base.physics import play
from palaestra.agents.robust import iwocs_trials
from palaestra.agents.robust.iwocs import (
    deep_select,
    pessimistic,
    set_search,
    settled,
    valid,
    walk_search,
)
from palaestra.agents.robust.iwocs_networks import value_targets
from palaestra.envs.tabular.garnet import Garnet
from palaestra.envs.tabular.planning.robust import robust_value_iteration, static_worst_model
from palaestra.envs.tabular.planning.robust_sets import Family
from palaestra.wrappers.distractors import Distractors
from palaestra.wrappers.physics_family import PhysicsFamily
from palaestra.wrappers.sb3 import SB3VecEnv, make_sb3

PENDULUM = "TorquePendulum-v0"
SMALL = {"learning_starts": 10_000, "batch_size": 16, "buffer_size": 1_000, "device": "cpu"}
SMALL |= {"policy_kwargs": {"net_arch": [16]}, "points": 2, "rollouts": 1}
BOX = {"mass": (0.5, 2.0), "length": (0.5, 2.0)}


def gamble(*chances):
    """Transitions from state 0 to the good state 1 with these chances, else to the bad state 2."""
    P = np.zeros((3, len(chances), 3))
    P[0, :, 1], P[0, :, 2] = chances, 1 - np.array(chances)
    P[1, :, 1] = P[2, :, 2] = 1
    return P


def search(set_of_models, env=None, seed=0, **arguments):
    """An agent in the first of the models; the good state of a gamble pays 1."""
    paid = np.array([0.0, 1.0, 0.0])[:, None, None]
    env = {"P": set_of_models[0], "low": paid} if env is None else env
    others = np.array(set_of_models[1:])
    world = gym.make("FiniteMDP-v0", max_steps=50, **env)
    arguments = {"gamma": 0.9, "models": others if len(others) else None, **arguments}
    return palaestra.agents.IWOCS("TablePolicy", world, seed=seed, **arguments)


def deep(env=None, seed=0, **arguments):
    env = gym.make(PENDULUM, max_steps=10) if env is None else env
    arguments = {**SMALL, "param_box": BOX, "steps_per_model": 40, **arguments}
    return palaestra.agents.IWOCSSAC("MlpPolicy", env, seed=seed, **arguments)


# -- the paper's computation ----------------------------------------------------------------------


def test_worked_example_of_a_gamble() -> None:
    agent = search([gamble(0.9, 0.6), gamble(0.2, 0.5)])
    agent.learn(1)
    assert_allclose(agent.table[0], [8.1, 5.4])
    assert agent.predict(0)[0] == 0 and agent.following == 1
    assert_allclose(agent.worst_values, [1.8])
    agent.learn(5, reset_num_timesteps=False)
    assert_allclose(agent.table[0], [1.8, 4.5])
    assert agent.predict(0)[0] == 1
    assert agent.models_ == [0, 1] and agent.saddle_point and agent.num_timesteps == 2
    assert_allclose(agent.worst_values, [1.8, 4.5])


def test_worked_example_of_the_windy_walk() -> None:
    agent = walk_search()
    assert agent.models_ == [0, 24] and agent.saddle_point
    assert_allclose(agent.worst_values, [-14.358511, -8.911116], atol=1e-6)
    world = agent.world()
    robust = robust_value_iteration(
        Family(world.models), world.rewards[0], 0.95, continues=world.continues
    )
    assert_allclose(agent.worst_value, robust.values @ world.start, atol=1e-6)


def test_worked_example_of_the_choice_between_agents() -> None:
    values, validity = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([True, False, True])
    assert int(deep_select(values, validity)) == 2
    assert int(deep_select(values, torch.zeros(3, dtype=torch.bool))) == -1
    assert int(deep_select(torch.ones(3), torch.ones(3, dtype=torch.bool))) == 0
    rows = deep_select(values[:, None].repeat(1, 2), torch.tensor([[1, 0], [1, 0], [1, 1]]).bool())
    assert rows.tolist() == [1, 2]
    assert deep_select(torch.zeros(0, 4), torch.zeros(0, 4).bool()).tolist() == [-1] * 4


def test_rules_of_both_forms() -> None:
    assert_array_equal(pessimistic(np.array([[1.0, 5.0], [2.0, 3.0]])), [1.0, 3.0])
    assert settled(1.0, 1.05, 0.1) and not settled(1.0, 0.8, 0.1)
    predicted, seen = torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    assert valid(predicted, seen, torch.tensor([0.5, 1.4])).tolist() == [True, False]
    targets = value_targets(
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([[0.0], [1.0]]),
        torch.tensor([[4.0, 3.0], [5.0, 6.0]]),
        0.5,
    )
    assert targets.tolist() == [[2.5], [2.0]]


# -- finite worlds --------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_values_fall_and_stay_above_the_robust_ones(seed: int) -> None:
    drawn = draw_models(gamble(0.5, 0.5, 0.5), 5, 2.0, np.random.default_rng(seed))
    agent, before = search(list(drawn), tolerance=0.0), np.inf
    world = agent.world()
    robust = robust_value_iteration(Family(world.models), world.rewards[0], 0.9)
    agent.learn(1)
    for _ in range(6):
        assert (agent.action_values <= before).all()
        assert (agent.action_values.max(axis=1) >= robust.values - 1e-8).all()
        before = agent.action_values.copy()
        if agent.exhausted():
            break
        agent.learn(1, reset_num_timesteps=False)
    assert agent.exhausted()
    policy = agent.predict(np.arange(3))[0]
    found = static_worst_model(world.models, world.rewards, policy, 0.9, world.start)
    assert agent.worst_value == pytest.approx(float(found.value), abs=1e-9)


def test_a_single_model_is_solved_once() -> None:
    agent = search([gamble(0.9, 0.6)] * 2).learn(10)
    assert agent.models_ == [0] and agent.saddle_point and agent.num_timesteps == 1


def test_a_missed_saddle_point_is_flagged() -> None:
    agent = set_search(119)
    assert agent.models_ == [0, 2, 5] and agent.exhausted() and not agent.saddle_point
    assert_allclose(agent.worst_values, [4.811148, 0.307286, 0.307286], atol=1e-6)
    assert agent.worst_value == agent.worst_values[-1]  # worse than without robustness
    assert set_search(119, keep_best=True).worst_value == pytest.approx(4.811148, abs=1e-6)


def test_only_so_many_models_are_solved() -> None:
    agent = search([gamble(0.9, 0.6), gamble(0.2, 0.5)], n_models=1).learn(10)
    assert agent.models_ == [0] and not agent.saddle_point and agent.predict(0)[0] == 0


@pytest.mark.parametrize("number", range(100, 112))
def test_the_best_candidate_is_never_worse_than_the_nominal_policy(number: int) -> None:
    nominal, last, best = (
        set_search(number, **arguments) for arguments in ({"n_models": 1}, {}, {"keep_best": True})
    )
    assert best.worst_value >= max(nominal.worst_value, last.worst_value)
    world = best.world()
    found = static_worst_model(*world[:2], best.table.argmax(axis=1), best.gamma, world.start)
    assert best.worst_value == pytest.approx(float(found.value))


def test_equally_good_actions_are_the_lowest() -> None:
    agent = search([gamble(0.3, 0.6, 0.6), gamble(0.3, 0.6, 0.6 + 1e-15)]).learn(10)
    assert agent.predict(0)[0] == 1


def test_a_new_search_finds_the_same_and_a_continued_one_looks_again() -> None:
    models = [gamble(0.9, 0.6), gamble(0.2, 0.5)]
    agent = search(models).learn(10)
    table = agent.table.copy()
    agent.learn(10)
    assert agent.models_ == [0, 1] and agent.num_timesteps == 2
    agent.learn(10, reset_num_timesteps=False)
    assert agent.models_ == [0, 1] and agent.num_timesteps == 3 and agent.saddle_point
    assert_array_equal(agent.table, table)


def test_rewards_that_depend_on_the_next_state_differ_between_models() -> None:
    low = np.array([0.0, 1.0, -1.0])
    models = [gamble(0.9, 0.6), gamble(0.2, 0.5)]
    agent = search(models, {"P": models[0], "low": low})
    assert_allclose(agent.world().rewards[:, 0], [[0.8, 0.2], [-0.6, 0.0]])
    paid = np.ones((2, 3, 2))
    assert_array_equal(search(models, rewards=paid).world().rewards, paid)
    chance = {"P": models[0], "low": low, "high": 2 + low, "q": 0.25}
    assert_allclose(search(models, chance).world().rewards[1, 0], [-0.1, 0.5])


def test_models_are_drawn_around_the_environments_own() -> None:
    core = Garnet(states=6, actions=3, branching=3)
    drawn = draw_models(core.P[0], 400, 50.0, np.random.default_rng(0))
    assert_allclose(drawn.sum(axis=-1), 1)
    assert (drawn[:, core.P[0] == 0] == 0).all()
    assert_allclose(drawn.mean(axis=0), core.P[0], atol=0.02)
    one, same, other = (search([gamble(0.5, 0.5)], seed=seed, samples=7) for seed in (3, 3, 4))
    assert one.world().models.shape == (8, 3, 2, 3)
    assert_array_equal(one.world().models, same.world().models)
    assert (one.world().models[1:] != other.world().models[1:]).any()


def test_with_gamma_1_a_task_must_end() -> None:
    ends = {"P": gamble(0.9, 0.6), "low": np.array([0.0, 1.0, -1.0]), "terminal": (1, 2)}
    models = [gamble(0.9, 0.6), gamble(0.2, 0.5)]
    agent = search(models, ends, gamma=1.0).learn(10)
    assert_allclose(agent.table[0], [-0.6, 0.0])
    assert_allclose(agent.table[1:], 0.0)
    with pytest.raises(ValueError, match="gamma=1 needs states in which the task ends"):
        search(models, gamma=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_models": 0}, "n_models=0 must be an integer of at least 1"),
        ({"tolerance": -1.0}, "tolerance=-1.0 must be"),
        ({"samples": 0}, "samples=0 must be"),
        ({"confidence": 0.5}, "confidence=0.5 must be"),
        ({"gamma": 1.5}, "gamma=1.5 is outside"),
        ({"models": np.ones((2, 3, 2, 3))}, "sums to 3"),
        ({"models": np.ones((2, 2, 2, 2)) / 2}, "with this environment it must be"),
        ({"rewards": np.ones((2, 2))}, "rewards has shape"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search([gamble(0.9, 0.6), gamble(0.2, 0.5)], **arguments)


def test_a_world_with_a_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="IWOCS needs a FiniteMDP without a horizon"):
        palaestra.agents.IWOCS("TablePolicy", gym.make("GambleChain-v0"))


# -- with SAC -------------------------------------------------------------------------------------


def test_agents_learn_one_after_another_where_the_others_do_worst() -> None:
    agent = deep(n_models=3, points=3, learning_starts=30)
    grid = agent.family.grid(3)
    agent.learn(40)
    assert agent.models_ == [] and agent.search_timesteps == 0
    assert (agent.policy.bounds >= 0).tolist() == [True, False, False]
    first = [parameter.clone() for parameter in agent.policy.agents[0].parameters()]
    agent.learn(1, reset_num_timesteps=False)
    [worst] = agent.models_
    assert worst in grid and agent.num_timesteps == 40 + 9 * 10 + 1
    assert agent.get_env().envs[0].unwrapped.physics == {"gravity": 10.0, **worst}
    assert agent.replay_buffer.size() == 1
    # What the search says is what the frozen first agent earns.
    seeds = np.random.default_rng(0)
    while agent.policy.present == 1:
        agent.learn(1, reset_num_timesteps=False)
        if agent.missed:
            break
    assert all(
        (a == b).all() for a, b in zip(first, agent.policy.agents[0].parameters(), strict=True)
    )
    assert agent.search_timesteps == 180 and len(agent.worst_returns) == 2
    returns = play(agent, agent.family, grid, seeds.integers(99, size=2)).returns
    assert returns.shape == (9, 2) and (returns < 0).all()


def test_the_most_fearful_possible_agent_decides() -> None:
    agent = deep(n_models=3)
    policy, observation = agent.policy, np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    own = [each.predict(observation, deterministic=True)[0] for each in policy.agents]
    first, memory = agent.predict(observation, deterministic=True)
    assert_allclose(first, own[0], atol=1e-6)  # nothing is learned yet: the default agent
    policy.bounds[:] = torch.inf
    with torch.no_grad():
        values = [each.act(torch.as_tensor(observation))[1] for each in policy.agents]
    feared = torch.stack(values[1:]).argmin(dim=0)
    chosen, memory = agent.predict(observation, deterministic=True)
    assert_allclose(chosen, [own[1 + each][row] for row, each in enumerate(feared)], atol=1e-6)
    # Where no model can have led here the default agent plays, but at the start all are possible.
    policy.bounds[1:] = 0.0
    where = np.array([True, False])
    chosen, after = agent.predict(observation, memory, where, deterministic=True)
    assert_allclose(chosen, [own[1 + feared[0]][0], own[0][1]], atol=1e-6)
    assert_array_equal(after[0], observation)
    assert_allclose(policy.unscale_action(after[1]), chosen)


def test_the_first_agent_meets_another_physics_in_every_episode() -> None:
    kind = {"vectorization_mode": "vector_entry_point", "autoreset_mode": AutoresetMode.SAME_STEP}
    native = SB3VecEnv(gym.make_vec(PENDULUM, 4, max_steps=10, **kind))
    several = make_sb3(PENDULUM, num_envs=4, max_steps=10)
    for env, rows in ((None, 1), (several, 4), (native, 4)):
        agent, met = deep(env, steps_per_model=200), set()

        def note(local, _, met=met):
            met.update(row["mass"] for row in local["self"]._rows)
            return True

        agent.learn(120, callback=note)
        assert 120 // 10 - rows <= len(met) <= 120 // 10 + rows
        assert all(0.5 <= mass <= 2.0 for mass in met)


def test_a_box_of_one_point_is_sac() -> None:
    agent = deep(param_box={"mass": (1.5, 1.5)}, learning_starts=100).learn(120)
    assert agent.saddle_point and agent.models_ == [] and agent.num_timesteps == 120
    assert agent.search_timesteps == 0 and int(agent.policy.present) == 0
    assert agent.get_env().envs[0].unwrapped.physics["mass"] == 1.5
    observation = np.array([0.6, 0.8, 1.0], np.float32)
    sac = agent.policy.agents[0].predict(observation, deterministic=True)[0]
    assert_allclose(agent.predict(observation, deterministic=True)[0], sac, atol=1e-6)


def test_a_repeated_worst_model_ends_the_search_and_the_agent_goes_on() -> None:
    agent = deep(param_box={"mass": (0.5, 2.0)}, n_models=6, steps_per_model=30)
    agent.learn(400)
    assert agent.missed and not agent.saddle_point
    solved = int(agent.policy.present)
    assert len(agent.models_) == solved <= 2 < len(agent.policy.agents) - 1
    assert len(agent.worst_returns) == solved + 1
    assert agent.agent_steps > 30


def test_a_search_ends_where_the_agents_expect_what_they_earn() -> None:
    agent = deep(n_models=3, steps_per_model=30, tolerance=1e9).learn(200)
    # The first agent expects nothing in particular, so one model is always solved.
    assert agent.saddle_point and not agent.missed and len(agent.models_) == 1


def test_what_was_not_paid_before_the_cut_is_what_is_expected_beyond() -> None:
    agent = deep().learn(40)
    agent.policy.bounds[1] = torch.inf
    found = play(agent, agent.family, [{}], [7], gamma=0.5)
    env = agent.family.make({})
    seen, _ = env.reset(seed=7)
    total, discount, memory, cut = 0.0, 1.0, None, False
    assert_array_equal(found.starts[0, 0], seen)
    while not cut:
        action, memory = agent.predict(seen, memory, np.array([memory is None]), deterministic=True)
        seen, reward, _, cut, _ = env.step(action)
        total, discount = total + discount * reward, discount / 2
    beyond = discount * agent.policy.expected(seen[None])[0]
    assert found.discounted[0, 0] == pytest.approx(total + beyond, rel=1e-5)
    assert found.steps == 10


def test_the_pendulums_of_a_search_are_those_of_the_environment() -> None:
    env = gym.make(PENDULUM, max_steps=7, gravity=5.0)
    family = deep(env).family
    assert isinstance(family, PhysicsFamily)
    assert family.make({"mass": 2.0}).unwrapped.physics == {
        **{"gravity": 5.0, "mass": 2.0, "length": 1.0}
    }
    with pytest.raises(ValueError, match="no physics that could be changed"):
        deep(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="wrappers must not change them"):
        deep(Distractors(gym.make(PENDULUM), n=2))
    with pytest.raises(ValueError, match="param_box names 'action_noise'"):
        deep(param_box={"action_noise": (0.0, 1.0)})
    with pytest.raises(ValueError, match="n_models=0 must be"):
        deep(n_models=0)
    with pytest.raises(ValueError, match="n_steps=3: the networks predict one step"):
        deep(n_steps=3)


def test_arms_of_the_claim_have_the_same_steps() -> None:
    episode, each, steps = iwocs_trials.budget(1.0)
    assert (episode, each, steps) == (200, 8_000, 3 * 8_000 + 2 * 25 * 2 * 200)
    arms = palaestra.agents.IWOCS.claim.arms
    outcomes = {name: arms[name](100, 0.01).metrics for name in arms}
    for name in ("IWOCS with SAC", "SAC"):
        assert outcomes[name]["worst return"] < outcomes[name]["mean return"] < 0
    assert outcomes["IWOCS"]["models solved"] == 2
    assert abs(outcomes["IWOCS"]["gap to robust values"]) < 1e-6
    assert outcomes["nominal"]["gap to robust values"] > 5
    assert outcomes["IWOCS, best candidate"]["share of sets worse"] == 0
