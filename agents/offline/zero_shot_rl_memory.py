"""FB-M: forward-backward representations of what was observed so far, for states seen in part.

S. Jeen, T. Bewley, J. M. Cullen: Zero-Shot Reinforcement Learning Under Partial Observability (RLC
2025, arXiv 2506.15446), the second constraint of the thesis On Zero-Shot Reinforcement Learning
(arXiv 2508.16496); code: https://github.com/enjeeneer/bfms-with-memory.

Where an observation does not tell the state, F, B and the actor each read the last L steps instead,
by a GRU of their own over (observation, previous action), and take its last hidden state for s:

    h_t = GRU((o_{t-L+1}, a_{t-L}), .., (o_t, a_{t-1}))        a_{-1} = 0 where an episode begins

The losses are those of `base_forward_backward.py`; what differs is `draw`, which cuts such
histories out of the recorded episodes, and `predict`, which keeps one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs
from torch import nn
from torch.nn import functional

from ...envs.checks import check_integer
from ..base.declare import Example
from ..base.offline_actor_critic import Batch
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import OfflineTensors
from .base_forward_backward import FB, random_play
from .base_forward_backward_networks import ForwardBackwardPolicy


class Memory(nn.Module):
    """The last hidden state of a GRU over histories.

    Args:
        inputs: F + A, numbers of an observation and an action.
        hidden: H.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True)

    def forward(self, histories: torch.Tensor) -> torch.Tensor:
        """[B, H] of histories [B, L, F + A + 1].

        The last number of a step is 1, those that stand behind a history's last step are all 0.
        """
        hidden, _ = self.gru(histories[..., :-1])
        last = histories[..., -1].sum(1).long() - 1
        found: torch.Tensor = hidden[torch.arange(len(last), device=last.device), last]
        return found


class MemoryPolicy(ForwardBackwardPolicy):
    """A `ForwardBackwardPolicy` that remembers.

    Args:
        observation_space, action_space, lr_schedule, sizes: as there.
        history: L, steps that are remembered.
        memory: width of the GRUs.
    """

    def __init__(self, *spaces: Any, history: int = 32, memory: int = 512, **sizes: Any) -> None:
        super().__init__(*spaces, memory=check_integer("memory", memory, 1), **sizes)
        self.history = history

    def make_encoder(self, memory: int = 512) -> tuple[nn.Module, int]:
        """A GRU."""
        return Memory(self.inputs + self.action_width, memory), memory

    @property
    def step_width(self) -> int:
        """Numbers of one step of a history."""
        return self.inputs + self.action_width + 1

    def encoded(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions as the maps have them, [...] or [..., a], as rows of numbers [..., A]."""
        if self.squash_output:
            return actions
        return functional.one_hot(actions, self.action_width).float()

    def seen(self, observations: PyTorchObs) -> torch.Tensor:
        """Histories [B, 1, F + A + 1] of episodes that begin with observations [B, ...]."""
        features = self.features(observations)
        return functional.pad(features, (0, self.action_width + 1)).index_fill(
            1, torch.tensor([self.step_width - 1], device=features.device), 1.0
        )[:, None]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """As SB3's policies that remember.

        Args:
            observation: one, or n of them.
            state: what the last call gave back; None: n episodes begin.
            episode_start: bool [n], which episodes begin; None: none, if there is a state.
            deterministic: nothing is random in any case.

        Returns:
            Actions, and the state: histories [n, L, F + A + 1] and the actions just chosen, [n, A].

        Raises:
            ValueError: the state belongs to another number of observations, or there is no task.
        """
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        features = self.features(observations).cpu().numpy()
        count, size = len(features), self.action_width
        if state is None:
            steps = np.zeros((count, self.history, self.step_width), np.float32)
            before = np.zeros((count, size), np.float32)
        else:
            steps, before = (np.array(part) for part in state)
        started = np.zeros(count, bool) if episode_start is None else np.asarray(episode_start)
        started = started.reshape(-1).astype(bool)
        if not count == len(steps) == len(started):
            raise ValueError(
                f"{count} observations, but a state of {len(steps)} episodes and {len(started)} "
                "entries of episode_start"
            )
        steps[started], before[started] = 0, 0
        lengths = steps[..., -1].sum(1).astype(np.int64)
        full = np.flatnonzero(lengths == self.history)
        steps[full, :-1] = steps[full, 1:]
        lengths[full] -= 1
        now = np.concatenate([features, before, np.ones((count, 1), np.float32)], axis=1)
        steps[np.arange(count), lengths] = now
        with torch.no_grad():
            histories = torch.as_tensor(steps, device=self.device)
            chosen = self.maps.choose(histories, self.tasks(count))
            before = self.encoded(chosen).cpu().numpy()
        actions = chosen.cpu().numpy().reshape(-1, *(self.action_space.shape or ()))
        if self.squash_output:
            actions = self.unscale_action(actions)
        return (actions if batched else actions[0]), (steps, before)


class FBM(FB):
    """Forward-backward representations with memory.

    `predict` gives back a state, to be handed to the next call. An observation that is given to
    `set_task` or `set_goal` counts as the first of an episode; `set_task_of` reads histories.

    Args:
        policy: "MlpPolicy", see `MemoryPolicy`.
        env: an `OfflineDataset` as for `FB`, whose episodes are known, by terminations or
            truncations.
        history: L, steps that are remembered, at least 1.
        common: as in `FB`.

    Raises:
        ValueError: as in `FB`, or no episodes are known.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": MemoryPolicy}
    example = Example(
        "PointMaze-v0",
        {"layout": "open", "dynamics": "force", "mask_velocity": True, "horizon": 10},
        kwargs={
            **FB.example.kwargs,
            "history": 4,
            "policy_kwargs": {**FB.example.kwargs["policy_kwargs"], "memory": 8},
        },
        steps=40,
        data=random_play,
    )
    policy: MemoryPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        history: int = 32,
        **common: Any,
    ) -> None:
        self.history = check_integer("history", history, 1)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        self.policy_kwargs = {**self.policy_kwargs, "history": self.history}
        super()._setup_model()

    def check_data(self, dataset: OfflineDataset) -> None:
        """ValueError where the data lack something."""
        super().check_data(dataset)
        if dataset.terminations is None and dataset.truncations is None:
            raise ValueError(
                f"{type(self).__name__} needs to know where episodes end: the data have neither "
                "terminations nor truncations"
            )

    def draw(self) -> Batch:
        """A minibatch, whose observations are histories."""
        assert self.tensors is not None
        rows = self.generator.integers(len(self.tensors), size=self.batch_size)
        batch = self.tensors.batch(torch.from_numpy(rows))
        if self.policy.squash_output:
            batch["actions"] = batch["actions"].flatten(1)
        seen, following = self.histories(self.tensors, rows)
        return {**batch, "observations": seen, "next_observations": following}

    def read_rows(self, dataset: OfflineDataset, rows: NDArray[np.int64]) -> torch.Tensor:
        """Histories that end with the next observations of some rows [N] of data."""
        known = self.tensors is not None and self.tensors.dataset is dataset
        tensors = self.tensors if known and self.tensors else self.pack(dataset)
        return self.histories(tensors, rows)[1]

    def histories(
        self, tensors: OfflineTensors, rows: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories that end with the observations of some rows [N], and with the next ones.

        Returns:
            [N, L, F + A + 1] and [N, L + 1, F + A + 1]: the second are the first and one step more.
        """
        length, policy = self.history, self.policy
        episode = np.searchsorted(tensors.ends, rows, side="right")
        begins = np.concatenate([[0], tensors.ends[:-1]])[episode]
        first = np.maximum(begins, rows - length + 1)
        places = first[:, None] + np.arange(length)
        known = torch.from_numpy(places <= rows[:, None]).to(self.device)
        places = np.minimum(places, rows[:, None])
        inside = torch.from_numpy(places > begins[:, None]).to(self.device)
        observations = tensors.batch(torch.from_numpy(places.reshape(-1)))["observations"]
        before = tensors.batch(torch.from_numpy(np.maximum(places - 1, 0).reshape(-1)))["actions"]
        parts = [
            policy.features(observations).unflatten(0, places.shape),
            self._encoded(before).unflatten(0, places.shape) * inside[..., None],
            torch.ones(*places.shape, 1, device=self.device),
        ]
        seen = torch.cat(parts, -1) * known[..., None]
        last = tensors.batch(torch.from_numpy(rows))
        features = policy.features(last["next_observations"])
        parts = [features, self._encoded(last["actions"]), torch.ones_like(features[:, :1])]
        following = functional.pad(seen, (0, 0, 0, 1))
        ends = torch.from_numpy(rows - first + 1).to(self.device)
        following[torch.arange(len(rows), device=self.device), ends] = torch.cat(parts, -1)
        return seen, following

    def _encoded(self, actions: torch.Tensor) -> torch.Tensor:
        return self.policy.encoded(actions.flatten(1) if self.policy.squash_output else actions)
