"""YAY Robot: learn from corrections that somebody says while the robot works.

Lucy Xiaoyang Shi, Zheyuan Hu, Tony Zhao et al.: Yell At Your Robot: Improving On-the-Fly from
Language Corrections (RSS 2024, arXiv 2403.12910).

A high level chooses short commands in words, a low level carries them out. Both imitate recordings
(`yay_robot_data.py`); the high level maximises the likelihood of the recorded commands under

    logit_j = cos(z(o_{t-h skip}, ..., o_{t-skip}, o_t), e_j) / max(tau, 1e-8)

with embeddings e_j of the candidates (`yay_robot_policies.py`). At run time a person may speak: the
command is obeyed at once (`yay_robot_loop.py`), as the low level knows many, and is stored.
Afterwards only the high level learns on, from batches of which a share comes from the newest
corrections, and commands itself what it was told; and again. It is DAgger, in words and above a
frozen low level.

The low level is the environment's part here: an action is a command, and `chunk_loss` is what the
paper trains its low level (ACT) with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional

from ...envs.checks import check_integer, check_share
from ...envs.tabular.item_packing import ItemPacking
from ...wrappers.sb3 import make_sb3
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.offline import OfflineAlgorithm
from ..base.offline_data import OfflineDataset
from ..base.stages import gradient_step
from .yay_robot_data import NarratedDataset, first_steps, history_steps
from .yay_robot_loop import Deployment, Indices, User, play
from .yay_robot_packing import PackingUser, clean_picks, demonstrations
from .yay_robot_policies import CommandPolicy, CommandTransformer

# -- the paper's computation ----------------------------------------------------------------------


def chunk_loss(
    predicted: torch.Tensor,
    actions: torch.Tensor,
    padded: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    beta: float = 80.0,
) -> torch.Tensor:
    """mean |predicted - a| + beta KL(N(mean, exp(log_variance)) || N(0, 1)), of the low level.

    Args:
        predicted, actions: chunks of T actions [B, T, A].
        padded: steps beyond the end of a recording, bool [B, T]; they cost nothing, and count in
            the mean.
        mean, log_variance: of the latent, [B, L]; the divergence is summed over it.
        beta: weight of the divergence.
    """
    distances = (predicted - actions).abs() * ~padded[..., None]
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
    return distances.mean() + beta * divergence.mean()


def batch_parts(batch_size: int, share: float, newest: int) -> tuple[int, int]:
    """How many samples of a batch are of the newest corrections, floor(share x batch_size), and how
    many of all else; none of the former where there are no such corrections."""
    # The tolerance is for shares like 0.29, of which 100 is a little less than 29.
    chosen = int(share * batch_size + 1e-9) if newest else 0
    return chosen, batch_size - chosen


class YAYRobot(OfflineAlgorithm):
    """A high level that imitates, is corrected by a person, and learns from it.

    `learn` takes gradient steps on the data, and on the corrections that there are:

        agent = YAYRobot("MlpPolicy", dataset).learn(300)
        agent.collect(user, episodes=15)                      # deploy it, and store corrections
        agent.learn(300, reset_num_timesteps=False)           # post-training; and again

    A policy chooses among the commands that it has seen in data or corrections. A person may say
    any: one that is new is carried out, and is a candidate from the next `learn` on. Corrections
    are in the agent's checkpoints, recorded data are not.

    Args:
        policy: "MlpPolicy" (`CommandPolicy`) or "TransformerPolicy" (`CommandTransformer`).
        env: an `OfflineDataset` whose actions are commands (or a `NarratedDataset`), with an
            environment to deploy in; or only that environment.
        commands: names of the actions; None: "command 0", ...
        history: frames of the past that a decision sees (the paper: 3).
        skip: steps between two frames (the paper: 50, at 50 per second).
        correction_share: rho, share of a batch that is drawn from the newest corrections.
        correction_steps: decisions that a correction lasts; None: until the next one.
        learning_rate: the paper's is 1e-4.
        policy_kwargs: of the policy; `embeddings`, for one.
        batch_size, seed, device, verbose, tensorboard_log: as in `OfflineAlgorithm`.

    Raises:
        ValueError: an argument is out of range, or actions are not `Discrete`.
    """

    paper = Paper(
        slug="yay_robot",
        title="Yell At Your Robot: Improving On-the-Fly from Language Corrections",
        authors="Lucy Xiaoyang Shi, Zheyuan Hu, Tony Zhao et al.",
        year=2024,
        arxiv="2403.12910",
        code="github.com/yay-robot/yay_robot",
    )
    example = Example(
        "ItemPacking-v0", kwargs={"batch_size": 32, "history": 1}, steps=40, data=clean_picks
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": CommandPolicy,
        "TransformerPolicy": CommandTransformer,
    }
    policy: CommandPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        commands: Sequence[str] | None = None,
        history: int = 3,
        skip: int = 1,
        correction_share: float = 0.1,
        correction_steps: int | None = 1,
        learning_rate: float | Schedule = 1e-3,
        **common: Any,
    ) -> None:
        self.commands, self.history, self.skip = commands, history, skip
        self.correction_share = check_share("correction_share", correction_share)
        if correction_steps is not None:
            check_integer("correction_steps", correction_steps, 1)
        self.correction_steps = correction_steps
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def _setup_model(self) -> None:
        own = {"commands": self.commands, "history": self.history, "skip": self.skip}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()
        self.frames: torch.Tensor | None = None  # of all corrections, [M, history + 1, ...]
        self.corrections = torch.zeros(0, dtype=torch.int64)
        self.newest = torch.zeros(0, dtype=torch.bool)
        if self.dataset is not None:
            self.policy.candidates.fill_(False)
            self._add_candidates()

    def _add_candidates(self) -> None:
        self.policy.candidates[self.corrections] = True
        if self.dataset is not None:
            imitated = self.dataset.actions[learned_rows(self.dataset)]
            self.policy.candidates[torch.from_numpy(np.unique(imitated))] = True

    # -- deployment --------------------------------------------------------------------------------

    def deploy(
        self, episodes: int, user: User | None = None, env: VecEnv | None = None
    ) -> Deployment:
        """Play at least so many episodes, equally many in each environment.

        Args:
            episodes: at least 1.
            user: who watches and may speak at every decision; None: nobody.
            env: where; None: in the agent's.

        Raises:
            ValueError: there is no environment, or `user` says what is no command.
        """
        check_integer("episodes", episodes, 1)
        env = self.env if env is None else env
        if env is None:
            raise ValueError("there is no environment to deploy in: give one to set_env")
        rounds = [
            play(self.policy, env, user, self.correction_steps)
            for _ in range(-(-episodes // env.num_envs))
        ]
        returns, frames, commands = zip(*rounds, strict=True)
        return Deployment(np.concatenate(returns), torch.cat(frames), torch.cat(commands))

    def collect(self, user: User, episodes: int, env: VecEnv | None = None) -> Deployment:
        """`deploy`, and keep the corrections as the newest; those before are earlier ones now."""
        found = self.deploy(episodes, user, env)
        self.newest = torch.cat(
            [torch.zeros_like(self.newest), torch.ones(len(found.commands), dtype=torch.bool)]
        )
        parts = ([] if self.frames is None else [self.frames]) + [found.frames]
        self.frames = torch.cat(parts)
        self.corrections = torch.cat([self.corrections, found.commands])
        return found

    # -- learning ----------------------------------------------------------------------------------

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's.

        Raises:
            ValueError: there are no data; or frames of the past are needed, and the data do not say
                where episodes end.
        """
        result = super()._setup_learn(*args, **kwargs)
        assert self.dataset is not None
        self._rows = learned_rows(self.dataset)
        every = np.arange(len(self.dataset))
        self._first = first_steps(self.dataset) if self.history else every
        return result

    def begin(self) -> None:
        """New commands become candidates."""
        super().begin()
        self._add_candidates()

    def update(self) -> dict[str, float]:
        """One gradient step on a mixed batch."""
        self.policy.set_training_mode(True)
        metrics = self.learn_from(self.draw())
        self.num_timesteps += 1
        return metrics

    def draw(self) -> dict[str, torch.Tensor]:
        """A batch: frames [batch_size, history + 1, ...] and actions [batch_size]."""
        flags = self.newest.numpy()
        newest, earlier = np.flatnonzero(flags), np.flatnonzero(~flags)
        chosen, rest = batch_parts(self.batch_size, self.correction_share, len(newest))
        rows = newest[self.generator.integers(len(newest), size=chosen)] if chosen else newest[:0]
        drawn = self.generator.integers(len(self._rows) + len(earlier), size=rest)
        recorded = self._rows[drawn[drawn < len(self._rows)]]
        rows = np.concatenate([rows, earlier[drawn[drawn >= len(self._rows)] - len(self._rows)]])
        assert self.dataset is not None
        steps = history_steps(recorded, self.history, self.skip, self._first[recorded])
        frames = self._tensor("observations", self.dataset.observations[steps.ravel()])
        frames = frames.unflatten(0, steps.shape)
        commands = torch.from_numpy(self.dataset.actions[recorded].astype(np.int64))
        if len(rows):
            assert self.frames is not None
            frames = torch.cat([frames, self.frames[rows].to(self.device)])
            commands = torch.cat([commands, self.corrections[rows]])
        return {"frames": frames, "actions": commands.to(self.device)}

    def learn_from(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One step towards the commands of a batch that `draw` gives."""
        logits = self.policy(batch["frames"])
        loss = functional.cross_entropy(logits, batch["actions"])
        self._update_learning_rate(self.policy.optimizer)
        gradient_step(self.policy.optimizer, loss)
        right = (logits.argmax(dim=-1) == batch["actions"]).float().mean()
        return {
            "train/loss": loss.item(),
            "train/accuracy": right.item(),
            "train/temperature": self.policy.temperature.item(),
        }

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The corrections."""
        if self.frames is None:
            return {}, {}
        return {}, {"frames": self.frames, "commands": self.corrections, "newest": self.newest}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        if tensors:
            self.frames, self.corrections = tensors["frames"], tensors["commands"]
            self.newest = tensors["newest"]


def learned_rows(dataset: OfflineDataset) -> Indices:
    """Rows of a data set to imitate: all, or those that a `NarratedDataset` names."""
    learned = dataset.learned if isinstance(dataset, NarratedDataset) else None
    rows = np.arange(len(dataset)) if learned is None else np.flatnonzero(learned)
    if not len(rows):
        raise ValueError("the data hold nothing to imitate: every command was corrected")
    return rows


# -- the claim in miniature -----------------------------------------------------------------------

DEMONSTRATIONS, STEPS, ROUNDS, EPISODES, TESTS, ATTENTION = 60, 300, 2, 15, 400, 0.8
SETTING: dict[str, Any] = {
    "commands": ItemPacking().commands,
    "history": 0,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "policy_kwargs": {"net_arch": []},
    "device": "cpu",
}


def based(seed: int, scale: float) -> YAYRobot:
    """The hierarchy that has imitated demonstrations; its environment is the one to deploy in."""
    env = make_sb3("ItemPacking-v0", num_envs=EPISODES, seed=first_seed(seed) + 400_000)
    data = demonstrations(DEMONSTRATIONS, first_seed(seed), env)
    return YAYRobot("MlpPolicy", data, seed=seed, **SETTING).learn(max(int(STEPS * scale), 1))


def first_seed(seed: int) -> int:
    """Of the environments of a run; no agent's generator has one like it."""
    return 1_000_000 * (seed + 1)


def success(agent: YAYRobot, seed: int, user: User | None = None) -> float:
    """Share of the test episodes in which all items are packed."""
    env = make_sb3("ItemPacking-v0", num_envs=TESTS, seed=first_seed(seed) + 500_000)
    return float(agent.deploy(TESTS, user, env).returns.mean())


def base_arm(seed: int, scale: float) -> Outcome:
    """Imitation alone."""
    return Outcome({"success": success(based(seed, scale), seed)})


def live_arm(seed: int, scale: float) -> Outcome:
    """Imitation, and a person who corrects during the test."""
    user = PackingUser(ATTENTION, first_seed(seed) + 1)
    return Outcome({"success": success(based(seed, scale), seed, user)})


def fine_tuned_arm(seed: int, scale: float) -> Outcome:
    """Post-training on corrections, two rounds; the test is without a person."""
    agent, user = based(seed, scale), PackingUser(ATTENTION, first_seed(seed))
    before, corrections = success(agent, seed), 0
    for _ in range(ROUNDS):
        corrections += len(agent.collect(user, EPISODES).commands)
        agent.learn(max(int(STEPS * scale), 1), reset_num_timesteps=False)
    after = success(agent, seed)
    gained = float(after - before >= 0.2)
    return Outcome({"success": after, "20 points above base": gained, "corrections": corrections})


def control_arm(seed: int, scale: float) -> Outcome:
    """As many gradient steps without corrections."""
    agent = based(seed, scale)
    agent.learn(ROUNDS * max(int(STEPS * scale), 1), reset_num_timesteps=False)
    return Outcome({"success": success(agent, seed)})


YAYRobot.claim = Claim(
    text="A high level that packs three items as 60 demonstrations do, in which nothing ever gets "
    "stuck, packs more once it is fine-tuned on the corrections of 30 episodes: at least 20 points "
    "more in every seed, and more than after as many gradient steps without corrections. A person "
    "who corrects four of five wrong commands during the test helps, too.",
    arms={
        "base": base_arm,
        "live corrections": live_arm,
        "fine-tuned": fine_tuned_arm,
        "control": control_arm,
    },
    criteria=(
        Exact("20 points above base", "fine-tuned", 1.0, 0.0),
        Superior("success", "fine-tuned", "base"),
        Superior("success", "fine-tuned", "control"),
        Superior("success", "live corrections", "base"),
    ),
    seeds=8,
    core_minutes=1.0,
    modules=(
        "agents.control.yay_robot_data",
        "agents.control.yay_robot_loop",
        "agents.control.yay_robot_packing",
        "agents.control.yay_robot_policies",
        "envs.tabular.item_packing",
    ),
)
