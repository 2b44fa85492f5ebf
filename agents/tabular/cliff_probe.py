"""What becomes of a language model that is paid a little for a style of answer.

Where right answers tie whatever their style, the rewards do not say which style to learn, and a
bonus of any size does: the cliff of `policy_cliff.py`, on which a trained model can be watched.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from stable_baselines3.common.callbacks import BaseCallback

from ..base.action_values import TIES
from ..base.group import GroupAlgorithm, Rollouts


def tied_reward_share(rewards: ArrayLike, groups: ArrayLike, styles: ArrayLike) -> float:
    """Share of all reward that goes to replies which are the best of their group, while another
    style is so, too; 0 where nothing is paid.

    Args:
        rewards, groups, styles: of replies, at least 0, and integers, [N].
    """
    rewards, groups, styles = (np.asarray(each) for each in (rewards, groups, styles))
    tied = 0.0
    for group in np.unique(groups):
        own = rewards[groups == group]
        best = own >= own.max() - TIES
        if len(np.unique(styles[groups == group][best])) > 1:
            tied += float(own[best].sum())
    total = float(rewards.sum())
    return tied / total if total else 0.0


class CliffProbe(BaseCallback):
    """Pays a language model a little for a style of its replies, and looks at what becomes of it.

    While a `GroupAlgorithm` learns, replies of one style get the bonus on top of their reward. On a
    fixed set of training prompts, before the first update, every so many updates and after the
    last, it logs

    - `cliff/style_K`: share of the replies of style K, for every style,
    - `cliff/reward`: mean reward without the bonus, and `cliff/tied`: `tied_reward_share` of it,
    - `cliff/entropy`: nats per token.

    It draws from a generator of its own: without a bonus, learning is what it would be without it.

    Args:
        every: updates between two looks.
        bonus: of the style, of any sign.
        style: which one; an environment says it in its verdict.
        styles: how many there are, numbered from 0.
        key: entry of the verdict.
        prompts, replies: of a look: the first so many tasks of the pool, and replies to each.
        seed: of the replies.

    Attributes:
        found: what was logged, with "timesteps", one entry for each look.
    """

    model: GroupAlgorithm

    def __init__(
        self,
        every: int = 10,
        bonus: float = 0.0,
        *,
        style: int = 0,
        styles: int = 2,
        key: str = "style",
        prompts: int = 16,
        replies: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(every, styles, prompts, replies) < 1 or not 0 <= style < styles:
            raise ValueError(
                f"every={every}, styles={styles}, prompts={prompts} and replies={replies} are at "
                f"least 1, and style={style} is one of the styles"
            )
        self.every, self.bonus, self.style, self.styles, self.key = every, bonus, style, styles, key
        self.prompts, self.replies, self.seed = prompts, replies, seed
        self.found: list[dict[str, float]] = []

    def _on_training_start(self) -> None:
        if not isinstance(self.model, GroupAlgorithm):
            raise ValueError(
                f"CliffProbe watches a GroupAlgorithm, got {type(self.model).__name__}"
            )
        reward = type(self.model).reward

        def with_bonus(rollouts: Rollouts) -> torch.Tensor:
            styled = self.model.tensor([v[self.key] == self.style for v in rollouts.verdicts])
            return reward(self.model, rollouts) + self.bonus * styled

        self.look()
        self.model.reward = with_bonus  # type: ignore[method-assign]

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            self.look()
        return True

    def _on_training_end(self) -> None:
        del self.model.reward  # the class's own again
        if self.found[-1]["timesteps"] != self.model.num_timesteps:
            self.look()

    def look(self) -> None:
        """Ask the prompts, and log what comes."""
        env, policy = self.model.tasks, self.model.policy
        tasks = self.model.tasks_of(range(min(self.prompts, env.pool_size)))
        written = policy.generate(
            [task.prompt for task in tasks],
            self.replies,
            temperature=self.model.temperature,
            generator=torch.Generator(policy.device).manual_seed(self.seed),
        )
        groups = np.arange(len(tasks)).repeat(self.replies)
        asked = [tasks[group] for group in groups]
        verdicts = list(map(env.verify, asked, written.texts))
        if self.key not in verdicts[0]:
            raise ValueError(f"{env} says no {self.key!r} of a reply, but {sorted(verdicts[0])}")
        styles = np.array([verdict[self.key] for verdict in verdicts])
        rewards = np.array(list(map(env.score, verdicts)))
        batch = written.batch()
        with torch.no_grad():
            entropies = policy.entropy(batch, self.model.temperature)
        found = {f"style_{style}": float((styles == style).mean()) for style in range(self.styles)}
        found["tied"] = tied_reward_share(rewards, groups, styles)
        found["reward"] = float(rewards.mean())
        found["entropy"] = float(entropies.sum() / batch.mask.sum())
        for name, value in found.items():
            self.logger.record(f"cliff/{name}", value)
        self.found.append({"timesteps": float(self.model.num_timesteps), **found})
