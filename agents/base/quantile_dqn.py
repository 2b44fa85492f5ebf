"""QR-DQN: a deep Q-network that learns quantiles of the return of every action.

W. Dabney, M. Rowland, M. G. Bellemare, R. Munos: Distributional Reinforcement Learning with
Quantile Regression (AAAI 2018, arXiv 1710.10044). A network gives N numbers theta_i(s, a), which
become the quantiles at tau_i = (i - 1/2) / N of the return as they minimise, for the targets
y_j = r + gamma theta'_j(s', a*),

    sum_i mean_j |tau_i - 1[y_j < theta_i]| huber_kappa(y_j - theta_i) / kappa.

The greedy action has the best score of its N numbers, which is their mean here; subclasses score
otherwise. a* is the online network's choice, its law the target network's (double Q-learning).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, ReplayBufferSamples
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from ...envs.checks import check_integer
from .declare import Example
from .off_policy import ResumableOffPolicy
from .resumable import Tensors
from .stages import Stages, gradient_step


def quantile_huber(theta: torch.Tensor, targets: torch.Tensor, kappa: float = 1.0) -> torch.Tensor:
    """The loss above, [n].

    Args:
        theta: quantiles [n, N].
        targets: samples [n, M], through which no gradient flows.
        kappa: error beyond which the loss is linear, > 0.
    """
    levels = (torch.arange(theta.shape[1], device=theta.device) + 0.5) / theta.shape[1]
    errors = targets.detach()[:, None, :] - theta[:, :, None]
    sizes = errors.abs()
    huber = torch.where(sizes <= kappa, 0.5 * errors**2, kappa * (sizes - 0.5 * kappa))
    weights = (levels[:, None] - (errors < 0).to(theta.dtype)).abs()
    return (weights * huber / kappa).mean(dim=2).sum(dim=1)


class QuantileNetwork(QNetwork):
    """N numbers for each action, and their mean as its value.

    Args:
        quantiles: N.
        arguments: those of SB3's `QNetwork`.
    """

    extra_features = 0  # inputs of the last layers beyond what the extractor finds

    def __init__(self, *, quantiles: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.quantiles, self.actions = quantiles, int(self.action_space.n)
        layers = create_mlp(
            self.features_dim + self.extra_features,
            self.actions * quantiles,
            self.net_arch,
            self.activation_fn,
        )
        self.q_net = nn.Sequential(*layers)

    def features(self, obs: PyTorchObs) -> torch.Tensor:
        """What the last layers see of observations, [n, F]."""
        return self.extract_features(obs, self.features_extractor)

    def theta(self, obs: PyTorchObs) -> torch.Tensor:
        """Quantiles [n, A, N]."""
        found: torch.Tensor = self.q_net(self.features(obs))
        return found.view(-1, self.actions, self.quantiles)

    def score(self, obs: PyTorchObs, theta: torch.Tensor) -> torch.Tensor:
        """What laws [n, A, N] are worth in observations, [n, A]."""
        return theta.mean(dim=2)

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """Scores [n, A]."""
        return self.score(obs, self.theta(obs))


class QuantilePolicy(DQNPolicy):
    """DQN's policy with a `QuantileNetwork`.

    Args:
        observation_space, action_space, lr_schedule, arguments: as in SB3's `DQNPolicy`.
        quantiles: N.
    """

    network_class: ClassVar[type[QuantileNetwork]] = QuantileNetwork
    q_net: QuantileNetwork
    q_net_target: QuantileNetwork

    def __init__(self, *spaces: Any, quantiles: int = 32, **arguments: Any) -> None:
        # Before the base's constructor, which makes the networks.
        self.network_kwargs: dict[str, Any] = {"quantiles": quantiles}
        super().__init__(*spaces, **arguments)

    def make_q_net(self) -> QuantileNetwork:
        """A network of its own features."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return self.network_class(**arguments, **self.network_kwargs).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.network_kwargs


class QuantileMultiInputPolicy(QuantilePolicy):
    """`QuantilePolicy` for dictionaries of observations."""

    def __init__(self, *spaces: Any, **arguments: Any) -> None:
        super().__init__(*spaces, **{"features_extractor_class": CombinedExtractor, **arguments})


class QRDQN(Stages, ResumableOffPolicy, stable_baselines3.DQN):  # type: ignore[misc]
    """QR-DQN, with the arguments of SB3's `DQN`.

    Args:
        policy: "MlpPolicy", or "MultiInputPolicy" for dictionaries of observations.
        env: with `Discrete` actions.
        quantiles: N >= 1.
        kappa: error beyond which the loss is linear, > 0.
        arguments: of `stable_baselines3.DQN`.

    Raises:
        ValueError: an argument is out of range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": QuantilePolicy,
        "MultiInputPolicy": QuantileMultiInputPolicy,
    }
    example = Example(
        "IncomeGamble-v0",
        {"observation": "onehot"},
        kwargs={"buffer_size": 500, "learning_starts": 24, "quantiles": 8, "gamma": 1.0},
        steps=240,
    )
    policy: QuantilePolicy
    q_net: QuantileNetwork
    q_net_target: QuantileNetwork

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        quantiles: int = 32,
        kappa: float = 1.0,
        _init_setup_model: bool = True,
        **arguments: Any,
    ) -> None:
        self.quantiles = check_integer("quantiles", quantiles, 1)
        if not 0 < kappa < np.inf:
            raise ValueError(f"kappa={kappa} must be a finite number above 0")
        self.kappa = kappa
        super().__init__(policy, env, _init_setup_model=False, **arguments)  # type: ignore[arg-type]
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.policy_kwargs = {**self.policy_kwargs, **self.network_arguments()}
        super()._setup_model()

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the policy that are arguments of the agent."""
        return {"quantiles": self.quantiles}

    def loss(self, batch: ReplayBufferSamples) -> torch.Tensor:
        """Mean of `quantile_huber` over a batch of replayed transitions."""
        discount = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            best = self.q_net(batch.next_observations).argmax(dim=1)
            after = played(self.q_net_target.theta(batch.next_observations), best)
            targets = batch.rewards + (1 - batch.dones) * discount * after
        theta = played(self.q_net.theta(batch.observations), batch.actions[:, 0].long())
        return quantile_huber(theta, targets, self.kappa).mean()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """As SB3's, with this loss."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self.metrics = defaultdict(list)
        for _ in range(gradient_steps):
            loss = self.loss(self.sample(batch_size))
            self.note(loss=loss)
            gradient_step(self.policy.optimizer, loss, self.max_grad_norm)
        self._n_updates += gradient_steps
        self.record()

    def extra_state(self) -> tuple[dict[str, Any], Tensors]:
        """As the base's, with the rate of exploration."""
        values, tensors = super().extra_state()
        return {**values, "exploration_rate": self.exploration_rate}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.exploration_rate = values["exploration_rate"]

    def learning_state(self) -> tuple[dict[str, Any], Tensors]:
        """As the base's, with the count of steps by which the target network follows."""
        values, tensors = super().learning_state()
        return {**values, "calls": self._n_calls}, tensors

    def restore_learning_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._n_calls = values["calls"]


def played(theta: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Laws [n, N] of actions [n], out of those of all [n, A, N]."""
    return theta[torch.arange(len(theta), device=theta.device), actions]
