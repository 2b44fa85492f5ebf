"""What every heuristic has to do as an agent."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

import palaestra

NAMES = (
    "BaseStock",
    "CappedBaseStock",
    "EchelonStock",
    "SsPolicy",
    "QuantileNewsvendor",
    "FixedQuantileNewsvendor",
    "TransformedNewsvendor",
    "JustInTime",
)
SMALL = {"scenarios": 16, "batch_size": 8, "validation_scenarios": 8, "evaluate_every": 1}


class Steps(BaseCallback):
    def _on_step(self):
        return True


def trace():
    return np.random.default_rng(0).poisson(8.0, (4, 1, 171)).astype(float)


@pytest.mark.parametrize("demand", ["law", "trace"])
@pytest.mark.parametrize("name", NAMES)
def test_learns_counts_its_steps_and_predicts_the_same_after_saving(name, demand, tmp_path):
    given = {"topology": "one_store"} | ({"demand": trace()} if demand == "trace" else {})
    env = gym.make("InventoryNet-v0", **given)
    small = {**SMALL, "policy_kwargs": {"forecast_steps": 20}} if "Newsvendor" in name else SMALL
    cls, steps = getattr(palaestra.agents, name), Steps()
    agent = cls("HeuristicPolicy", env, seed=0, **small)
    horizon = env.unwrapped.core.horizon
    agent.learn(24 * horizon, callback=steps)
    assert agent.num_timesteps >= 24 * horizon
    assert steps.n_calls >= 3
    agent.save(tmp_path / "agent")
    again = cls.load(tmp_path / "agent", env=env if name == "JustInTime" else None)
    observation, _ = env.reset(seed=1)
    for _ in range(5):
        action, _ = agent.predict(observation)
        assert env.action_space.contains(action)
        assert np.array_equal(action, again.predict(observation)[0])
        observation, *_ = env.step(action)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "JustInTime"])
def test_same_seed_same_parameters(name):
    found = []
    for _ in range(2):
        env = gym.make("InventoryNet-v0", topology="one_store")
        agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=3, **SMALL)
        agent.learn(16 * env.unwrapped.core.horizon)
        found.append(agent.policy.state_dict())
    assert all((found[0][key] == found[1][key]).all() for key in found[0])


@pytest.mark.parametrize("name", NAMES)
def test_declares_an_example_and_no_paper(name):
    cls = getattr(palaestra.agents, name)
    assert cls.paper is None and cls.claim is None
    assert cls.example.policy in cls.policy_aliases
