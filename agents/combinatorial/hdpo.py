"""HDPO: Hindsight Differentiable Policy Optimization.

Matias Alvo, Daniel Russo, Yash Kanoria: Deep Reinforcement Learning for Inventory Networks: Toward
Reliable Policy Optimization (2023, revised 2025, arXiv 2306.11246).

Demand does not depend on the orders, so any policy can be replayed on a recorded demand trace, and
the cost of that replay is piecewise differentiable in the orders:

    J(theta) = 1/(B T K) sum_{b,t} c(S_t^b, pi_theta(S_t^b), d_t^b),    S_{t+1} = f(S_t, a_t, d_t)

HDPO descends the gradient of J by reverse mode through f: no exploration noise, no critic, no score
function. All T periods enter the loss; the warm-up is dropped only from reports. The replay, the
recorded scenarios and early stopping are those of `SimulatorGradientAlgorithm`; what the paper adds
is here: the maps from a network's outputs to feasible orders, and a policy that copies the supply
graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.base import to_torch
from ...envs.inventory.inventory_net import InventoryNet
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.inventory import InventoryAlgorithm, InventoryPolicy, longest_chain
from ..base.nets.mlp import JoinedMLP, LeanELU, mlp

# -- the paper's computation ----------------------------------------------------------------------


def outside_order(x: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Order from the unlimited outside supply: limit = 4 * (mean demand served), any one shape."""
    return torch.sigmoid(x) * limit


def softmax_split(
    logits: torch.Tensor, stock: torch.Tensor, source: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Share the stock of each supplier among its customers and itself by a softmax.

    Args:
        logits: one per arc, [n, A].
        stock: on hand of every location, [n, N].
        source: supplier of each arc, int [A].
        keep: logit of what each location keeps, [N]; -inf where it must ship everything.

    Returns:
        Orders [n, A]; those of a supplier add up to at most its stock.
    """
    # The largest logit of each supplier is subtracted first, so that no exponential overflows.
    index = source.expand_as(logits)
    top = keep.expand_as(stock).scatter_reduce(1, index, logits.detach(), "amax")
    weights = torch.exp(logits - top[:, source])
    total = torch.exp(keep - top).index_add(1, source, weights)
    return stock[:, source] * weights / total[:, source]


def proportional_allocation(
    orders: torch.Tensor, stock: torch.Tensor, source: torch.Tensor, ships_all: torch.Tensor
) -> torch.Tensor:
    """Scale the outputs of each supplier by min(1, stock / (their sum + 1e-10)).

    Args:
        orders: [n, A], >= 0, self loops (what a supplier keeps) included.
        stock: [n, N].
        source: supplier of each column of `orders`, int [A].
        ships_all: bool [N], locations without the min: they ship everything.
    """
    total = torch.zeros_like(stock).index_add(1, source, orders)
    ratio = stock / (total + 1e-10)
    ratio = torch.where(ships_all, ratio, ratio.clamp(max=1.0))
    return orders * ratio[:, source]


# -- policies ------------------------------------------------------------------------------------


class PlainPolicy(InventoryPolicy):
    """A plain network on the flat observation, followed by the paper's output maps.

    One store: softplus(net + 1). Otherwise outside orders are sigmoid(x) * 4 * mean demand served,
    and each supplier's stock is split by a softmax over its customers and the constant logit 1 of
    what it keeps (a supplier with one customer sends sigmoid(x) of its stock; one that may hold no
    stock keeps nothing).

    Args:
        net_arch: hidden layers.
        normalize: measure stocks, demands and orders in periods of demand (see `InventoryPolicy`).
            False is the paper's network on raw units, which learns the same policies, more slowly
            and less surely.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        net_arch: Sequence[int] = (32, 32),
        normalize: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core, normalize)
        assert observation_space.shape is not None
        self.net = mlp(observation_space.shape[0], net_arch, core.network.arcs)
        keep = torch.where(torch.as_tensor(core.customers == 1), 0.0, 1.0)
        keep[~torch.tensor(core.holds_stock)] = -torch.inf
        self.register("keep", keep)
        self.build_optimizer(lr_schedule)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Observations [n, D] -> feasible orders [n, A] in units."""
        task = self.task
        scale = self.scale(observation) if self.normalize else None
        outputs = self.net(observation if scale is None else self.in_scale(observation, scale))
        if not task.suppliers:
            orders = functional.softplus(outputs + 1)
            return orders if scale is None else orders * scale.arcs
        outside, inner = outputs[:, : task.outside_arcs], outputs[:, task.outside_arcs :]
        keep = self.keep
        limit = 4 * self.mean_orders if scale is None else 4 * scale.arcs
        if scale is not None:
            # The starting point of a normalized network is a split in proportion to demand.
            inner = inner + torch.log(scale.arcs[:, task.outside_arcs :])
            keep = keep + torch.log(scale.nodes)
        bought = outside_order(outside, limit[:, : task.outside_arcs])
        split = softmax_split(inner, self.stock(observation), task.inner_source, keep)
        return torch.cat([bought, split], dim=1)


class GraphPolicy(InventoryPolicy):
    """A graph network on the supply graph: one node module and one edge module shared by all of it.

    Nodes are locations, edges are the supply arcs, the demand arcs of stores, and a self loop for
    every location that supplies others. Because the modules are shared, the policy runs on any
    network whose pipelines are no longer than those it was made for; `HDPO.transfer` moves it.

    Args:
        width: of node and edge embeddings and of the hidden layers.
        layers: hidden layers of each module.
        slots: longest pipeline that a location may have; by default that of the network.
        output_bias: first bias of the output, so that training starts from positive orders; by
            default one period of demand, or the paper's 5 units where the policy does not
            normalize.
        normalize: as in `PlainPolicy`.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        width: int = 32,
        layers: int = 2,
        slots: int | None = None,
        output_bias: float | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core, normalize)
        self.node_slots = core.slots if slots is None else slots
        if core.slots > self.node_slots:
            raise ValueError(
                f"the network has pipelines of {core.slots} slots, the policy was made for "
                f"{self.node_slots}"
            )
        self._lay_out(core)
        features = self.node_slots + self.static.shape[1] + core.past + self.season_size(core)
        hidden, three = (width,) * layers, (width, width, width)
        self.initial_node = mlp(features, hidden, width, LeanELU, activate_output=True)
        self.initial_edge = JoinedMLP(
            (width, width, 1), hidden, width, LeanELU, activate_output=True
        )
        self.node_update = JoinedMLP(three, hidden, width, LeanELU, activate_output=True)
        self.edge_update = JoinedMLP(three, hidden, width, LeanELU, activate_output=True)
        self.output = mlp(width, hidden, 1, LeanELU)
        if output_bias is None:
            output_bias = 0.54 if normalize else 5.0  # softplus(0.54) = 1 period of demand
        last = self.output[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, output_bias)
        self.build_optimizer(lr_schedule)

    def _lay_out(self, core: InventoryNet) -> None:
        """Index arrays of the graph. Node N stands for "none" (zeros): outside supply and demand.

        The edges are sorted so that each use of them takes a slice: supply arcs (outside first),
        self loops, demand arcs.
        """
        network, none = core.network, core.network.locations
        stores = torch.arange(core.suppliers, none)
        # A location that must ship everything keeps nothing, so it has no loop.
        loops = torch.as_tensor(np.flatnonzero(network.holds_stock[: core.suppliers]))
        nothing = torch.full((core.stores,), none)
        source = torch.as_tensor(network.source.copy())
        source = torch.where(source < 0, torch.tensor(none), source)
        self.register("edge_source", torch.cat([source, loops, stores]))
        self.register(
            "edge_target", torch.cat([torch.as_tensor(network.target.copy()), loops, nothing])
        )
        ends = torch.stack([self.edge_source, self.edge_target])
        counts = [torch.bincount(end, minlength=none + 1).clamp(min=1).sqrt() for end in ends]
        self.register("in_degree", counts[1][:-1, None, None])
        self.register("out_degree", counts[0][:-1, None, None])
        lead = torch.zeros(len(self.edge_source))
        lead[: network.arcs] = torch.as_tensor(network.lead.copy(), dtype=torch.float32)
        self.register("lead", lead[:, None, None])
        self.flows = network.arcs + len(loops)
        self.rounds = max(longest_chain(network.source, network.target), 1)
        self.register("static", self.static_features(core))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Observations [n, D] -> feasible orders [n, A] in units."""
        task = self.task
        scale = self.scale(observation) if self.normalize else None
        features = self.node_features(observation, scale, self.static, self.node_slots)
        # Locations and edges lead, so that gathering them copies whole batches: [N, n, width].
        nodes = self.initial_node(features.transpose(0, 1))
        source, target = self.edge_source, self.edge_target
        ends = with_none(nodes)
        edges = self.initial_edge((ends, source), (ends, target), self.lead)
        for remaining in reversed(range(self.rounds)):
            incoming = gather(edges, target, nodes) / self.in_degree
            outgoing = gather(edges, source, nodes) / self.out_degree
            nodes = nodes + self.node_update(nodes, incoming, outgoing)
            if not remaining:  # goods flow over all but the demand arcs, which nothing reads now
                edges, source, target = (x[: self.flows] for x in (edges, source, target))
            ends = with_none(nodes)
            edges = edges + self.edge_update(edges, (ends, source), (ends, target))
        flow = functional.softplus(self.output(edges)[..., 0]).T
        if scale is not None:
            flow = flow * scale.nodes[:, target]
        bought = flow[:, : task.outside_arcs]
        if not task.suppliers:
            return bought
        # What takes from a supplier's stock: its arcs to customers, and its self loop.
        taken = proportional_allocation(
            flow[:, task.outside_arcs :],
            self.stock(observation),
            source[task.outside_arcs :],
            ~task.holds_stock,
        )
        return torch.cat([bought, taken[:, : len(task.inner_source)]], dim=1)


def with_none(nodes: torch.Tensor) -> torch.Tensor:
    """Nodes [N, n, width] and, as node N, the zeros that stand for "none"."""
    return torch.cat([nodes, torch.zeros_like(nodes[:1])])


def gather(edges: torch.Tensor, ends: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Sum of the edges [E, n, width] at each node [N, n, width]; the end N is no node."""
    sums = nodes.new_zeros(len(nodes) + 1, *nodes.shape[1:])
    return sums.index_add_(0, ends, edges)[:-1]


class HDPO(InventoryAlgorithm):
    """Hindsight Differentiable Policy Optimization for `InventoryNet-v0`.

    `predict` returns the action of the environment that the agent was made with: normalized, or
    orders in units. Arguments are those of `SimulatorGradientAlgorithm`; the defaults are the
    card's small ones (the paper trains on 32,768 scenarios in batches of 8,192).
    """

    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": PlainPolicy,
        "GraphPolicy": GraphPolicy,
    }
    paper = Paper(
        slug="hdpo",
        title="Deep Reinforcement Learning for Inventory Networks: "
        "Toward Reliable Policy Optimization",
        authors="Matias Alvo, Daniel Russo, Yash Kanoria",
        year=2023,
        arxiv="2306.11246",
        code="github.com/MatiasAlvo/Neural_inventory_control",
    )
    example = Example(
        "InventoryNet-v0",
        {"setting": "one_store_backlogged", "periods": 10, "ignore": 2},
        kwargs={"scenarios": 16, "batch_size": 8, "validation_scenarios": 16},
        steps=400,
    )

    def transfer(self, env: Any) -> HDPO:
        """The same graph policy on another network: an agent for `env` with this agent's weights.

        Raises:
            ValueError: the policy is tied to its network (`MlpPolicy`), pipelines of `env` are
                longer than the policy's, or its observations have other parts.
        """
        if not isinstance(self.policy, GraphPolicy):
            raise ValueError(
                f"a {type(self.policy).__name__} fits one network only; use 'GraphPolicy'"
            )
        arguments = self.arguments()
        arguments["policy_kwargs"] = {**self.policy_kwargs, "slots": self.policy.node_slots}
        agent = type(self)(self.policy_name(), env, device=self.device, **arguments)
        try:
            agent.policy.load_state_dict(self.policy.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the observations of {env} have other parts: {error}") from None
        return agent


# -- the claim in miniature ----------------------------------------------------------------------

CLAIM_UPDATES, CLAIM_PERIODS = 600, 50
RATES = ({"learning_rate": 3e-3}, {"learning_rate": 1e-2})
BACKLOGGED = {"setting": "one_store_backlogged", "lead": 4, "underage": 9.0}
LOST = {"setting": "one_store_lost", "lead": 4, "underage": 9.0}


def best_cost(
    agent_class: Any,
    task: dict[str, Any],
    seed: int,
    scale: float,
    grid: Sequence[dict[str, Any]],
    updates: int = CLAIM_UPDATES,
) -> Outcome:
    """Test cost per period of the best member of a grid, chosen by its validation cost."""
    env = gym.make("InventoryNet-v0", periods=CLAIM_PERIODS, ignore=20, **task)
    steps = max(int(updates * scale), 1) * 128 * CLAIM_PERIODS
    agents = [
        agent_class(agent_class.example.policy, env, seed=seed, **arguments).learn(steps)
        for arguments in grid
    ]
    agent = max(agents, key=lambda candidate: candidate.best_validation)
    test = agent.core.variant(periods=2000, ignore=100)
    # Test tapes belong to the seed, and so are the same for every arm.
    tapes = to_torch(test.tapes(256, seed * 1000), agent.device)
    cost = -float(agent.evaluate_tapes(agent.simulator(test), tapes).mean())
    steps_seen, rewards = zip(*agent.curve, strict=True)
    return Outcome({"cost": cost}, {"validation cost": (list(steps_seen), [-r for r in rewards])})


def hdpo_arm(seed: int, scale: float) -> Outcome:
    """HDPO where the optimum is known, and where it is not (lost sales)."""
    known = best_cost(HDPO, BACKLOGGED, seed, scale, RATES)
    lost = best_cost(HDPO, LOST, seed, scale, RATES, updates=2 * CLAIM_UPDATES)
    return Outcome({**gap(known), "lost-sales cost": lost.metrics["cost"]}, known.curves)


def reinforce_arm(seed: int, scale: float) -> Outcome:
    """REINFORCE with the same network, periods, scenarios and rates; its noise is tuned as well."""
    from .reinforce import Reinforce

    grid = [{**rate, "noise": noise} for rate in RATES for noise in (0.1, 0.5)]
    found = best_cost(Reinforce, BACKLOGGED, seed, scale, grid)
    return Outcome(gap(found), found.curves)


def capped_base_stock_arm(seed: int, scale: float) -> Outcome:
    """The capped base stock under lost sales, tuned by the same pathwise gradient."""
    from ..heuristics.capped_base_stock import CappedBaseStock

    grid = [{"learning_rate": rate} for rate in (0.03, 0.1)]
    found = best_cost(CappedBaseStock, LOST, seed, scale, grid, updates=2 * CLAIM_UPDATES)
    return Outcome({"lost-sales cost": found.metrics["cost"]})


def optimum_arm(seed: int, scale: float) -> Outcome:
    """The closed form: its gap to itself is 0."""
    return Outcome({"gap": 0.0})


def gap(found: Outcome) -> dict[str, float]:
    """Relative distance of a cost from the closed-form optimum of `BACKLOGGED`."""
    from ..heuristics.base_stock import optimal_base_stock

    _, optimum = optimal_base_stock(mean=5.0, std=1.6, lead=4, underage=9.0, holding=1.0)
    return {"gap": found.metrics["cost"] / float(optimum) - 1.0}


HDPO.claim = Claim(
    text="On one store with backlog, lead 4 and underage 9, HDPO's cost is within 2% of the "
    "closed-form optimum and below that of REINFORCE with the same network and simulated periods; "
    "with lost sales it is at most 1% above the tuned capped base stock.",
    arms={
        "HDPO": hdpo_arm,
        "REINFORCE": reinforce_arm,
        "optimum": optimum_arm,
        "capped base stock": capped_base_stock_arm,
    },
    criteria=(
        NotInferior("gap", "HDPO", "optimum", margin=0.02, higher_is_better=False),
        Superior("gap", "HDPO", "REINFORCE", higher_is_better=False),
        NotInferior(
            *("lost-sales cost", "HDPO", "capped base stock"),
            margin=0.01,
            relative=True,
            higher_is_better=False,
        ),
    ),
    seeds=5,
    core_minutes=15.0,
)
