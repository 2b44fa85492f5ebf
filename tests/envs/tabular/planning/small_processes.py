"""Small decision processes, and what plain loops find out about them."""

from __future__ import annotations

import itertools

import numpy as np


def random_process(seed, states=4, actions=3, batch=(), steps=()):
    """P [*batch, *steps, S, A, S] and R without the last axis."""
    rng = np.random.default_rng(seed)
    shape = (*batch, *steps, states, actions)
    return rng.dirichlet(np.full(states, 0.5), shape), rng.normal(size=shape)


def random_policies(seed, shape, actions):
    """Actions [*shape], and probabilities [*shape, A]."""
    rng = np.random.default_rng(seed)
    return rng.integers(actions, size=shape), rng.dirichlet(np.ones(actions), shape)


def every_policy(shape, actions):
    """All arrays of actions of a shape."""
    for choice in itertools.product(range(actions), repeat=int(np.prod(shape))):
        yield np.array(choice).reshape(shape)


def chain(P, R, policy):
    """Transitions [S, S] and rewards [S] under actions [S]."""
    states = range(len(R))
    return P[states, policy], R[states, policy]


def best_of_all(P, R, gamma, continues=None):
    """Optimal values [S]: the best of all policies, each solved for by itself."""
    mask = np.ones(len(R)) if continues is None else continues.astype(float)
    values = []
    for policy in every_policy(len(R), R.shape[1]):
        transitions, rewards = chain(P, R, policy)
        system = np.eye(len(R)) - gamma * mask[:, None] * transitions
        values.append(np.linalg.solve(system, mask * rewards))
    return np.max(values, axis=0)


def long_run(transitions):
    """The limit of averages of powers of a chain, which starts [S] spread to [S, S]."""
    powers = (np.eye(len(transitions)) + transitions) / 2
    for _ in range(60):
        powers = powers @ powers
        powers /= powers.sum(axis=1, keepdims=True)
    return powers


def river(states=6, forward=0.35, back=0.15, small=0.05, large=0.5, first=None, last=None):
    """A river: action 0 drifts to the left, action 1 swims to the right; paid at both banks."""
    P, R = np.zeros((states, 2, states)), np.zeros((states, 2))
    for s in range(states):
        P[s, 0, max(s - 1, 0)] = 1
        ahead = (forward if first is None else first) if s == 0 else forward
        behind = (back if last is None else last) if s == states - 1 else back
        ahead, behind = ahead * (s < states - 1), behind * (s > 0)
        P[s, 1, s] = 1 - ahead - behind
        P[s, 1, min(s + 1, states - 1)] += ahead
        P[s, 1, max(s - 1, 0)] += behind
    R[0, 0], R[-1, 1] = small, large
    return P, R
