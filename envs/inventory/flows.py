"""How demand spreads over a supply network, and what orders it suggests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .demand import DemandSource
from .network import SupplyNetwork

Floats = NDArray[np.float64]


def flows(network: SupplyNetwork) -> tuple[Floats, Floats]:
    """How a unit of demand at each store spreads upwards when suppliers share it equally.

    Returns:
        Through locations [K, N] and over arcs [K, A].
    """
    stores, locations = network.stores, network.locations
    nodes, arcs = np.zeros((stores, locations)), np.zeros((stores, network.arcs))
    nodes[:, locations - stores :] = np.eye(stores)
    by_target = np.argsort(network.target, kind="stable")
    ends = np.searchsorted(network.target[by_target], np.arange(locations + 1))
    for node in reversed(range(locations)):  # customers come after their suppliers
        into = by_target[ends[node] : ends[node + 1]]
        arcs[:, into] = nodes[:, [node]] / len(into)
        inner = into[network.source[into] >= 0]
        nodes[:, network.source[inner]] += arcs[:, inner]
    return nodes, arcs


def order_levels(network: SupplyNetwork, demand: DemandSource) -> tuple[Floats, Floats]:
    """Per arc the mean demand that it serves, and the largest order that the action space holds.

    The cap is `reach + 4` periods of the peak demand of the stores below. A location that holds no
    stock may have to ship all that reaches it to one customer.
    """
    mean = demand.mean @ flows(network)[1]
    peak = np.maximum(network.serves @ demand.peak, 1e-9)
    cap = np.asarray((network.reach + 4) * peak, dtype=np.float64)
    for node in np.flatnonzero(~network.holds_stock):
        out = network.source == node
        cap[out] = np.maximum(cap[out], cap[network.target == node].sum())
    cap = cap.astype(np.float32).astype(np.float64)  # the action space is float32
    return np.asarray(np.minimum(mean, cap / 2)), cap
