"""Monte Carlo tree search in a learned model, for a batch of roots at once.

J. Schrittwieser et al.: Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model
(Nature 2020, arXiv 1911.08265), appendix B. Every simulation goes down from the root by

    argmax over a of  Qbar(s, a) + P(s, a) sqrt(1 + N(s)) / (1 + N(s, a))
                      (c_init + log((N(s) + c_base + 1) / c_base)),        N(s) = sum_a N(s, a),

adds one node, and tells all above it r_1 + gamma r_2 + ... + gamma^d v. Qbar is the mean of what
was told, brought into [0, 1] by the least and the largest mean in the tree; of an action that was
not tried it is 0. The trees of all roots are arrays, and a simulation calls the model once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
States = tuple[torch.Tensor, ...]

C_INIT, C_BASE = 1.25, 19_652.0
LEAST_RANGE = 0.01  # below it, differences of values are taken for noise and not stretched to 1


class Evaluation(NamedTuple):
    """What a model says of n nodes.

    Attributes:
        rewards: on the way into them, [n]; of a root it does not matter.
        values: [n].
        logits: of their actions, [n, A].
        states: what `step` needs of them, tensors [n, ...].
    """

    rewards: torch.Tensor
    values: torch.Tensor
    logits: torch.Tensor
    states: States


class Found(NamedTuple):
    """What a search finds at n roots.

    Attributes:
        visits: of every action, int64 [n, A]; they sum to the number of simulations.
        values: means of what was told at the root, with the model's own value as one of them, [n].
    """

    visits: NDArray[np.int64]
    values: Array


def puct(means: Array, priors: Array, visits: NDArray[np.int64], low: Array, high: Array) -> Array:
    """Scores of the actions of n nodes, [n, A]; the formula above.

    Args:
        means: of what was told of each action, [n, A]; of no meaning where visits is 0.
        priors: [n, A].
        visits: [n, A].
        low, high: least and largest mean in the tree, [n]; infinite where there is none yet.
    """
    total = visits.sum(axis=1, keepdims=True)
    width = np.maximum(high - low, LEAST_RANGE)[:, None]
    stretched = np.where(visits > 0, means - low[:, None], 0.0) / width
    rate = C_INIT + np.log((total + C_BASE + 1) / C_BASE)
    return np.asarray(stretched + priors * np.sqrt(1.0 + total) / (1 + visits) * rate)


def softmax(logits: torch.Tensor) -> Array:
    """Probabilities in double precision, [n, A]."""
    return np.asarray(logits.double().softmax(dim=1).cpu().numpy())


class Trees:
    """One tree for each of n roots, with room for a node for every simulation.

    Args:
        root: what the model says of the roots.
        simulations: how many nodes are added, at least 1.
        discount: gamma in [0, 1].
        priors: of the roots' actions in place of the model's, [n, A]; None: the model's.
        masks: actions that are allowed at the roots, bool [n, A]; None: all.
    """

    def __init__(
        self,
        root: Evaluation,
        simulations: int,
        discount: float,
        priors: Array | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> None:
        n, actions = root.logits.shape
        shape = (n, simulations + 1, actions)
        self.discount, self.masks, self.rows = discount, masks, np.arange(n)
        self.visits = np.zeros(shape, dtype=np.int64)
        self.sums, self.priors, self.rewards = (np.zeros(shape) for _ in range(3))
        self.children = np.full(shape, -1, dtype=np.int64)
        self.low, self.high = np.full(n, np.inf), np.full(n, -np.inf)
        self.states = [
            part.new_zeros((n, simulations + 1, *part.shape[1:])) for part in root.states
        ]
        self.path = np.zeros((2, n, simulations), dtype=np.int64)  # nodes, actions
        self.priors[:, 0] = softmax(root.logits) if priors is None else priors
        self.root_values = root.values.double().cpu().numpy()
        self._keep(0, root.states)

    def _keep(self, node: int, states: States) -> None:
        for kept, part in zip(self.states, states, strict=True):
            kept[:, node] = part

    def descend(self) -> NDArray[np.int64]:
        """Go down to an action that was not tried, in every tree; its depth [n], from 0.

        The way is in `path`.
        """
        depth = np.zeros(len(self.rows), dtype=np.int64)
        rows, nodes = self.rows, np.zeros_like(self.rows)
        level = 0
        while len(rows):
            visits = self.visits[rows, nodes]
            means = self.sums[rows, nodes] / np.maximum(visits, 1)
            scores = puct(means, self.priors[rows, nodes], visits, self.low[rows], self.high[rows])
            if level == 0 and self.masks is not None:
                scores = np.where(self.masks, scores, -np.inf)
            actions = scores.argmax(axis=1)
            self.path[0, rows, level], self.path[1, rows, level] = nodes, actions
            depth[rows] = level
            following = self.children[rows, nodes, actions]
            on = following >= 0
            rows, nodes = rows[on], following[on]
            level += 1
        return depth

    def expand(self, number: int, depth: NDArray[np.int64], model: Model) -> Array:
        """Add node `number` at the end of the path of every tree; the model's values of it [n]."""
        nodes, actions = self.path[:, self.rows, depth]
        device = self.states[0].device
        at = (torch.from_numpy(self.rows).to(device), torch.from_numpy(nodes).to(device))
        states = tuple(kept[at] for kept in self.states)
        found = model(states, torch.from_numpy(actions).to(device))
        self.children[self.rows, nodes, actions] = number
        self.rewards[self.rows, nodes, actions] = found.rewards.double().cpu().numpy()
        self.priors[:, number] = softmax(found.logits)
        self._keep(number, found.states)
        return np.asarray(found.values.double().cpu().numpy())

    def tell(self, depth: NDArray[np.int64], values: Array) -> None:
        """Add what the paths have earned, and the value at their end, to all nodes on them."""
        told = values.copy()
        for level in reversed(range(int(depth.max()) + 1)):
            rows = self.rows[depth >= level]
            at = (rows, self.path[0, rows, level], self.path[1, rows, level])
            told[rows] = self.rewards[at] + self.discount * told[rows]
            self.sums[at] += told[rows]
            self.visits[at] += 1
            means = self.sums[at] / self.visits[at]
            self.low[rows] = np.minimum(self.low[rows], means)
            self.high[rows] = np.maximum(self.high[rows], means)


Model = Callable[[States, torch.Tensor], Evaluation]


def search(
    root: Evaluation,
    model: Model,
    simulations: int,
    discount: float,
    priors: Array | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> Found:
    """Search from n roots.

    Args:
        root: what the model says of them.
        model: (states of n nodes, actions int64 [n]) -> what follows.
        simulations: model calls, at least 1.
        discount: gamma in [0, 1].
        priors: of the roots' actions in place of the model's, [n, A]; None: the model's.
        masks: actions that are allowed at the roots, bool [n, A]; None: all.
    """
    trees = Trees(root, simulations, discount, priors, masks)
    for number in range(1, simulations + 1):
        depth = trees.descend()
        trees.tell(depth, trees.expand(number, depth, model))
    visits = trees.visits[:, 0]
    values = (trees.sums[:, 0].sum(axis=1) + trees.root_values) / (simulations + 1)
    return Found(visits, values)


def with_noise(priors: Array, noise: Array, share: Array) -> Array:
    """(1 - share) priors + share noise, [n, A]; share [n], noise [n, A] of sum 1."""
    return np.asarray((1 - share[:, None]) * priors + share[:, None] * noise)


def act_from(
    visits: NDArray[np.int64],
    greedy: NDArray[np.bool_],
    temperature: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Actions [n]: the most visited one, or drawn with probabilities visits^(1 / temperature).

    Args:
        visits: [n, A].
        greedy: rows whose action is not drawn, bool [n].
        temperature: above 0.
        generator: draws n numbers.
    """
    weights = (visits / visits.max(axis=1, keepdims=True)) ** (1 / temperature)
    levels = weights.cumsum(axis=1)
    drawn = generator.random(len(visits)) * levels[:, -1]
    return np.where(greedy, visits.argmax(axis=1), (levels <= drawn[:, None]).sum(axis=1))
