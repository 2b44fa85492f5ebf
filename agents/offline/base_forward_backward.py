"""Forward-backward representations: one agent for all rewards.

A. Touati, Y. Ollivier: Learning One Representation to Optimize All Rewards (NeurIPS 2021, arXiv
2103.07945); A. Touati, J. Rapin, Y. Ollivier: Does Zero-Shot Reinforcement Learning Exist? (ICLR
2023, arXiv 2209.14935); here as S. Jeen et al. have it, https://github.com/enjeeneer/zero-shot-rl.

Without rewards FB learns F(s, a, z) and B(s) in R^d, for all z on the sphere of radius sqrt(d):

    M_z(s, a, s+) = F(s, a, z).B(s+)   successor measure of pi_z, as a density
    Q_z(s, a)     = F(s, a, z).z       pi_z(s) = argmax_a Q_z(s, a)
    z             = sqrt(d) x / |x|,   x = mean_n r_n B(s_n) of labelled states, or B(goal)

There are twins of F, and slow copies F', B'. In a minibatch, with M'_ij = min over the twins of
F'(s'_i, a'_i, z_i).B'(s'_j) and a' = pi_z(s') with clipped noise:

    L_FB   = sum_twins [ mean_{i != j} (F_i.B(s'_j) - gamma M'_ij)^2 / 2 - mean_i F_i.B(s'_i) ]
    L_orth = mean_{i != j} (B(s'_i).B(s'_j))^2 - 2 mean_i |B(s'_i)|^2
    actor    -mean_i min_twins Q_z(s, pi(s, z))

z is uniform on the sphere, or, for half of the rows, that of another row's state. B is brought to
the sphere. Where the data say that the task ended with a step, gamma is 0. Entries of gradients are
clamped to [-1, 1]. The stages, from the outside to the inside:

    draw -> learn_from -> tasks
                       -> update_representation (representation_loss (measure_targets))
                       -> update_actor
                       -> update_targets
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.checks import check_integer, check_number, check_share
from ..base.declare import Example
from ..base.offline_actor_critic import Batch, Followers, check_columns
from ..base.offline_data import OfflineDataset
from ..base.offline_stages import OfflineStages
from ..base.stepping import check_discrete
from .base_forward_backward_networks import ForwardBackwardPolicy, on_sphere, values

# -- functions ------------------------------------------------------------------------------------


def forward_backward_loss(
    forward: torch.Tensor,
    backward: torch.Tensor,
    targets: torch.Tensor,
    gamma: float | torch.Tensor,
) -> torch.Tensor:
    """L_FB, a scalar.

    Args:
        forward: F(s_i, a_i, z_i) of the twins, [2, B, d].
        backward: B(s'_j), [B, d].
        targets: M'_ij, [B, B].
        gamma: discount, a number or [B, 1].

    Raises:
        ValueError: B is 1: there are no other states.
    """
    measures = forward @ backward.T
    errors = others(measures - gamma * targets).square()
    pairs = len(backward) * (len(backward) - 1)
    return 0.5 * errors.sum() / pairs - measures.diagonal(dim1=1, dim2=2).mean(1).sum()


def orthonormality_loss(backward: torch.Tensor) -> torch.Tensor:
    """L_orth, a scalar, of B(s'_j) [B, d]; errors as in `forward_backward_loss`."""
    products = backward @ backward.T
    pairs = len(backward) * (len(backward) - 1)
    return others(products).square().sum() / pairs - 2 * products.diagonal().mean()


def others(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix [..., B, B] with zeros on its diagonal; ValueError where B is 1."""
    count = matrix.shape[-1]
    if count < 2:
        raise ValueError("a minibatch of 1 step has no other states: batch_size must be at least 2")
    return matrix.masked_fill(torch.eye(count, dtype=torch.bool, device=matrix.device), 0.0)


def inferred_task(backward: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """z of rewards, [d].

    Args:
        backward: B of N states, [N, d].
        rewards: paid there, [N].

    Raises:
        ValueError: all rewards are 0, or cancel.
    """
    x = (rewards[:, None] * backward).mean(0)
    if not x.any():
        raise ValueError("the task has no signal: rewards are all 0, or cancel")
    return on_sphere(x)


# -- the agent -------------------------------------------------------------------------------------


def random_play(env: Any) -> OfflineDataset:
    """200 steps of random actions."""
    return OfflineDataset.record(env, steps=200)


class FB(OfflineStages):
    """Forward-backward representations: one agent for all rewards.

    `learn` needs no rewards. What `predict` does is said afterwards, by `set_task`, `set_task_of`
    or `set_goal`, and saved with the agent. Until then the rewards of the data are the task, where
    they have some. z belongs to the maps as they are: set it again after further learning.

    Args:
        policy: "MlpPolicy".
        env: an `OfflineDataset` with next observations, and actions in a bounded `Box` or in
            `Discrete` from 0.
        learning_rate: of F and B.
        actor_learning_rate: None: as `learning_rate`, which it follows.
        batch_size: at least 2.
        gamma: discount, in [0, 1].
        tau: by how much the slow copies follow in a step, in [0, 1].
        state_share: share of z that are those of states, in [0, 1].
        policy_noise, policy_noise_clip: standard deviation of the noise of continuous actions, and
            the most that it may be.
        inference_states: of the data, at most, from which rewards of theirs are read.
        common: `policy_kwargs` (see `ForwardBackwardPolicy`), `seed`, ..., as in `Algorithm`.

    Raises:
        ValueError: an argument is out of range, other actions, no next observations; in `predict`,
            there is no task.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": ForwardBackwardPolicy}
    needed = ("next_observations",)
    example = Example(
        "GridWorld-v0",
        {"rows": 3, "cols": 3, "max_steps": 10, "observation": "onehot"},
        kwargs={
            "batch_size": 16,
            "policy_kwargs": {
                **{"dimension": 4, "preprocessed": 8, "forward_arch": [8]},
                **{"backward_arch": [8], "actor_arch": [8]},
            },
        },
        steps=40,
        data=random_play,
    )
    policy: ForwardBackwardPolicy
    _task_is_fresh = False  # whether the task of the data is that of the present maps

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 1e-4,
        actor_learning_rate: float | None = None,
        batch_size: int = 512,
        gamma: float = 0.98,
        tau: float = 0.01,
        state_share: float = 0.5,
        policy_noise: float = 0.2,
        policy_noise_clip: float = 0.3,
        inference_states: int = 10_000,
        **common: Any,
    ) -> None:
        if actor_learning_rate is not None:
            check_number("actor_learning_rate", actor_learning_rate, 0)
        self.actor_learning_rate = actor_learning_rate
        check_integer("batch_size", batch_size, 2)
        self.gamma, self.tau = check_share("gamma", gamma), check_share("tau", tau)
        self.state_share = check_share("state_share", state_share)
        self.policy_noise = check_number("policy_noise", policy_noise, 0)
        self.policy_noise_clip = check_number("policy_noise_clip", policy_noise_clip, 0)
        self.inference_states = check_integer("inference_states", inference_states, 1)
        common |= {"learning_rate": learning_rate, "batch_size": batch_size}
        super().__init__(policy, env, **common)

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless actions are `Discrete` from 0 or in a bounded `Box`."""
        if not isinstance(space, spaces.Box):
            check_discrete(space, "actions in a bounded Box, or", type(self).__name__)
        elif not (space.is_bounded() and space.shape):
            raise ValueError(f"{type(self).__name__} needs bounded actions, got {space}")

    def _setup_model(self) -> None:
        self.policy_kwargs = {
            **self.policy_kwargs,
            "actor_learning_rate": self.actor_learning_rate,
        }
        super()._setup_model()
        self.followers = Followers(self.policy.target_pairs())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        actor = self.policy.actor_optimizer
        return [self.policy.optimizer, *([actor] if actor and not self.actor_learning_rate else [])]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        actor = ["policy.actor_optimizer"] if self.policy.actor_optimizer else []
        return ["policy", "policy.optimizer", *actor], []

    # -- the task ----------------------------------------------------------------------------------

    def set_task(self, rewards: ArrayLike, observations: NDArray[Any]) -> None:
        """Play for rewards from now on.

        Args:
            rewards: [N], each for being in the state that one of the observations shows.
            observations: [N, ...], whence ever: those of the data, for instance.

        Raises:
            ValueError: there are not as many of both, a reward is not finite, all are 0, or cancel.
        """
        paid = np.asarray(rewards, dtype=np.float32)
        if paid.shape != np.shape(observations)[:1] or not np.isfinite(paid).all():
            raise ValueError(
                f"rewards of shape {paid.shape} must be finite numbers, one for each of the "
                f"observations, of shape {np.shape(observations)}"
            )
        self._set_task(self.read(observations), paid, own=True)

    def set_task_of(self, dataset: OfflineDataset) -> None:
        """Play for the rewards of a data set from now on, each for the observation after it.

        Raises:
            ValueError: as in `set_task`, or there are no rewards or no next observations.
        """
        self._check_spaces(dataset)
        check_columns(dataset, ("rewards", "next_observations"))
        self._task_from(dataset, own=True)

    def set_goal(self, observation: Any) -> None:
        """Go to the state that an observation shows, from now on."""
        with torch.no_grad():
            represented = self.policy.backward_map(self.read(np.asarray(observation)[None]))
        self.policy.set_task(on_sphere(represented[0]), own=True)

    def _task_from(self, dataset: OfflineDataset, own: bool) -> None:
        count = min(len(dataset), self.inference_states)
        rows = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
        assert dataset.rewards is not None
        self._set_task(self.read_rows(dataset, rows), dataset.rewards[rows], own)

    @torch.no_grad()
    def _set_task(self, seen: torch.Tensor, rewards: NDArray[Any], own: bool) -> None:
        paid = torch.as_tensor(rewards, dtype=torch.float32, device=self.device)
        self.policy.set_task(inferred_task(self.policy.backward_map(seen), paid), own)

    def read(self, observations: NDArray[Any]) -> torch.Tensor:
        """What the maps take for observations [N, ...] of which nothing else is known."""
        return self.policy.seen(self.policy.obs_to_tensor(observations)[0])

    def read_rows(self, dataset: OfflineDataset, rows: NDArray[np.int64]) -> torch.Tensor:
        """What the maps take for the next observations of some rows [N] of data."""
        assert dataset.next_observations is not None
        return self.read(dataset.next_observations[rows])

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's."""
        super().set_env(env, force_reset)
        self._task_is_fresh = False

    def finish(self) -> None:
        """Find the task of the data, where no other was set."""
        self._task_is_fresh = False
        self._refresh_task()

    def _refresh_task(self) -> None:
        data = self.dataset
        if self._task_is_fresh or data is None or data.rewards is None or self.policy.own_task:
            return
        if data.rewards.any():
            self._task_from(data, own=False)
        self._task_is_fresh = True

    def predict(self, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], Any]:
        """As SB3's, for the task that was set.

        Raises:
            ValueError: none was set, and the data have no rewards.
        """
        self._refresh_task()
        return super().predict(*args, **kwargs)

    # -- learning ----------------------------------------------------------------------------------

    def draw(self) -> Batch:
        """A minibatch, with observations as the maps take them, and flat actions."""
        batch = super().draw()
        for name in ("observations", "next_observations"):
            batch[name] = self.policy.features(batch[name])
        if self.policy.squash_output:
            batch["actions"] = batch["actions"].flatten(1)
        return batch

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of the maps, of the actor, and of the slow copies."""
        self._task_is_fresh = False
        with torch.no_grad():
            tasks = self.tasks(batch)
        self.update_representation(batch, tasks)
        self.update_actor(batch, tasks)
        self.update_targets()
        return {}

    def tasks(self, batch: Batch) -> torch.Tensor:
        """z to learn with, [B, d]; called without gradients."""
        count, device = len(batch["actions"]), self.device
        uniform = on_sphere(torch.randn(count, len(self.policy.task), device=device))
        shuffled = batch["observations"][torch.randperm(count, device=device)]
        chosen = torch.rand(count, 1, device=device) < self.state_share
        return torch.where(chosen, on_sphere(self.policy.backward_map(shuffled)), uniform)

    def update_representation(self, batch: Batch, tasks: torch.Tensor) -> None:
        """A step of F and B."""
        forward = self.policy.maps.at(batch["observations"], batch["actions"], tasks)
        backward = self.policy.backward_map(batch["next_observations"])
        loss = self.representation_loss(batch, tasks, forward, backward)
        self.note(loss=loss, data_value=values(forward, tasks).mean())
        clamped_step(self.policy.optimizer, loss)

    def representation_loss(
        self, batch: Batch, tasks: torch.Tensor, forward: torch.Tensor, backward: torch.Tensor
    ) -> torch.Tensor:
        """L_FB + L_orth, a scalar.

        Args:
            batch, tasks: the minibatch, and z [B, d].
            forward: F of the recorded actions, [2, B, d].
            backward: B(s'), [B, d].
        """
        with torch.no_grad():
            targets = self.measure_targets(batch, tasks)
        gamma: float | torch.Tensor = self.gamma
        if "terminations" in batch:
            gamma = self.gamma * (1 - batch["terminations"][:, None])
        loss = forward_backward_loss(forward, backward, targets, gamma)
        return loss + orthonormality_loss(backward)

    def measure_targets(self, batch: Batch, tasks: torch.Tensor) -> torch.Tensor:
        """M', [B, B]; called without gradients."""
        following, noise = batch["next_observations"], (self.policy_noise, self.policy_noise_clip)
        forward = self.policy.maps.beyond(following, tasks, *noise)
        return (forward @ self.policy.backward_target(following).T).amin(0)

    def update_actor(self, batch: Batch, tasks: torch.Tensor) -> None:
        """A step of the actor; discrete actions have none."""
        if self.policy.actor_optimizer is None:
            return
        actions = self.policy.maps.choose(batch["observations"], tasks)
        forward = self.policy.maps.at(batch["observations"], actions, tasks)
        loss = -values(forward, tasks).amin(0).mean()
        self.note(actor_loss=loss)
        clamped_step(self.policy.actor_optimizer, loss)

    def update_targets(self) -> None:
        """The slow copies follow by `tau`."""
        self.followers.move(self.tau)


def clamped_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of an optimizer, every entry of whose gradient is brought to [-1, 1]."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    torch.nn.utils.clip_grad_value_(parameters, 1.0)
    optimizer.step()
