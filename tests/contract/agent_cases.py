"""The agents that the contract tests run over, and how to run them. All set-up is `cls.example`."""

from __future__ import annotations

import os
import signal
from functools import cache

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

import palaestra
from palaestra.envs.base import stack
from palaestra.envs.faces import unbatch

NAMES = palaestra.agents.names()


def agent_class(name):
    return getattr(palaestra.agents, name)


def make_agent(name, seed=0, **changes):
    cls = agent_class(name)
    return cls(
        cls.example.policy, cls.example.build(), seed=seed, **{**cls.example.kwargs, **changes}
    )


def evaluation_env(agent, name):
    """Where `EvalCallback` evaluates: an oracle can act only in its own environment."""
    return agent.get_env() if agent.oracle else Monitor(make_env(name))


def make_env(name):
    return agent_class(name).example.make_env()


@cache
def trained(name, seed=0):
    """An agent that has learned its example, and its calls of `on_step`; tests do not change it."""
    agent, steps = make_agent(name, seed), Recorder()
    agent.learn(agent.example.steps, callback=steps)
    return agent, steps.calls


@cache
def seen(name):
    """Observations [16, ...] and, where the environment masks actions, the masks [16, A]."""
    env = make_env(name)
    env.action_space.seed(3)
    observation, info = env.reset(seed=5)
    rows, masks = [], []
    for _ in range(16):
        rows.append(observation)
        mask = info.get("action_mask")
        masks.append(mask)
        chosen = {} if mask is None else {"mask": np.asarray(mask, np.int8)}
        observation, _, terminated, truncated, info = env.step(env.action_space.sample(**chosen))
        if terminated or truncated:
            observation, info = env.reset()
    stacked = stack(rows) if isinstance(rows[0], dict) else np.stack(rows)
    return stacked, None if masks[0] is None else np.stack(masks)


def situations(agent, name):
    """Batches of observations, with masks or None. An oracle meets them in its own environment."""
    if not agent.oracle:
        yield seen(name)
        return
    agent.set_env(make_env(name))
    env = agent.get_env()
    env.seed(5)
    env.action_space.seed(3)
    observations = env.reset()
    for _ in range(16):
        yield observations, None
        observations = env.step(np.stack([env.action_space.sample()]))[0]


def predictions(agent, name):
    """Deterministic actions [16, ...]."""
    return np.concatenate(
        [predict(agent, *situation, deterministic=True) for situation in situations(agent, name)]
    )


def rows_of(observations):
    """The single observations of a batch."""
    first = next(iter(observations.values())) if isinstance(observations, dict) else observations
    return [unbatch(observations, row) for row in range(len(first))]


def predict(agent, observations, masks, deterministic):
    """Actions for one observation or a batch."""
    chosen = {} if masks is None else {"action_masks": masks}
    actions, state = agent.predict(observations, deterministic=deterministic, **chosen)
    assert state is None or isinstance(state, tuple)  # of a policy that remembers, as SB3's do
    return actions


def tensors(value, where=""):
    """Every tensor of nested dictionaries and lists, by its place."""
    if isinstance(value, torch.Tensor):
        return {where: value.detach().clone()}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, entry in entries if isinstance(value, dict | list | tuple) else ():
        if isinstance(entry, torch.Tensor | dict | list | tuple):
            found |= tensors(entry, f"{where}/{key}")
    return found


def assert_same_parameters(left, right):
    """All parameters, buffers and optimizer states are equal bit for bit."""
    ours, theirs = tensors(left.get_parameters()), tensors(right.get_parameters())
    assert ours.keys() == theirs.keys()
    assert ours or left.oracle
    for place, tensor in ours.items():
        assert torch.equal(tensor, theirs[place]), place


class Recorder(BaseCallback):
    """Notes what is called, and stops, or kills the process, at a given call of `on_step`."""

    def __init__(self, stop_at=None, kill_at=None):
        super().__init__()
        self.stop_at, self.kill_at = stop_at, kill_at
        self.events, self.timesteps = [], []

    @property
    def calls(self):
        return len(self.timesteps)

    def _on_training_start(self):
        self.events.append("start")

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_step(self):
        self.events.append("step")
        self.timesteps.append(self.model.num_timesteps)
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.calls != self.stop_at

    def _on_training_end(self):
        self.events.append("end")


def learn_and_die(name, folder, kill_at):
    """Learn in this process until `on_step` is called for the `kill_at`-th time, then kill -9."""
    agent = make_agent(name)
    agent.learn(
        agent.example.steps,
        callback=Recorder(kill_at=kill_at),
        checkpoint=folder,
        checkpoint_seconds=0 if kill_at < 100 else 0.02,  # a write waits for the disk
    )
