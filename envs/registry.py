"""Every environment id of the suite, registered with Gymnasium when `palaestra` is imported."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class EnvEntry:
    """One environment id.

    Attributes:
        id: Gymnasium id.
        core: "module:Class" of the batched core; the faces `ClassEnv` and `ClassVectorEnv` lie
            beside it.
        domain: folder below `envs/`.
        faces: what the environment offers: single, vector, torch, pettingzoo.
    """

    id: str
    core: str
    domain: str
    faces: tuple[str, ...] = ("single", "vector", "torch")

    @property
    def import_path(self) -> str:
        """Dotted path of the core class, whose docstring specifies the environment."""
        return self.core.replace(":", ".")


ENTRIES = (
    EnvEntry(
        "InventoryNet-v0",
        "palaestra.envs.inventory.inventory_net:InventoryNet",
        "inventory",
        ("single", "vector", "torch", "pettingzoo"),
    ),
    EnvEntry("FiniteMDP-v0", "palaestra.envs.tabular.finite_mdp:FiniteMDP", "tabular"),
    EnvEntry("BernoulliBandit-v0", "palaestra.envs.bandits.bernoulli:BernoulliBandit", "bandits"),
)


def register_all() -> None:
    """Register every entry that Gymnasium does not know yet. Classes load on first use."""
    for entry in ENTRIES:
        if entry.id not in gym.registry:
            gym.register(
                entry.id,
                entry_point=f"{entry.core}Env",
                vector_entry_point=f"{entry.core}VectorEnv",
            )
