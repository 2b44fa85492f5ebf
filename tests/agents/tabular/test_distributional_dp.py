"""Value and policy iteration with a stock: worked numbers, every history policy, both tasks."""

from __future__ import annotations

import itertools
import warnings
from functools import cache

import gymnasium as gym
import numpy as np
import pytest

from palaestra.agents.base.utility import CLOSENESS, SHORTFALL
from palaestra.agents.tabular import distributional_dp as dp
from palaestra.agents.tabular.distributional_dp import DistributionalPI, DistributionalVI
from palaestra.envs.tabular.planning.distributional import distributional_evaluation, nothing
from palaestra.envs.tabular.planning.laws import cvar
from palaestra.wrappers.stock import StockWrapper

BOTH = pytest.mark.parametrize("planner", [DistributionalVI, DistributionalPI])


def income_then_choice():
    """0 or 4, then 1 for sure or a gamble between 4 and -1."""
    P = np.zeros((2, 2, 2))
    P[0, :, 1] = P[1, :, 0] = 1
    low, high = np.array([[0, 0], [1, -1]], float), np.array([[4, 4], [1, 4]], float)
    tables = {"P": P, "low": low[..., None], "high": high[..., None]}
    return gym.make("FiniteMDP-v0", **tables, q=0.5, d0=0, horizon=2)


def planned(planner, env, sweeps=3, **arguments):
    """A planner that has learned; episodes start with the first of its stocks."""
    stocks = arguments.get("stocks", [0.0])
    wrapped = StockWrapper(env, arguments.get("gamma", 1.0), float(stocks[0]))
    return planner("StockTablePolicy", wrapped, seed=0, **arguments).learn(sweeps)


def actions(agent, states, stocks, step):
    seen = {"observation": np.array(states), "stock": np.array(stocks, np.float32)[:, None]}
    return agent.predict(seen, state=(np.full(len(states), step),))[0].tolist()


# -- worked examples -------------------------------------------------------------------------------


@BOTH
def test_worked_example_cvar(planner):
    """Level 0.75, stocks -8 .. 2: start with -5, 2.666667; gamble at -5, play safe at -1."""
    agent = planned(planner, income_then_choice(), stocks=np.arange(-8.0, 3.0))
    stock, value = agent.start_stock(0.75)
    assert stock == -5 and value == pytest.approx(2.666667, abs=1e-6)
    assert actions(agent, [1, 1], [-5, -1], step=1) == [1, 0]
    law = agent.return_law(stock)
    assert law.values.tolist() == [-1, 4, 5]
    np.testing.assert_allclose(law.probabilities, [0.25, 0.25, 0.5])
    assert float(cvar(law, 0.75)) == pytest.approx(2.666667, abs=1e-6)
    assert agent.policy.scores[list(np.arange(-8, 3)).index(-5)] == -1.75


@pytest.mark.parametrize(("action", "expected"), [(0, 2.333333), (1, 2.0)])
def test_worked_example_always_the_same(action, expected):
    outcomes = dp.outcomes_by_step(income_then_choice().unwrapped.core)
    laws = distributional_evaluation(outcomes * 2, [np.full(2, action)] * 2, nothing(2), 1.0)
    assert float(cvar(laws[0], 0.75)[0]) == pytest.approx(expected, abs=1e-6)


@BOTH
def test_worked_example_set_point(planner):
    """f = -|x| from -5: the same policy, -1.75."""
    agent = planned(planner, income_then_choice(), stocks=[-5.0, 0.0], utility=CLOSENESS)
    assert agent.policy.scores[0] == -1.75
    assert actions(agent, [1, 1], [-5, -1], step=1) == [1, 0]


# -- against all policies that remember their history ----------------------------------------------


def every_return(core, horizon, gamma):
    """All (returns, probabilities) that policies of the whole history can have from the start."""
    outcomes = dp.outcomes_by_step(core)[0]

    @cache
    def found(state, left):
        if not left:
            return [((0.0,), (1.0,))]
        choices = []
        for action in range(outcomes.probability.shape[1]):
            branches = [
                (p, r, found(int(s), left - 1))
                for p, s, r in zip(*(part[state, action] for part in outcomes), strict=True)
                if p > 0
            ]
            for after in itertools.product(*(laws for _, _, laws in branches)):
                values, chances = [], []
                for (p, r, _), (v, q) in zip(branches, after, strict=True):
                    values += [r + gamma * x for x in v]
                    chances += [p * x for x in q]
                choices.append((tuple(values), tuple(chances)))
        return list(dict.fromkeys(choices))

    return [(np.array(v), np.array(q)) for v, q in found(int(core.d0.argmax()), horizon)]


@BOTH
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("utility", [SHORTFALL, CLOSENESS])
@pytest.mark.parametrize("instance", [0, 3])
def test_no_policy_of_the_history_is_better(planner, gamma, utility, instance):
    env = gym.make("IncomeGamble-v0", horizon=4, instance=instance)
    stocks = np.array([-9.0, -6.5, -4.0, -2.0, 0.5])
    agent = planned(planner, env, 5, stocks=stocks, utility=utility, gamma=gamma)
    laws = every_return(env.unwrapped.core, 4, gamma)
    assert len(laws) > 100
    for row, stock in enumerate(stocks):
        best = max(float(utility(stock + v) @ q) for v, q in laws)
        assert float(agent.policy.scores[row]) == pytest.approx(best, abs=1e-6)
        law = agent.return_law(stock)
        assert utility(stock + law.values) @ law.probabilities == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_the_best_conditional_value_at_risk_is_found(level):
    env = gym.make("IncomeGamble-v0", horizon=4, instance=1)
    agent = planned(DistributionalVI, env, 1, stocks=np.arange(-20.0, 10.0))
    best = max(
        max(c + np.minimum(v - c, 0) @ q / level for c in v)
        for v, q in every_return(env.unwrapped.core, 4, 1.0)
    )
    stock, value = agent.start_stock(level)
    assert value == pytest.approx(best, abs=1e-6)
    assert float(cvar(agent.return_law(stock), level)) == pytest.approx(best, abs=1e-6)


# -- the running agent -----------------------------------------------------------------------------


def test_episodes_have_the_law_that_was_planned():
    """`predict` counts the steps, and reads the stock off the observation."""
    env = gym.make("IncomeGamble-v0", instance=0)
    agent = planned(DistributionalVI, env, 1, stocks=np.arange(-20.0, 3.0))
    stock, _ = agent.start_stock(0.5)
    law = agent.return_law(stock)
    wrapped, returns = agent.get_env().envs[0], []
    for episode in range(400):
        seen, _ = wrapped.reset(seed=episode, options={"stock": stock})
        memory, ended, total = None, False, 0.0
        while not ended:
            action, memory = agent.predict(seen, state=memory)
            seen, reward, ended, _, _ = wrapped.step(int(action))
            total += reward
        returns.append(total)
    assert np.mean(returns) == pytest.approx(law.values @ law.probabilities, abs=0.5)
    assert set(returns) <= set(law.values.tolist())


def test_value_iteration_converges_as_gamma_to_the_sweeps():
    """Without a horizon: f does not stretch, so the error is at most gamma^k times that of 0."""
    cls, wrapper = DistributionalVI, DistributionalVI.example.wrapper
    env = wrapper(gym.make("FiniteMDP-v0", max_steps=20))
    agent = cls("StockTablePolicy", env, seed=0, **cls.example.kwargs)
    scores = []
    for _ in range(60):
        agent.learn(1, reset_num_timesteps=False)
        scores.append(agent.policy.scores.numpy().copy())
    errors = np.abs(np.array(scores) - scores[-1]).max(axis=1)
    assert (errors <= 0.9 ** np.arange(1, 61) * 8 + 0.9**60 * 8).all()
    assert errors[0] > 1
    other = DistributionalPI(
        "StockTablePolicy", env, seed=0, **cls.example.kwargs, evaluation_sweeps=60
    ).learn(4)
    np.testing.assert_allclose(other.policy.scores.numpy(), scores[-1], atol=0.02)


def test_without_a_horizon_level_one_is_the_mean():
    env = StockWrapper(gym.make("FiniteMDP-v0"), 0.9)
    grids = {"stocks": np.linspace(-12, 4, 33), "returns": np.linspace(-4, 10, 57)}
    agent = DistributionalVI("StockTablePolicy", env, seed=0, gamma=0.9, **grids).learn(60)
    law = agent.return_law(agent.start_stock(1.0)[0])
    best = gym.make("FiniteMDP-v0").unwrapped.plan(0.9).values[0]
    assert law.values @ law.probabilities == pytest.approx(best, abs=0.05)


def test_grids_are_chosen_where_none_are_given():
    for env in (gym.make("FiniteMDP-v0", max_steps=9), gym.make("IncomeGamble-v0", horizon=2)):
        agent = DistributionalVI("StockTablePolicy", StockWrapper(env, 0.9), gamma=0.9).learn(2)
        stock, _ = agent.start_stock(0.5)
        assert agent.return_law(stock).probabilities.sum() == pytest.approx(1.0)


def test_a_plan_with_a_horizon_survives_a_checkpoint(tmp_path):
    agent = planned(DistributionalVI, income_then_choice(), stocks=np.arange(-8.0, 3.0))
    agent.save(tmp_path / "plan")
    loaded = DistributionalVI.load(tmp_path / "plan")
    assert loaded.start_stock(0.75) == agent.start_stock(0.75)
    assert actions(loaded, [1, 1], [-5, -1], step=1) == [1, 0]
    loaded.set_env(agent.get_env())
    loaded.learn(1)
    assert loaded.start_stock(0.75) == agent.start_stock(0.75)


# -- what is refused, and warned of ----------------------------------------------------------------


@BOTH
def test_gamma_zero_has_no_stock(planner):
    env = StockWrapper(income_then_choice())
    with pytest.raises(ValueError, match=r"gamma=0.0 is outside \(0, 1\]"):
        planner("StockTablePolicy", env, gamma=0.0)


def test_an_objective_that_is_not_homogeneous_is_warned_of():
    def hinge(x):
        return np.minimum(x, 1.0)

    env = gym.make("IncomeGamble-v0", horizon=2)
    with pytest.warns(UserWarning, match="may rank laws otherwise"):
        agent = planned(DistributionalVI, env, 1, gamma=0.5, utility=hinge, stocks=[0.0, 1.0])
    with pytest.raises(ValueError, match="levels of risk need"):
        agent.start_stock(0.5)
    with pytest.raises(ValueError, match="cannot be saved without pickle"):
        agent.save("never")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned(DistributionalVI, env, 1, gamma=1.0, utility=hinge, stocks=[0.0, 1.0])


def test_a_best_stock_on_the_edge_is_warned_of():
    agent = planned(DistributionalVI, income_then_choice(), stocks=[-5.0, 0.0, 1.0])
    with pytest.warns(UserWarning, match="edge of the grid: give a wider one"):
        agent.start_stock(0.75)
    with warnings.catch_warnings():  # at level 1 low stocks are all as good
        warnings.simplefilter("error")
        low = planned(DistributionalVI, income_then_choice(), stocks=[-20.0, -10.0, 0.0])
        assert low.start_stock(1.0)[0] == -20


@pytest.mark.parametrize("level", [0, -0.5, 1.1])
def test_levels_outside_are_refused(level):
    agent = planned(DistributionalVI, income_then_choice(), stocks=[-5.0, 0.0])
    with pytest.raises(ValueError, match=r"outside \(0, 1\]"):
        agent.start_stock(level)


@BOTH
def test_ties_go_to_the_lowest_action(planner):
    env = gym.make("FiniteMDP-v0", P=np.ones((1, 3, 1)), low=1.0, horizon=3)
    agent = planned(planner, env, stocks=[-5.0, 0.0])
    assert (agent.policy.actions == 0).all()


def test_a_width_caps_the_pairs():
    env = gym.make("IncomeGamble-v0", horizon=6)
    exact, coarse = (
        planned(DistributionalVI, env, 1, stocks=[-6.0, 0.0], gamma=0.9, width=width)
        for width in (1e-12, 0.25)
    )
    assert len(coarse.policy.states) < len(exact.policy.states)
    np.testing.assert_allclose(coarse.policy.scores[:2], exact.policy.scores[:2], atol=0.5)


def test_what_cannot_be_planned_is_refused():
    agent = planned(DistributionalVI, income_then_choice(), stocks=[-5.0, 0.0])
    with pytest.raises(ValueError, match="state 1 with stock 7.0 cannot be reached at step 1"):
        actions(agent, [1], [7.0], step=1)
    with pytest.raises(ValueError, match="step 2 is beyond the horizon 2"):
        actions(agent, [0], [0.0], step=2)
    with pytest.raises(ValueError, match="stock=3 is none of the planned ones"):
        agent.return_law(3)
    with pytest.raises(ValueError, match="a state and a stock"):
        DistributionalVI("StockTablePolicy", gym.make("FiniteMDP-v0"))
    with pytest.raises(ValueError, match="gamma=1, give a grid"):
        DistributionalVI("StockTablePolicy", StockWrapper(gym.make("FiniteMDP-v0")))
    with pytest.raises(ValueError, match="all episodes must start in one state"):
        env = gym.make("Garnet-v0", states=3, branching=2, horizon=2)
        DistributionalVI("StockTablePolicy", StockWrapper(env))
    with pytest.raises(ValueError, match="needs a FiniteMDP"):
        env = gym.make("FrozenLake-v1")
        DistributionalVI("StockTablePolicy", StockWrapper(env))
    with pytest.raises(ValueError, match="evaluation_sweeps=0"):
        DistributionalPI("StockTablePolicy", StockWrapper(env), evaluation_sweeps=0)


# -- the claim's arms ------------------------------------------------------------------------------


def test_the_first_twenty_worlds():
    """Never worse than a policy of step and state; strictly better on 25, 20 and 40 percent."""
    metrics = dp.stock_arm(0, 1.0).metrics
    found = [metrics[f"better than Markov: {name}"] for name in dp.OBJECTIVES]
    assert found == [0.25, 0.2, 0.4]
    assert metrics["worst loss against Markov"] == metrics["worst loss against neutral"] == 0
    markov, neutral = dp.markov_arm(0, 1.0).metrics, dp.neutral_arm(0, 1.0).metrics
    for name in dp.OBJECTIVES:
        assert metrics[name] > markov[name] >= neutral[name]
        assert metrics[f"better than neutral: {name}"] >= metrics[f"better than Markov: {name}"]
    assert set(dp.least_arm(0, 1.0).metrics.values()) == {0.15, 0.9}
