"""Decision transformer: asked for a return, do what was done where that return came of it.

L. Chen, K. Lu, A. Rajeswaran, K. Lee, A. Grover, M. Laskin, P. Abbeel, A. Srinivas, I. Mordatch:
Decision Transformer: Reinforcement Learning via Sequence Modeling (NeurIPS 2021, arXiv 2106.01345).
A causal transformer reads the last K steps

    G_t, s_t, a_t, G_t+1, s_t+1, a_t+1, ...,      G_t = r_t + r_t+1 + ... (the return to go)

and predicts at every observation the action that was taken there: its squared error, or for
discrete actions its cross-entropy, is the loss. Nothing else is learned. To act, the agent is asked
for a return G_0, and what an action earns is taken off: G_t+1 = G_t - r_t.

`predict` of Stable-Baselines3's contract is not told rewards. So what is still to come is part of
the `state`, and there are two ways to take rewards off:

    action, state = agent.predict(observation, state, episode_start, rewards=reward)

    asked = agent.asked(env, target_return=90)              # env, remembering its rewards
    evaluate_policy(asked, asked.env)

Where neither is done (SB3's `EvalCallback`, say) the return that is asked for stays as it was at
the start, which is exact as long as nothing is paid before the end of an episode.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from ...envs.checks import check_integer, check_number
from ..base.declare import Example
from ..base.offline_actor_critic import Batch
from ..base.offline_data import OfflineDataset
from ..base.offline_stages import OfflineStages
from ..base.offline_tensors import OfflineTensors, episode_ends, episode_returns, returns_to_go
from ..base.stages import gradient_step
from .base_decision_policy import DecisionPolicy


def masked_mean(losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of losses [B, K] where `mask` (bool [B, K]) is true, a scalar."""
    return (losses * mask).sum() / mask.sum()


def random_steps(env: Any) -> OfflineDataset:
    """80 steps of random actions."""
    return OfflineDataset.record(env, steps=80)


class DecisionTransformer(OfflineStages):
    """Return-conditioned behaviour cloning along sequences.

    The stages of a step: learn_from -> loss (conditions). What is asked for at prediction is
    `DecisionPolicy.condition`.

    Args:
        policy: "MlpPolicy"; sizes of the transformer go into `policy_kwargs`, see `DecisionPolicy`.
        env: an `OfflineDataset` of whole episodes, with rewards; actions in a bounded `Box` or
            `Discrete`.
        context: K, at least 1.
        horizon: steps of the longest episode that it can learn from or act in.
        target_return: what `predict` asks for; None: the highest return of the data.
        warmup_steps: gradient steps over which the learning rate rises linearly to its schedule.
        max_grad_norm: the gradient is scaled down to this norm; None: never.
        learning_rate, batch_size: of AdamW; windows in a minibatch.
        common: further arguments of `OfflineAlgorithm`.

    Raises:
        ValueError: an argument is out of range, other actions, or the data have no rewards, no ends
            of episodes, or an episode longer than `horizon`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": DecisionPolicy}
    needed: ClassVar[tuple[str, ...]] = ("rewards",)
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "context": 4,
            "horizon": 10,
            "batch_size": 8,
            "warmup_steps": 10,
            "policy_kwargs": {"width": 16, "layers": 2},
        },
        steps=30,
        data=random_steps,
    )
    policy: DecisionPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 1e-4,
        batch_size: int = 64,
        context: int = 20,
        horizon: int = 1_000,
        target_return: float | None = None,
        warmup_steps: int = 1_000,
        max_grad_norm: float | None = 0.25,
        **common: Any,
    ) -> None:
        self.context = check_integer("context", context, 1)
        self.horizon = check_integer("horizon", horizon, 1)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0)
        if target_return is not None:
            check_number("target_return", target_return)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, 0)
        self.target_return, self.max_grad_norm = target_return, max_grad_norm
        common |= {"learning_rate": learning_rate, "batch_size": batch_size}
        super().__init__(policy, env, **common)

    # -- data --------------------------------------------------------------------------------------

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless actions are a bounded `Box`, or `Discrete` and start at 0."""
        bounded = isinstance(space, spaces.Box) and space.is_bounded()
        if not bounded and not (isinstance(space, spaces.Discrete) and space.start == 0):
            raise ValueError(
                f"{type(self).__name__} needs actions in a bounded Box or in Discrete(n) from 0, "
                f"got {space}"
            )

    def check_data(self, dataset: OfflineDataset) -> None:
        """ValueError where rewards or ends of episodes are missing, or an episode is too long."""
        super().check_data(dataset)
        longest = int(np.diff(episode_ends(dataset), prepend=0).max())
        if longest > self.horizon:
            raise ValueError(
                f"an episode of the data has {longest} steps, horizon={self.horizon} must be at "
                "least that"
            )

    def _setup_model(self) -> None:
        own = {"context": self.context, "horizon": self.horizon}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()

    def further_columns(self, dataset: OfflineDataset) -> dict[str, NDArray[Any]]:
        """Returns to go."""
        return {"returns_to_go": returns_to_go(dataset)}

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """As the base's. Scales are those of the first data that the agent learns from."""
        tensors = super().pack(dataset)
        if not bool(self.policy.fitted):
            self.fit_scales(tensors)
        return tensors

    @torch.no_grad()
    def fit_scales(self, tensors: OfflineTensors) -> None:
        """Take scales of observations and returns, and the best return, from data."""
        policy = self.policy
        if isinstance(self.observation_space, spaces.Box):
            mean, deviation = tensors.observation_scale(1e-6)
            policy.mean.copy_(mean.flatten())
            policy.deviation.copy_(deviation.flatten())
        largest = tensors.column("returns_to_go").abs().max()
        policy.return_scale.copy_(torch.where(largest > 0, largest, 1.0))
        policy.best_return.fill_(float(episode_returns(tensors.dataset).max()))
        policy.fitted.fill_(True)

    def draw(self) -> Batch:
        """Windows of `context` steps, as `OfflineTensors.sample_windows` gives them."""
        assert self.tensors is not None
        return self.tensors.sample_windows(self.batch_size, self.context, self.generator)

    # -- a step ------------------------------------------------------------------------------------

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        share = (self.num_timesteps + 1) / max(self.warmup_steps, 1)
        for group in self.policy.optimizer.param_groups:
            group["lr"] *= min(share, 1.0)

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of the transformer."""
        loss = self.loss(batch)
        self.note(loss=loss)
        gradient_step(self.policy.optimizer, loss, self.max_grad_norm)
        return {}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss of the recorded actions, a scalar."""
        hidden = self.policy.hidden(
            self.conditions(batch), batch["observations"], batch["actions"], batch["timesteps"]
        )
        return masked_mean(self.policy.head.losses(hidden, batch["actions"]), batch["mask"])

    def conditions(self, batch: Batch) -> torch.Tensor:
        """What would have had to be asked for, [B, K, C]: returns to go."""
        return batch["returns_to_go"][..., None]

    # -- acting ------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        rewards: Any = None,
        target_return: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """As SB3's for policies that remember; see `DecisionPolicy.predict`.

        Args:
            observation, state, episode_start, deterministic: as in SB3.
            rewards: what the last actions earned, a number or [n]; None: nothing is taken off.
            target_return: to ask for where an episode begins, a number or [n]; None: the agent's.
        """
        target = self.target_return if target_return is None else target_return
        return self.policy.predict(
            observation, state, episode_start, deterministic, rewards=rewards, target_return=target
        )

    def asked(self, env: GymEnv, target_return: float | None = None) -> Asked:
        """This agent in an environment that tells it its rewards, asked for a return.

        Args:
            env: as an agent's constructor takes it.
            target_return: None: the agent's.
        """
        return Asked(self, RewardsSeen(self._wrap_env(env)), target_return)


class RewardsSeen(VecEnvWrapper):
    """An SB3 `VecEnv` that remembers the rewards of its last step.

    Attributes:
        rewards: [n]; zeros after a reset.
    """

    rewards: NDArray[Any]

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.rewards = np.zeros(self.num_envs)

    def reset(self) -> Any:
        """As the inner one's."""
        self.rewards = np.zeros(self.num_envs)
        return self.venv.reset()

    def step_wait(self) -> Any:
        """As the inner one's."""
        found = self.venv.step_wait()
        self.rewards = found[1]
        return found


class Asked:
    """`predict` for SB3's `evaluate_policy`, with rewards from the environment.

    Args:
        agent: who predicts.
        env: the environment to evaluate in.
        target_return: to ask for; None: the agent's.
    """

    def __init__(
        self, agent: DecisionTransformer, env: RewardsSeen, target_return: float | None
    ) -> None:
        self.agent, self.env, self.target_return = agent, env, target_return

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """As the agent's."""
        return self.agent.predict(
            observation, state, episode_start, deterministic, self.env.rewards, self.target_return
        )
