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
            beside it. Of an environment that is no array (without the face "vector"): its own
            class.
        domain: folder below `envs/`.
        faces: what the environment offers: single, vector, torch, pettingzoo.
        needs: arguments without which it cannot be made, as `make` takes them; "": none.
    """

    id: str
    core: str
    domain: str
    faces: tuple[str, ...] = ("single", "vector", "torch")
    needs: str = ""

    @property
    def import_path(self) -> str:
        """Dotted path of the core class, whose docstring specifies the environment."""
        return self.core.replace(":", ".")

    @property
    def entry_point(self) -> str:
        """Path of the class that `gymnasium.make` makes."""
        return f"{self.core}Env" if "vector" in self.faces else self.core

    @property
    def vector_entry_point(self) -> str | None:
        """Path of the native vector, None where there is none."""
        return f"{self.core}VectorEnv" if "vector" in self.faces else None


ENTRIES = (
    EnvEntry(
        "InventoryNet-v0",
        "palaestra.envs.inventory.inventory_net:InventoryNet",
        "inventory",
        ("single", "vector", "torch", "pettingzoo"),
    ),
    EnvEntry("FiniteMDP-v0", "palaestra.envs.tabular.finite_mdp:FiniteMDP", "tabular"),
    EnvEntry("Garnet-v0", "palaestra.envs.tabular.garnet:Garnet", "tabular"),
    EnvEntry("RiverSwim-v0", "palaestra.envs.tabular.river_swim:RiverSwim", "tabular"),
    EnvEntry(
        "CombinationLock-v0", "palaestra.envs.tabular.combination_lock:CombinationLock", "tabular"
    ),
    EnvEntry("GambleChain-v0", "palaestra.envs.tabular.gamble_chain:GambleChain", "tabular"),
    EnvEntry("IncomeGamble-v0", "palaestra.envs.tabular.income_gamble:IncomeGamble", "tabular"),
    EnvEntry("GridWorld-v0", "palaestra.envs.tabular.grid_world:GridWorld", "tabular"),
    EnvEntry("DoorChain-v0", "palaestra.envs.tabular.door_chain:DoorChain", "tabular"),
    EnvEntry("ItemPacking-v0", "palaestra.envs.tabular.item_packing:ItemPacking", "tabular"),
    EnvEntry("BernoulliBandit-v0", "palaestra.envs.bandits.bernoulli:BernoulliBandit", "bandits"),
    EnvEntry(
        "DynamicalLinearBandit-v0",
        "palaestra.envs.bandits.dynamical_linear:DynamicalLinearBandit",
        "bandits",
    ),
    EnvEntry(
        "OneSidedFeedback-v0",
        "palaestra.envs.bandits.one_sided_feedback:OneSidedFeedback",
        "bandits",
    ),
    EnvEntry(
        "PaymentRouting-v0", "palaestra.envs.bandits.payment_routing:PaymentRouting", "bandits"
    ),
    EnvEntry(
        "SwitchingCostBandit-v0",
        "palaestra.envs.bandits.switching_cost:SwitchingCostBandit",
        "bandits",
    ),
    EnvEntry(
        "TorquePendulum-v0", "palaestra.envs.control.torque_pendulum:TorquePendulum", "control"
    ),
    EnvEntry("LQR-v0", "palaestra.envs.control.lqr:LQR", "control"),
    EnvEntry("PointMaze-v0", "palaestra.envs.control.point_maze:PointMaze", "control"),
    EnvEntry("LineWorld-v0", "palaestra.envs.control.line_world:LineWorld", "control"),
    EnvEntry("LaneDriving-v0", "palaestra.envs.driving.lane_driving:LaneDriving", "driving"),
    EnvEntry(
        "EquitableSampling-v0",
        "palaestra.envs.data.equitable_sampling:EquitableSampling",
        "data",
    ),
    EnvEntry("TSP-v0", "palaestra.envs.routing.tsp:TSP", "routing"),
    EnvEntry("ATSP-v0", "palaestra.envs.routing.atsp:ATSP", "routing"),
    EnvEntry("CVRP-v0", "palaestra.envs.routing.cvrp:CVRP", "routing"),
    EnvEntry("Orienteering-v0", "palaestra.envs.routing.orienteering:Orienteering", "routing"),
    EnvEntry("Knapsack-v0", "palaestra.envs.routing.knapsack:Knapsack", "routing"),
    EnvEntry(
        "VMRescheduling-v0", "palaestra.envs.cluster.vm_rescheduling:VMRescheduling", "cluster"
    ),
    EnvEntry(
        "SubmodularCoverage-v0",
        "palaestra.envs.coverage.submodular_coverage:SubmodularCoverage",
        "coverage",
    ),
    EnvEntry(
        "InformativePath-v0",
        "palaestra.envs.coverage.informative_path:InformativePath",
        "coverage",
    ),
    EnvEntry(
        "ExperimentDesign-v0",
        "palaestra.envs.coverage.experiment_design:ExperimentDesign",
        "coverage",
    ),
    EnvEntry(
        "ItemCollection-v0",
        "palaestra.envs.coverage.item_collection:ItemCollection",
        "coverage",
    ),
    EnvEntry(
        "GraphCoverage-v0",
        "palaestra.envs.coverage.graph_coverage:GraphCoverage",
        "coverage",
    ),
    EnvEntry(
        "ContinuousCoverage-v0",
        "palaestra.envs.coverage.continuous_coverage:ContinuousCoverage",
        "coverage",
    ),
    EnvEntry("CarCoverage-v0", "palaestra.envs.coverage.car_coverage:CarCoverage", "coverage"),
    EnvEntry(
        "AntCoverage-v0",
        "palaestra.envs.coverage.ant_coverage:AntCoverage",
        "coverage",
        ("single",),
    ),
    EnvEntry("Arithmetic-v0", "palaestra.envs.text.arithmetic:Arithmetic", "text", ("single",)),
    EnvEntry("Countdown-v0", "palaestra.envs.text.countdown:Countdown", "text", ("single",)),
    EnvEntry(
        *("GSM8K-v0", "palaestra.envs.text.gsm8k:GSM8K", "text", ("single",)),
        needs='train="problems.jsonl"',
    ),
    EnvEntry(
        "ReasoningGym-v0", "palaestra.envs.text.reasoning_gym:ReasoningGym", "text", ("single",)
    ),
    EnvEntry("DigitSum-v0", "palaestra.envs.text.digit_sum:DigitSum", "text", ("single",)),
    EnvEntry("RubricText-v0", "palaestra.envs.text.rubric_text:RubricText", "text", ("single",)),
)


def register_all() -> None:
    """Register every entry that Gymnasium does not know yet. Classes load on first use."""
    for entry in ENTRIES:
        if entry.id not in gym.registry:
            gym.register(
                entry.id,
                entry_point=entry.entry_point,
                vector_entry_point=entry.vector_entry_point,
            )
