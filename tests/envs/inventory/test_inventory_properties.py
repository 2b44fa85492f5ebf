"""`InventoryNet` on random supply networks: a slow reference, and what must be conserved."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.inventory.inventory_net import InventoryNet, InventoryNetVectorEnv

ROWS = 3
PERIODS = 8
OUTSIDE = None

costs = st.integers(0, 12).map(lambda n: n / 4)
leads = st.integers(1, 4)


@st.composite
def graphs(draw, transshipment=True):
    """Acyclic networks: suppliers in order, stores below; attributes on nodes or on edges."""
    suppliers, stores = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    graph = nx.DiGraph()
    above = [f"supplier {i}" for i in range(suppliers)]
    below = [f"store {k}" for k in range(stores)]
    for name in above:
        kind = draw(st.sampled_from(["warehouse", "echelon"]))
        graph.add_node(name, kind=kind, holding=draw(costs))
        graph.nodes[name]["holds_stock"] = not transshipment or draw(st.booleans())
    for name in below:
        graph.add_node(name, kind="store", holding=draw(costs), underage=draw(costs))
    for name in graph:
        graph.nodes[name].update(lead=draw(leads), unit_cost=draw(costs), fixed_cost=draw(costs))
        graph.nodes[name]["inventory_periods"] = draw(leads)
    pairs = [(a, b) for i, a in enumerate(above) for b in [*above[i + 1 :], *below]]
    for pair in pairs:
        if draw(st.booleans()):
            graph.add_edge(*pair, **draw(st.fixed_dictionaries({}, optional=EDGE)))
    for name in above:
        if not graph.out_degree(name):
            graph.add_edge(name, draw(st.sampled_from(below)))
    for name in below:
        if above and not graph.in_degree(name):
            graph.add_edge(draw(st.sampled_from(above)), name)
    return graph


EDGE = {"lead": leads, "unit_cost": costs, "fixed_cost": costs}
modes = st.sampled_from([(True, "cost"), (True, "profit"), (False, "cost")])
seeds = st.integers(0, 2**32 - 1)
demands = st.sampled_from(
    [
        {"law": "normal", "mean": 5.0, "std": 3.0, "clip": True},
        {"law": "poisson", "mean": ("uniform", 0.5, 9.0)},
        {"law": "discrete", "values": [0, 1, 20], "probabilities": [0.5, 0.3, 0.2]},
    ]
)


def vector_of(graph, mode, seed, demand, **arguments):
    lost_sales, objective = mode
    env = InventoryNetVectorEnv(
        ROWS,
        network=graph,
        demand=demand,
        lost_sales=lost_sales,
        objective=objective,
        periods=PERIODS,
        ignore=0,
        **arguments,
    )
    env.reset(seed=seed)
    return env


def actions_of(env, seed):
    """Normalized actions: uniform ones, nothing at all, the mean and the cap."""
    rng = np.random.default_rng(seed)
    shape = (PERIODS, ROWS, env.core.network.arcs)
    extreme = rng.choice([-1.0, 0.0, 1.0], size=shape)
    return np.where(rng.random(shape) < 0.3, extreme, rng.uniform(-1, 1, shape))


def arcs_of(network):
    names = [*network.names, OUTSIDE]  # index -1 is the outside supply
    return [(names[s], names[t]) for s, t in zip(network.source, network.target, strict=True)]


class Reference:
    """The paper's period, location by location and arc by arc; reads nothing but the graph."""

    def __init__(self, graph, lost_sales, objective):
        self.graph, self.lost_sales, self.objective = graph, lost_sales, objective
        self.pipeline = {}
        for name in graph:
            into = [self.of_arc(arc, "lead") for arc in self.arcs() if arc[1] == name]
            length = max(graph.nodes[name]["inventory_periods"], *into, 1)
            self.pipeline[name] = [0.0] * length

    def arcs(self):
        outside = [(OUTSIDE, name) for name in self.graph if not self.graph.in_degree(name)]
        return outside + list(self.graph.edges)

    def of_arc(self, arc, attribute):
        supplier, customer = arc
        own = self.graph.nodes[customer][attribute]
        return own if supplier is OUTSIDE else self.graph.edges[arc].get(attribute, own)

    def step(self, orders, demand):
        """Cost of a period; `orders` by arc, `demand` by store."""
        cost = 0.0
        for arc in self.arcs():
            cost += self.of_arc(arc, "unit_cost") * orders[arc]
            if orders[arc] > 0:
                cost += self.of_arc(arc, "fixed_cost")
        rest = {}
        for name, attributes in self.graph.nodes(data=True):
            on_hand = self.pipeline[name][0]
            if attributes["kind"] == "store":
                rest[name] = on_hand - demand[name]
                if self.objective == "cost":
                    cost += attributes["underage"] * max(-rest[name], 0.0)
                else:
                    cost -= attributes["underage"] * min(on_hand, demand[name])
            else:
                rest[name] = on_hand - sum(orders[arc] for arc in self.graph.out_edges(name))
                assert rest[name] > -1e-8, f"{name} ships more than it has"
                if not attributes["holds_stock"]:
                    assert abs(rest[name]) < 1e-8, f"{name} keeps stock"
            cost += attributes["holding"] * max(rest[name], 0.0)
            if self.lost_sales:
                rest[name] = max(rest[name], 0.0)
        for name, row in self.pipeline.items():
            arriving = row[1:] + [0.0]
            arriving[0] += rest[name]
            for arc in self.arcs():
                if arc[1] == name:
                    arriving[self.of_arc(arc, "lead") - 1] += orders[arc]
            self.pipeline[name] = arriving
        return cost


@settings(deadline=None, max_examples=60)
@given(graph=graphs(), mode=modes, demand=demands, seed=seeds)
def test_dynamics_equal_a_reference_that_goes_arc_by_arc(graph, mode, demand, seed):
    env = vector_of(graph, mode, seed, demand)
    net = env.core.network
    references = [Reference(graph, *mode) for _ in range(ROWS)]
    for row, reference in enumerate(references):
        for i, name in enumerate(net.names):
            length = len(reference.pipeline[name])
            assert env.state["inventory"][row, i, length:].sum() == 0
            reference.pipeline[name] = env.state["inventory"][row, i, :length].tolist()
    stores = net.names[-net.stores :]
    for actions in actions_of(env, seed):
        _, rewards, _, _, infos = env.step(actions.astype(np.float32))
        for row, reference in enumerate(references):
            orders = dict(zip(arcs_of(net), infos["orders"][row].tolist(), strict=True))
            demanded = dict(zip(stores, infos["demand"][row].tolist(), strict=True))
            cost = reference.step(orders, demanded)
            assert rewards[row] == pytest.approx(-cost, rel=1e-9, abs=1e-7)
            for i, name in enumerate(net.names):
                expected = reference.pipeline[name]
                found = env.state["inventory"][row, i, : len(expected)]
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(graph=graphs(), mode=modes, demand=demands, seed=seeds)
def test_stock_is_conserved_and_costs_are_not_negative(graph, mode, demand, seed):
    env = vector_of(graph, mode, seed, demand)
    net = env.core.network
    for actions in actions_of(env, seed):
        before = env.state["inventory"]
        _, rewards, _, _, infos = env.step(actions)
        after, demanded, orders = env.state["inventory"], infos["demand"], infos["orders"]
        assert (orders >= 0).all()
        sold = demanded
        if mode[0]:
            sold = np.minimum(before[:, -net.stores :, 0], demanded)
            assert (after >= 0).all()  # lost sales leave no backlog
        assert (after[:, : -net.stores] >= 0).all()  # suppliers never owe
        assert (after[..., 1:] >= 0).all()  # nor does a pipeline
        bought = orders[:, net.source < 0].sum(axis=1)
        change = after.sum(axis=(1, 2)) - before.sum(axis=(1, 2))
        np.testing.assert_allclose(change, bought - sold.sum(axis=1), atol=1e-7)
        if mode[1] == "cost":
            assert (rewards <= 0).all()


@settings(deadline=None, max_examples=40)
@given(graph=graphs(), demand=demands, seed=seeds)
def test_backlogged_inventory_position_balances_at_every_location(graph, demand, seed):
    env = vector_of(graph, (False, "cost"), seed, demand)
    net = env.core.network
    position = env.state["inventory"].sum(axis=-1)
    for actions in actions_of(env, seed):
        _, _, _, _, infos = env.step(actions)
        for arc in range(net.arcs):
            position[:, net.target[arc]] += infos["orders"][:, arc]
            if net.source[arc] >= 0:
                position[:, net.source[arc]] -= infos["orders"][:, arc]
        position[:, -net.stores :] -= infos["demand"]
        np.testing.assert_allclose(env.state["inventory"].sum(axis=-1), position, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(graph=graphs(), seed=seeds)
def test_a_location_that_holds_no_stock_ships_everything(graph, seed):
    env = vector_of(graph, (True, "cost"), seed, {"law": "poisson", "mean": 5.0})
    net = env.core.network
    for actions in actions_of(env, seed):
        stock = env.state["inventory"][..., 0]
        _, _, _, _, infos = env.step(actions)
        for node in np.flatnonzero(~net.holds_stock):
            shipped = infos["orders"][:, net.source == node].sum(axis=1)
            np.testing.assert_allclose(shipped, stock[:, node], rtol=1e-12)
            assert (env.state["rest"][:, node] < 1e-9).all()


@settings(deadline=None, max_examples=40)
@given(graph=graphs(transshipment=False), seed=seeds)
def test_an_action_that_encodes_feasible_orders_decodes_to_them(graph, seed):
    core = InventoryNet(network=graph, periods=PERIODS, ignore=0)
    net, rng = core.network, np.random.default_rng(seed)
    inventory = rng.uniform(0, 30, (ROWS, net.locations, core.slots))
    wanted = rng.uniform(0, 1, (ROWS, net.arcs)) * core.order_cap
    orders = core.feasible(wanted, inventory[..., 0])
    assert (orders <= wanted).all()
    actions = core.encode(orders)
    assert core.action_space.low.min() <= actions.min()
    assert actions.max() <= core.action_space.high.max()
    np.testing.assert_allclose(core.decode(actions, inventory), orders, rtol=1e-9, atol=1e-8)
    units = core.with_orders()
    np.testing.assert_array_equal(units.encode(orders), orders)
    accepted = units.check_action(orders, {"inventory": inventory})
    np.testing.assert_allclose(units.decode(accepted, inventory), orders, rtol=1e-9, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(graph=graphs(), mode=modes, seed=seeds)
def test_pathwise_gradient_is_the_slope_of_the_cost(graph, mode, seed):
    lost_sales, objective = mode
    core = InventoryNet(
        network=graph, lost_sales=lost_sales, objective=objective, periods=PERIODS, ignore=0
    ).torch(dtype=torch.float64)
    tape = to_torch(core.tapes(1, seed % 1000), dtype=torch.float64)
    rng = np.random.default_rng(seed)
    shape = (PERIODS, 1, core.network.arcs)
    start = torch.as_tensor(rng.uniform(-0.9, 0.9, shape))
    direction = torch.as_tensor(rng.standard_normal(shape))

    def total(actions):
        state, reward = core.initial(tape), torch.zeros(1, dtype=torch.float64)
        for action in actions:
            after = core.transition(state, action, tape)
            reward = reward + core.reward(state, action, after)
            state = after
        return reward.sum()

    actions = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(actions), actions)
    assert torch.isfinite(gradient).all()
    step = 1e-7
    ahead, here, behind = (total(start + k * step * direction) for k in (1, 0, -1))
    right, left = float(ahead - here) / step, float(here - behind) / step
    slope = float((gradient * direction).sum())
    if right == pytest.approx(left, rel=1e-4, abs=1e-3):  # no kink between the two points
        assert slope == pytest.approx((right + left) / 2, rel=1e-4, abs=1e-3)
