"""The comparisons whose learning curves the report shows."""

from __future__ import annotations

from typing import Any

from .compare import Comparison, Side

SMALL: dict[str, Any] = {"net_arch": [64, 64]}

COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "pendulum_off_policy",
        "TorquePendulum-v0",
        {
            "SAC": Side("SAC", {"policy_kwargs": SMALL}),
            "PMOE": Side("PMOE", {"policy_kwargs": SMALL}),
        },
        steps=6_000,
    ),
)
