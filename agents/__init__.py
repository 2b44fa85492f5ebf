"""What acts: one folder per family, one file per paper. Classes load on first use.

palaestra.agents.HDPO          # loads agents/combinatorial/hdpo.py
palaestra.agents.names()       # every class
"""

from __future__ import annotations

import importlib
from typing import Any

# Class -> module below this package: the one place where an agent is named.
_CLASSES = {
    "BQNCO": "combinatorial.bq_nco",
    "HDPO": "combinatorial.hdpo",
    "Reinforce": "combinatorial.reinforce",
    "VM2RL": "combinatorial.vm2rl",
    "BaseStock": "heuristics.base_stock",
    "CappedBaseStock": "heuristics.capped_base_stock",
    "EchelonStock": "heuristics.echelon_stock",
    "FixedQuantileNewsvendor": "heuristics.newsvendor",
    "GreedyCoverage": "heuristics.coverage",
    "GreedyTour": "heuristics.coverage",
    "GreedyMigration": "heuristics.cluster",
    "FilterBestFit": "heuristics.cluster",
    "SwapMigration": "heuristics.cluster",
    "BeamMigration": "heuristics.cluster",
    "MIPMigration": "heuristics.cluster_mip",
    "JustInTime": "heuristics.just_in_time",
    "QuantileNewsvendor": "heuristics.newsvendor",
    "NearestNeighbour": "heuristics.routing.rules",
    "Insertion": "heuristics.routing.rules",
    "TwoOpt": "heuristics.routing.rules",
    "Savings": "heuristics.routing.rules",
    "GreedyPrize": "heuristics.routing.rules",
    "GreedyValue": "heuristics.routing.rules",
    "HeldKarp": "heuristics.routing.rules",
    "KnapsackDP": "heuristics.routing.rules",
    "RoutingSolver": "heuristics.routing.rules",
    "SsPolicy": "heuristics.ss_policy",
    "TransformedNewsvendor": "heuristics.newsvendor",
    "TextReinforce": "llm.baselines",
    "RLOO": "llm.baselines",
    "GRPO": "llm.baselines",
    "TokenMeanGRPO": "llm.baselines",
    "DrGRPO": "llm.baselines",
    "GSPO": "llm.baselines",
    "DAPO": "llm.dapo",
    "TokenPPO": "llm.token_ppo",
    "SFT": "llm.sft",
    "DPO": "llm.dpo",
    "IPO": "llm.dpo",
    "BestOfN": "llm.best_of_n",
    "BradleyTerry": "reward.bradley_terry",
    "SingleStreamPO": "llm.single_stream",
    "DCPO": "llm.dcpo",
    "BNPO": "llm.bnpo",
    "KnapsackGRPO": "llm.knapsack_rl",
    "KLCov": "llm.entropy_mechanism",
    "ClipCov": "llm.entropy_mechanism",
    "VanillaPG": "base.policy_ascent",
    "NormalizedPG": "base.policy_ascent",
    "LipschitzGraph": "control.lipschitz_policy",
    "LipschitzNetwork": "control.lipschitz_network",
    "NPGIGT": "control.n_harpg",
    "HARPG": "control.n_harpg",
    "NHARPG": "control.n_harpg",
    "A2C": "base.on_policy",
    "BehaviourCloning": "offline.behaviour_cloning",
    "TD3BC": "offline.base_td3_bc",
    "PRDC": "offline.prdc",
    "A2PR": "offline.a2pr",
    "IQL": "offline.base_iql",
    "CQL": "offline.base_cql",
    "DiscreteCQL": "offline.base_discrete_cql",
    "QuantileCQL": "offline.base_discrete_cql",
    "PercentileBC": "offline.base_percentile_bc",
    "PGDTD3BC": "offline.policy_guided_diffusion",
    "PGDIQL": "offline.policy_guided_diffusion",
    "DecisionTransformer": "offline.base_decision_transformer",
    "DatasetStudy": "offline.dataset_measures",
    "TabularDoC": "offline.dichotomy_of_control",
    "SequenceDoC": "offline.dichotomy_of_control_sequence",
    "FB": "offline.base_forward_backward",
    "VCFB": "offline.zero_shot_rl",
    "MCFB": "offline.zero_shot_rl",
    "H2O": "offline.h2o",
    "FBM": "offline.zero_shot_rl_memory",
    "PEARL": "offline.zero_shot_rl_planner",
    "PPO": "base.on_policy",
    "SAC": "base.off_policy",
    "TD3": "base.off_policy",
    "QRDQN": "base.quantile_dqn",
    "CliffPlanner": "tabular.policy_cliff",
    "DetaN": "tabular.detan",
    "DistributionalPI": "tabular.distributional_dp",
    "DistributionalVI": "tabular.distributional_dp",
    "LOOP": "tabular.loop_average_reward",
    "QLearning": "tabular.q_learning",
    "UCBVI": "tabular.ucbvi",
    "PRLSVI": "tabular.preference_randomization",
    "PbTS": "tabular.preference_randomization",
    "POPLER": "tabular.agnostic_rl",
    "PSDP": "tabular.policy_search",
    "UniformIS": "tabular.policy_search",
    "NORA": "tabular.optimal_actor_critic",
    "FiniteClassNORA": "tabular.finite_class_actor_critic",
    "HybridNORA": "tabular.optimal_actor_critic",
    "TrajectoryCloning": "tabular.trajectory_cloning",
    "DemoRegularizedRL": "tabular.demonstration_regularized",
    "DemoRegularizedRLHF": "tabular.demonstration_regularized_rlhf",
    "BatchedExponentialWeights": "bandit.switching_costs",
    "DynLinUCB": "bandit.dynlin_ucb",
    "LinUCB": "bandit.lin_ucb",
    "UCB1": "bandit.ucb1",
    "FairExp2": "bandit.fair_one_sided",
    "BatchSquareCB": "bandit.adyen_bandits",
    "BatchEpsilonGreedy": "bandit.adyen_bandits",
    "BatchSoftmax": "bandit.adyen_bandits",
    "DRRPO": "robust.dr_rpo",
    "IWOCS": "robust.iwocs",
    "IWOCSSAC": "robust.iwocs_sac",
    "HNPG": "control.hnpg",
    "MBPO": "base.model_based",
    "VaGraM": "control.vagram",
    "BufferPPO": "base.buffer_ppo",
    "RLPD": "base.rlpd",
    "ROS": "control.ros",
    "PROPS": "control.props",
    "PMOE": "control.pmoe",
    "EXPO": "control.expo",
    "GoRL": "control.gorl",
    "DiffusionGoRL": "control.gorl",
    "OnPolicyMDPO": "control.mdpo",
    "OffPolicyMDPO": "control.mdpo_off_policy",
    "SQIRL": "control.sqirl",
    "CaRL": "control.carl",
    "BPO": "control.bounded_ratio",
    "GBPO": "control.bounded_ratio",
    "YAYRobot": "control.yay_robot",
    "ScaleZero": "control.scalezero",
    "UniZero": "base.unizero",
    "SubPO": "combinatorial.sub_po",
    "MODPO": "combinatorial.modpo",
    "AdaptiveSampling": "data.equitable_sampling",
    "EqualSampling": "data.sampling_rules",
    "ProportionalSampling": "data.sampling_rules",
    "WorstFirstSampling": "data.sampling_rules",
    "RandomSampling": "data.sampling_rules",
    "HindsightSampling": "data.hindsight_sampling",
}


def names() -> tuple[str, ...]:
    """Names of all agents."""
    return tuple(_CLASSES)


def __getattr__(name: str) -> Any:
    """Load an agent class (or a subpackage) when it is first asked for."""
    if name in _CLASSES:
        return getattr(importlib.import_module(f".{_CLASSES[name]}", __name__), name)
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(
            f"palaestra.agents has no {name!r}; it has {sorted(_CLASSES)}"
        ) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_CLASSES])
