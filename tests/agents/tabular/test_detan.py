"""`DetaN` and `QRDQN`: the loss, scores of laws with a stock, stocks in replay, and learning."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.type_aliases import DictReplayBufferSamples

from palaestra.agents.base.quantile_dqn import QRDQN, quantile_huber
from palaestra.agents.base.utility import (
    CLOSENESS,
    IDENTITY,
    SHORTFALL,
    SQUARED_CLOSENESS,
    SURPLUS,
    Utility,
)
from palaestra.agents.tabular import detan
from palaestra.agents.tabular.detan import DetaN, stock_of, with_stock
from palaestra.envs.tabular.planning import laws
from palaestra.wrappers.stock import StockWrapper

SMALL = {"buffer_size": 200, "learning_starts": 10, "quantiles": 4, "gamma": 1.0, "device": "cpu"}


def agent(concatenate=False, **arguments):
    env = gym.make("IncomeGamble-v0", observation="onehot" if concatenate else "index")
    wrapped = StockWrapper(env, arguments.get("gamma", 1.0), (-12.0, 2.0), concatenate=concatenate)
    policy = "MlpPolicy" if concatenate else "MultiInputPolicy"
    return DetaN(policy, wrapped, seed=0, **{**SMALL, **arguments})


def shown(stock, state=0):
    return {"observation": np.int64(state), "stock": np.array([stock], np.float32)}


# -- worked examples -------------------------------------------------------------------------------


def test_worked_example_quantile_huber():
    """theta [0, 1], targets [0.5, 2], kappa 1: 0.40625."""
    theta = torch.tensor([[0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[0.5, 2.0]], requires_grad=True)
    loss = quantile_huber(theta, targets)
    assert loss.tolist() == [0.40625]
    loss.sum().backward()
    assert targets.grad is None and theta.grad is not None


def test_quantile_huber_is_least_at_the_quantiles():
    """A small kappa is quantile regression: theta become the quantiles at 1/8, 3/8, 5/8, 7/8."""
    targets = torch.linspace(0, 1, 101)[None] ** 2
    theta = torch.full((1, 4), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        quantile_huber(theta, targets, kappa=1e-3).sum().backward()
        optimizer.step()
    expected = (np.arange(4) + 0.5) ** 2 / 16
    np.testing.assert_allclose(theta.detach().numpy()[0], expected, atol=0.02)


# -- utilities -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "function"),
    [
        (IDENTITY, lambda x: x),
        (SHORTFALL, laws.shortfall),
        (SURPLUS, laws.surplus),
        (CLOSENESS, laws.closeness),
        (SQUARED_CLOSENESS, laws.squared_closeness),
    ],
)
def test_utilities_of_arrays_and_tensors(ours, function):
    x = np.array([-2.5, -1.0, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(ours(x), function(x))
    np.testing.assert_allclose(ours(torch.from_numpy(x)).numpy(), function(x))


@given(
    st.floats(-3, 3), st.floats(-3, 3), st.floats(0.25, 3), st.floats(-9, 9), st.floats(0.05, 1.0)
)
def test_utilities_are_positively_homogeneous(above, below, power, x, gamma):
    utility = Utility(above, below, power)
    expected = gamma**power * utility(np.array(x))
    np.testing.assert_allclose(utility(np.array(gamma * x)), expected, atol=1e-9)


# -- the network -----------------------------------------------------------------------------------


@pytest.mark.parametrize("concatenate", [False, True])
def test_scores_weigh_stock_and_return_together(concatenate):
    learner = agent(concatenate, utility=CLOSENESS)
    env = learner.get_env()
    seen, _ = learner.policy.obs_to_tensor(env.reset())
    theta, stock = learner.q_net.theta(seen), stock_of(seen)
    assert theta.shape == (1, 2, 4)
    expected = -(stock[:, :, None] + theta).abs().mean(dim=2)
    torch.testing.assert_close(learner.q_net(seen), expected)
    moved = with_stock(seen, stock + 1)
    assert (stock_of(moved) == stock + 1).all() and (stock_of(seen) == stock).all()
    assert not torch.equal(learner.q_net.theta(moved), theta)


def test_the_target_network_judges_what_the_network_chose():
    learner = agent()
    stocks = torch.tensor([[-4.0], [-2.0]])
    here = {"observation": torch.tensor([[1], [0]]), "stock": stocks}
    rewards = torch.tensor([[1.0], [3.0]])
    there = {"observation": torch.tensor([[0], [1]]), "stock": stocks + rewards}
    actions, dones = torch.tensor([[1], [0]]), torch.tensor([[0.0], [1.0]])
    batch = DictReplayBufferSamples(here, actions, there, dones, rewards)
    with torch.no_grad():
        for parameter in learner.q_net_target.parameters():
            parameter += 0.3
        best = learner.q_net(there).argmax(dim=1)
        after = learner.q_net_target.theta(there)[torch.arange(2), best]
        theta = learner.q_net.theta(here)[torch.arange(2), actions[:, 0]]
        targets = torch.stack([1 + after[0], torch.full((4,), 3.0)])
    expected = quantile_huber(theta, targets).mean()
    torch.testing.assert_close(learner.loss(batch), expected)


@pytest.mark.parametrize("concatenate", [False, True])
def test_replayed_stocks_are_drawn_anew_and_go_on_as_stocks_do(concatenate):
    learner = agent(concatenate, replay_stocks=(-3.0, -1.0), gamma=0.5)
    learner.learn(60)
    batch = learner.sample(2_000)
    stock, after = stock_of(batch.observations), stock_of(batch.next_observations)
    assert -3 <= stock.min() < -2.95 and -1.05 < stock.max() <= -1
    torch.testing.assert_close(after, (stock + batch.rewards) / 0.5)
    seen = agent(concatenate, gamma=0.5).learn(60).sample(500)
    stock, after = stock_of(seen.observations), stock_of(seen.next_observations)
    assert stock.min() < -5
    torch.testing.assert_close(after, (stock + seen.rewards) / 0.5)


# -- learning --------------------------------------------------------------------------------------


def test_it_learns_when_to_gamble():
    """Income 0 or 4, then 1 for sure or 4 / -1: with stock -5 gamble, with stock -1 play safe."""
    P = np.zeros((2, 2, 2))
    P[0, :, 1] = P[1, :, 0] = 1
    low, high = np.array([[0, 0], [1, -1]], float), np.array([[4, 4], [1, 4]], float)
    env = gym.make(
        "FiniteMDP-v0", P=P, low=low[..., None], high=high[..., None], q=0.5, d0=0, horizon=2
    )
    learner = DetaN(
        "MultiInputPolicy",
        StockWrapper(env, stock=(-8.0, 2.0)),
        seed=0,
        device="cpu",
        gamma=1.0,
        quantiles=16,
        learning_rate=3e-3,
        learning_starts=400,
        buffer_size=1_200,
        batch_size=64,
        train_freq=2,
        target_update_interval=50,
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
        replay_stocks=(-8.0, 2.0),
    )
    learner.learn(1_200)
    choices = [int(learner.predict(shown(c, 1), deterministic=True)[0]) for c in (-5.0, -1.0)]
    assert choices == [1, 0]
    stock, value = learner.start_stock(shown(0.0), np.arange(-8.0, 3.0), 0.75)
    assert abs(stock + 5) <= 1 and value == pytest.approx(2.667, abs=0.4)


def test_start_stock_is_the_best_of_the_promised_values():
    learner = agent()
    stocks = np.arange(-30.0, 20.0)
    scores = learner.scores(shown(5.0), stocks)
    seen = {"observation": np.zeros(50, np.int64), "stock": stocks[:, None].astype(np.float32)}
    found = learner.q_net(learner.policy.obs_to_tensor(seen)[0]).max(dim=1).values
    np.testing.assert_allclose(scores, found.detach().numpy(), rtol=1e-5, atol=1e-5)
    stock, value = learner.start_stock(shown(5.0), stocks, 0.5)
    assert value == pytest.approx(max(-stocks + scores / 0.5)) and stock in stocks


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"utility": (1.0,)}, "must be .above, below."),
        ({"utility": (0.0, -1.0, 0.0)}, "power=0.0 must be above 0"),
        ({"replay_stocks": (1.0, 1.0)}, "must be .low, high."),
        ({"quantiles": 0}, "quantiles=0"),
        ({"kappa": 0.0}, "kappa=0.0 must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        agent(**arguments)


def test_gamma_zero_has_no_stock():
    env = StockWrapper(gym.make("IncomeGamble-v0"))
    with pytest.raises(ValueError, match=r"gamma=0.0 is outside \(0, 1\]"):
        DetaN("MultiInputPolicy", env, gamma=0.0)


def test_an_environment_without_this_stock_is_refused():
    with pytest.raises(ValueError, match="there is no stock in Discrete"):
        DetaN("MlpPolicy", gym.make("IncomeGamble-v0"))
    with pytest.raises(ValueError, match="shows no stock: use StockWrapper"):
        DetaN("MlpPolicy", gym.make("IncomeGamble-v0", observation="onehot"), **SMALL).learn(4)
    env = StockWrapper(gym.make("IncomeGamble-v0"), gamma=0.9)
    with pytest.raises(ValueError, match="the agent has gamma=1.0, its StockWrapper 0.9"):
        DetaN("MultiInputPolicy", env, **SMALL).learn(4)


def test_levels_need_the_shortfall():
    with pytest.raises(ValueError, match="levels of risk need"):
        agent(utility=CLOSENESS).start_stock(shown(0.0), [0.0, 1.0], 0.5)
    with pytest.raises(ValueError, match=r"level=0 is outside \(0, 1\]"):
        agent().start_stock(shown(0.0), [0.0, 1.0], 0)


# -- the claim's arms ------------------------------------------------------------------------------


def test_exact_walk_and_its_shares():
    """The best values of the walk, and all of them for the policy that attains them."""
    layers, scores = detan.exact_walk()
    planned = {}
    for level, value in ((0.25, 0.276066), (1.0, 0.385787)):
        _, planned[level] = laws_of_best(scores[0], level)
        assert planned[level] == pytest.approx(value, abs=1e-6)
    # To the door, through it, and down: a policy without a stock.
    way = np.full((7, 7), 2)
    way[:3, :3], way[4:, :3], way[:6, 4:] = 1, 0, 1
    found = detan.shares(detan.walked(lambda states, stocks: way.ravel()[states]), [0, 0])
    assert 0.5 < found["share of exact CVaR 1"] < 1
    assert found["CVaR 0.25"] < found["CVaR 1"]
    assert len(layers) == 40


def laws_of_best(scores, level):
    return detan.best_start_stock(detan.STARTS, scores, level)


@pytest.mark.parametrize("arm", [detan.detan_arm, detan.qr_dqn_arm])
def test_arms_run(arm):
    metrics = arm(100, 0.005).metrics
    assert metrics["share of exact CVaR 1"] < 1
    assert metrics["CVaR 0.25"] <= metrics["CVaR 1"] + 1e-9


def test_qr_dqn_is_detan_with_the_mean():
    """The mean of the quantiles is what f(x) = x scores, up to the stock."""
    learner = agent(utility=IDENTITY)
    seen, _ = learner.policy.obs_to_tensor(learner.get_env().reset())
    theta = learner.q_net.theta(seen)
    torch.testing.assert_close(learner.q_net(seen), stock_of(seen) + theta.mean(dim=2))
    plain = QRDQN("MlpPolicy", gym.make("IncomeGamble-v0", observation="onehot"), **SMALL)
    seen, _ = plain.policy.obs_to_tensor(plain.get_env().reset())
    torch.testing.assert_close(plain.q_net(seen), plain.q_net.theta(seen).mean(dim=2))
