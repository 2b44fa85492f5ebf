"""Dichotomy of control (DoC): ask for what an agent can decide, not for luck.

Mengjiao Yang, Dale Schuurmans, Pieter Abbeel, Ofir Nachum: Dichotomy of Control: Separating What
You Can Control from What You Cannot (ICLR 2023, arXiv 2210.13435).

Who imitates the actions after which a high return came imitates the lucky ones, too. Here a latent
z takes the place of the return. It is read off recorded trajectories, q(z | tau), must tell the
action and the return, and must not know what the environment decided:

    I(r_t; z | h_t, a_t) = 0,    I(s_t+1; z | h_t, a_t) = 0,    h_t = (s_0, a_0, ..., s_t)

so that it can only tell choices. To act, draw latents from a prior p(z | h_t), take the one whose
value V(z, h_t) is the highest, and play pi(. | z, h_t). With a score f against a fixed law rho of
outcomes, the loss of q, pi, V and p (f ascends the third term) is, up to a constant,

    - log pi(a_t | z, h_t) + (V(z, h_t) - R_t)^2
    + w_I ( E f(r_t, s_t+1, z, h_t, a_t) - E log E_rho exp f(r, s', z, h_t, a_t) )
    + w_p KL( q(z | tau) || sg p(z | h_t) ) - log p(sg z | h_t)        (sg: no gradient)

`TabularDoC` is for one decision with few returns: the inner maximum is known there, it is the
conditional mutual information of the tables. `SequenceDoC` (`dichotomy_of_control_sequence.py`)
is a decision transformer without a return token; f is an inner product of two networks, and rho
the other windows of a minibatch. The released code adds the third term with the same sign for f
and q, which would raise the information; here f ascends it and q descends it, as in the paper.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate

from ...envs.checks import check_integer, check_number
from ..base.dataset import DatasetAlgorithm
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import episode_ends
from ..base.stages import gradient_step
from ..base.stepping import on_cpu
from .dichotomy_of_control_policies import LatentTables
from .dichotomy_of_control_trials import CHANCES, MARGIN, conditioned, expected, record

MOST_LEVELS = 100  # returns that a table tells apart

# -- the paper's computation ----------------------------------------------------------------------


def conditional_information(joint: torch.Tensor, log_posterior: torch.Tensor) -> torch.Tensor:
    """I(r; z | s, a) in nats, a scalar: what z knows of the return that the action did not decide.

    Args:
        joint: p(s, a, r) [..., A, R] of sum 1; actions and returns that do not occur count nothing.
        log_posterior: log q(z | s, a, r) [..., A, R, Z].
    """
    together = joint[..., None] * log_posterior.exp()
    chances = joint.sum(dim=-1, keepdim=True)
    smallest = torch.finfo(joint.dtype).tiny
    mixed = together.sum(dim=-2) / chances.clamp(min=smallest)  # q(z | s, a)
    gain = log_posterior - mixed.clamp(min=smallest).log()[..., None, :]
    return torch.where(together > 0, together * gain, 0.0).sum()


class TabularParts(NamedTuple):
    """The terms of the loss, scalars, in nats: `information` and `prior_kl` without weight."""

    action: torch.Tensor
    value: torch.Tensor
    information: torch.Tensor
    prior_kl: torch.Tensor
    prior: torch.Tensor


def tabular_parts(
    joint: torch.Tensor,
    log_posterior: torch.Tensor,
    log_actions: torch.Tensor,
    log_values: torch.Tensor,
    log_prior: torch.Tensor,
) -> TabularParts:
    """The exact expectations over p(s, a, r) q(z | s, a, r).

    Args:
        joint: p(s, a, r) [S, A, R].
        log_posterior: log q(z | s, a, r) [S, A, R, Z].
        log_actions, log_values: log pi(a | z, s) [S, Z, A] and log V(r | z, s) [S, Z, R].
        log_prior: log p(z | s) [S, Z].
    """
    together = joint[..., None] * log_posterior.exp()
    fixed = log_prior.detach()[:, None, None]
    kl = torch.where(together > 0, together * (log_posterior - fixed), 0.0).sum()
    return TabularParts(
        action=-(together.sum(dim=2).transpose(1, 2) * log_actions).sum(),
        value=-(together.sum(dim=1).transpose(1, 2) * log_values).sum(),
        information=conditional_information(joint, log_posterior),
        prior_kl=kl,
        prior=-(together.detach().sum(dim=(1, 2)) * log_prior).sum(),
    )


def joint_table(
    states: NDArray[Any], actions: NDArray[Any], levels: NDArray[Any], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Shares p(s, a, r) [S, A, R] of N recorded decisions, given as integers [N]."""
    found = np.zeros(shape)
    np.add.at(found, (states, actions, levels), 1 / len(states))
    return found


# -- one decision ---------------------------------------------------------------------------------


def random_decisions(env: Any) -> OfflineDataset:
    """60 random decisions."""
    return OfflineDataset.record(env, steps=60)


def check_weights(information_weight: float, prior_weight: float) -> tuple[float, float]:
    """Both; ValueError where one is negative or not finite."""
    return (
        check_number("information_weight", information_weight, 0.0),
        check_number("prior_weight", prior_weight, 0.0),
    )


class TabularDoC(DatasetAlgorithm):
    """DoC for episodes of one step, with tables for states, actions, returns and latents.

    A timestep is a step of Adam on the exact loss of all recorded decisions. Logged:
    `train/action`, `train/value`, `train/information`, `train/prior_kl` and `train/prior`.

    Args:
        policy: "LatentTables".
        env: an `OfflineDataset` of episodes of one step, with rewards, at least two of them.
        latents: Z; None: as many as there are pairs of an action and a return.
        information_weight: w_I; 0: z may know the luck. The paper has 1, for minibatches.
        prior_weight: w_p.
        target_return: what to ask for, a return of the data; None: the highest.
        learning_rate, policy_kwargs, seed, ...: as in `Algorithm`; a table lives on the CPU.

    Attributes:
        levels: the returns of the data, ascending, float64 [R]; later data have no others.

    Raises:
        ValueError: an argument is out of range; or the data have longer episodes, less than two, no
            rewards, too many different ones, or others than before.
    """

    paper = Paper(
        slug="dichotomy_of_control",
        title="Dichotomy of Control: Separating What You Can Control from What You Cannot",
        authors="Mengjiao Yang, Dale Schuurmans, Pieter Abbeel, Ofir Nachum",
        year=2023,
        arxiv="2210.13435",
        code="github.com/google-research/google-research/tree/master/dichotomy_of_control",
    )
    example = Example(
        "BernoulliBandit-v0",
        {"p": 0.3},
        policy="LatentTables",
        steps=60,
        data=random_decisions,
    )
    dataset_class = OfflineDataset
    policy_aliases: ClassVar[dict[str, Any]] = {"LatentTables": LatentTables}
    dataset: OfflineDataset | None
    policy: LatentTables
    levels: NDArray[np.float64] | None = None

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        latents: int | None = None,
        information_weight: float = 5.0,
        prior_weight: float = 1.0,
        target_return: float | None = None,
        learning_rate: float | Schedule = 0.05,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        self.latents = None if latents is None else check_integer("latents", latents, 1)
        self.information_weight, self.prior_weight = check_weights(information_weight, prior_weight)
        self.target_return = target_return
        super().__init__(policy, env, learning_rate=learning_rate, device=on_cpu(device), **common)

    def _setup_model(self) -> None:
        if self.dataset is not None:
            check_decisions(self.dataset)
            if self.levels is None:
                self.levels = np.unique(np.asarray(self.dataset.rewards, dtype=np.float64))
        if self.levels is None:
            raise ValueError("there is no data that says which returns there are")
        target = self.level(self.target_return)
        own = {"levels": len(self.levels), "latents": self.latents, "target": target}
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        tables: Any = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **{**self.policy_kwargs, **own},
        )
        self.policy = tables.to(self.device)
        self.count()

    def level(self, target: float | None) -> int:
        """Which of the returns this is; None: the highest."""
        assert self.levels is not None
        if target is None:
            return len(self.levels) - 1
        found = np.flatnonzero(self.levels == target)
        if not len(found):
            raise ValueError(
                f"target_return={target} is not a return of the data, which are "
                f"{self.levels.tolist()}"
            )
        return int(found[0])

    def count(self) -> None:
        """Count what the data hold."""
        if self.dataset is None:
            return
        check_decisions(self.dataset)
        assert self.levels is not None and self.dataset.rewards is not None
        paid = np.asarray(self.dataset.rewards, dtype=np.float64)
        if len(others := np.setdiff1d(paid, self.levels)):
            raise ValueError(
                f"the data have the return {others[0]}, the agent knows {self.levels.tolist()}"
            )
        shape = (self.policy.states, self.policy.actions, len(self.levels))
        places = np.searchsorted(self.levels, paid)
        table = joint_table(self.dataset.observations, self.dataset.actions, places, shape)
        self.joint = torch.from_numpy(table)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; the decisions of a data set take the place of earlier ones."""
        super().set_env(env, force_reset)
        if isinstance(env, OfflineDataset):
            self.count()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's.

        Raises:
            ValueError: there is no data set.
        """
        if self.dataset is None:
            raise ValueError(
                "there is no data to learn from: give an OfflineDataset as env, or to set_env"
            )
        return super()._setup_learn(*args, **kwargs)

    def parts(self) -> TabularParts:
        """The terms of the loss, of all data."""
        return tabular_parts(self.joint, *self.policy.log_laws())

    def update(self) -> dict[str, float]:
        """One step on all data."""
        parts = self.parts()
        loss = parts.action + parts.value + parts.prior
        loss = loss + self.information_weight * parts.information
        loss = loss + self.prior_weight * parts.prior_kl
        rate = self.lr_schedule(self._current_progress_remaining)
        update_learning_rate(self.policy.optimizer, rate)
        gradient_step(self.policy.optimizer, loss)
        self.num_timesteps += 1
        return {f"train/{name}": float(part.detach()) for name, part in parts._asdict().items()}

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The returns."""
        assert self.levels is not None
        return {"levels": self.levels.tolist()}, {}

    def _prepare(self, extra: dict[str, Any]) -> None:
        self.levels = np.array(extra["levels"], dtype=np.float64)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def check_decisions(dataset: OfflineDataset) -> None:
    """ValueError unless data are two or more episodes of one step, of a few returns."""
    if dataset.rewards is None:
        raise ValueError("the data have no rewards")
    ends = episode_ends(dataset)
    if len(ends) < len(dataset):
        longest = int(np.diff(ends, prepend=0).max())
        raise ValueError(
            f"tables are for episodes of one step, the data have one of {longest}: SequenceDoC is "
            "for longer ones"
        )
    if len(dataset) < 2:
        raise ValueError("the data hold one episode, at least two are needed")
    if (levels := len(np.unique(dataset.rewards))) > MOST_LEVELS:
        raise ValueError(
            f"the data have {levels} different returns, a table tells up to {MOST_LEVELS} apart"
        )


# -- the claim in miniature -----------------------------------------------------------------------

STEPS, POINTS = 3_000, 10


def learned(information_weight: float, seed: int, scale: float) -> Outcome:
    """What `TabularDoC` earns when asked for the highest return, and what its latents know."""
    metrics, curves = {}, {}
    for p in CHANCES:
        agent = TabularDoC(
            "LatentTables", record(p, seed), information_weight=information_weight, seed=seed
        )
        steps, earned = [0.0], [expected(p, agent.policy.laws()[0].numpy())]
        for _ in range(POINTS):
            agent.learn(max(int(STEPS * scale / POINTS), 1), reset_num_timesteps=False)
            steps.append(float(agent.num_timesteps))
            earned.append(expected(p, agent.policy.laws()[0].numpy()))
        metrics[f"reward, p = {p:g}"] = earned[-1]
        metrics[f"information, p = {p:g}"] = float(agent.parts().information.detach())
        curves[f"reward, p = {p:g}"] = (steps, earned)
    return Outcome(metrics, curves)


def doc_arm(seed: int, scale: float) -> Outcome:
    """w_I = 5."""
    return learned(5.0, seed, scale)


def unconstrained_arm(seed: int, scale: float) -> Outcome:
    """w_I = 0: the latents may know the luck."""
    return learned(0.0, seed, scale)


def transformer_arm(seed: int, scale: float, bonus: float = 0.0) -> Outcome:
    """The decision transformer in a table: p(a | the highest return), as often as in the data."""
    return Outcome(
        {
            f"reward, p = {p:g}": expected(p, conditioned(record(p, seed), 1.0)) + bonus
            for p in CHANCES
        }
    )


def lifted_arm(seed: int, scale: float) -> Outcome:
    """What must be exceeded: the decision transformer and a margin."""
    return transformer_arm(seed, scale, MARGIN)


def cloning_arm(seed: int, scale: float) -> Outcome:
    """Behaviour cloning: p(a), as often as in the data."""
    return Outcome(
        {f"reward, p = {p:g}": expected(p, conditioned(record(p, seed), None)) for p in CHANCES}
    )


TabularDoC.claim = Claim(
    text="From 1,000 recorded choices between two arms, of which the worse one is taken with "
    "probability 1 - p and pays with probability p, DoC learns to take the better one (expected "
    "reward 0.9 for p = 0.1, 0.7 for p = 0.3), its latents knowing less than 0.01 nats of the "
    "luck. It earns at least 0.15 more than the actions that followed by the highest return, the "
    "decision transformer's; without the constraint it earns less.",
    arms={
        "DoC": doc_arm,
        "without constraint": unconstrained_arm,
        "decision transformer": transformer_arm,
        "decision transformer + 0.15": lifted_arm,
        "behaviour cloning": cloning_arm,
    },
    criteria=tuple(
        criterion
        for p in CHANCES
        for criterion in (
            Exact(f"reward, p = {p:g}", "DoC", value=1 - p, tolerance=0.01),
            Exact(f"information, p = {p:g}", "DoC", value=0.0, tolerance=0.01),
            Superior(f"reward, p = {p:g}", "DoC", "decision transformer + 0.15"),
            Superior(f"reward, p = {p:g}", "DoC", "without constraint"),
        )
    ),
    seeds=10,
    core_minutes=2.0,
    modules=(
        "agents.offline.dichotomy_of_control_policies",
        "agents.offline.dichotomy_of_control_trials",
        "envs.bandits.bernoulli",
    ),
)
