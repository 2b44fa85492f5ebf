"""`GraphCoverage-v0`: walk along the edges of any graph and be paid for the nodes seen."""

from __future__ import annotations

from typing import Any, ClassVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .base import TableCore
from .fields import check_instance
from .set_functions import Coverage


class GraphCoverage(TableCore):
    """A walk along the edges of a graph that is paid, once, for every node that comes into view.

    ## Description
    Streets, pipes or trails: nodes carry weights, the agent goes from node to node along edges and
    sees all nodes within `radius` edges. The return is the weight of all that was seen.

    ## Observation
    `Box(0, 1, (E + 1,))`, float32, for E nodes: the unit vector of the position and t / H. With
    `observation="history"` `Box(0, 1, (2 E + 1,))`: then one number per node, 1 where the agent has
    been. Nodes are numbered in the order of the graph.

    ## Action
    `Discrete(1 + D)`, D the largest number of neighbours: 0 stays, k goes to the k-th neighbour (by
    number). Where there are fewer than k neighbours the agent stays.

    ## Dynamics
    In a directed graph edges are followed, and seen, in their direction. With probability `slip`
    the action is replaced by a uniform one. Where slip > 0 the tape is `rng.random(2 H)` = u [H], v
    [H]: step t is replaced where u[t] < slip, by action floor((1 + D) v[t]). The visited set S
    starts as {s_0}; N_r(s) are the nodes within r = radius edges of s.

        F(S) = sum of the weights of the union of N_r(s), s in S

    ## Reward
    The marginal gain F(S + s') - F(S). With `reward="additive"` F({s'}). `info["set_value"]` is
    F(S), `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `graph`: networkx graph; attribute "weight" of a node (default 1), "pos" (x, y) for pictures.
      Weights of edges, loops and parallel edges do not matter. With a negative weight F is not
      monotone: a warning says so once. Without a graph: `nodes` points by `default_rng(instance)`:
      `random((nodes, 2))`, joined by a minimum spanning tree and each with its two nearest, then
      weights `uniform(0.5, 1.5, nodes)`.
    - `nodes`: integer >= 2 (default 30). `instance`: integer >= 0.
    - `start`: a node of the graph; by default the first.
    - `horizon`: H >= 1. `radius`: integer >= 0 edges.
    - `slip`: probability in [0, 1].
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `reset(options={"state": s})` starts at node number s; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (the problem: any motion on a finite set, deterministic or stochastic).

    ## Version
    v0.
    """

    set_function: Coverage

    def __init__(
        self,
        graph: nx.Graph | None = None,
        horizon: int = 20,
        *,
        nodes: int | None = None,
        start: Any = None,
        radius: int = 1,
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
        instance: int = 0,
    ) -> None:
        if graph is None:
            graph = neighbourhood_graph(30 if nodes is None else nodes, instance)
        elif nodes is not None:
            raise ValueError("nodes is the size of a drawn graph: give nodes or graph")
        if not isinstance(graph, nx.Graph) or len(graph) == 0:
            raise ValueError(f"graph must be a networkx graph with at least one node, got {graph}")
        if isinstance(radius, bool) or not isinstance(radius, int | np.integer) or radius < 0:
            raise ValueError(f"radius={radius!r} must be an integer of at least 0")
        self.nodes = list(graph.nodes)
        number = {node: index for index, node in enumerate(self.nodes)}
        if start is not None and start not in number:
            raise ValueError(f"start={start!r} is no node of the graph")
        neighbours = [
            sorted(number[other] for other in graph.adj[node] if other != node)
            for node in self.nodes
        ]
        views = [
            sorted(number[n] for n in nx.single_source_shortest_path_length(graph, node, radius))
            for node in self.nodes
        ]
        self.weights = np.array([node_weight(graph, node) for node in self.nodes])
        self.graph = graph
        moves = np.tile(np.arange(len(views))[:, None], (1, 1 + max(map(len, neighbours))))
        for index, others in enumerate(neighbours):
            moves[index, 1 : 1 + len(others)] = others
        super().__init__(
            Coverage(views, self.weights),
            moves,
            start=0 if start is None else number[start],
            horizon=horizon,
            slip=slip,
            observation=observation,
            reward=reward,
        )

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The graph: weights, what was seen, the way and where the agent is."""
        from .render import draw_graph

        number = {node: place for place, node in enumerate(self.nodes)}
        given = nx.get_node_attributes(self.graph, "pos")
        if len(given) < len(self.nodes):
            given = nx.spring_layout(self.graph, seed=0)
        path = state["path"][index]
        return draw_graph(
            np.array([given[node] for node in self.nodes], dtype=np.float64),
            np.array([(number[a], number[b]) for a, b in self.graph.edges()], dtype=np.int64),
            self.weights,
            seen=self.set_function.covered(state["visited"][index : index + 1])[0],
            path=path[path >= 0],
            labels=[str(node) for node in self.nodes],
            title=f"step {int(state['t'][index])} of {self.horizon}",
            subtitle=f"F = {float(state['value'][index]):.4g}",
            legend="weight of a node",
        )


def node_weight(graph: nx.Graph, node: Any) -> float:
    """The attribute "weight" of a node; ValueError unless it is a finite number."""
    weight = graph.nodes[node].get("weight", 1.0)
    try:
        found = float(weight)
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise ValueError(f"node {node!r}: weight={weight!r} must be a finite number")
    return found


def neighbourhood_graph(nodes: int, instance: int) -> nx.Graph:
    """A connected graph of points in the unit square, each joined to its two nearest.

    Args:
        nodes: at least 2.
        instance: of `default_rng`.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int | np.integer) or nodes < 2:
        raise ValueError(f"nodes={nodes!r} must be an integer of at least 2")
    rng = np.random.default_rng(check_instance(instance))
    points = rng.random((nodes, 2))
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    graph = nx.Graph()
    for node, (point, weight) in enumerate(
        zip(points.tolist(), rng.uniform(0.5, 1.5, nodes).tolist(), strict=True)
    ):
        graph.add_node(node, pos=tuple(point), weight=weight)
    complete = nx.Graph()
    for a, b in zip(*np.triu_indices(nodes, 1), strict=True):
        complete.add_edge(int(a), int(b), weight=float(distance[a, b]))
    graph.add_edges_from(nx.minimum_spanning_edges(complete, data=False))
    nearest = np.argsort(distance, axis=1, kind="stable")[:, 1:3]
    graph.add_edges_from(
        (node, int(other)) for node, others in enumerate(nearest) for other in others
    )
    return graph


class GraphCoverageEnv(ArrayEnv):
    """Face 1 of `GraphCoverage`: `gymnasium.make("GraphCoverage-v0", graph=...)`."""

    core_class: ClassVar[type[GraphCoverage]] = GraphCoverage


class GraphCoverageVectorEnv(ArrayVectorEnv):
    """Face 2 of `GraphCoverage`: `gymnasium.make_vec("GraphCoverage-v0", num_envs=1024)`."""

    core_class: ClassVar[type[GraphCoverage]] = GraphCoverage
