"""Best of n: sample several replies and keep the one that scores best.

R. Nakano et al.: WebGPT: Browser-assisted question-answering with human feedback (arXiv
2112.09332), and the yardstick of most work on rewards since. No parameter changes; all is paid for
when replying:

    y = argmax_i score(x, y_i),  y_1 .. y_n ~ pi(. | x)           of equal scores the first

How far that goes from pi is known without a run: KL <= log n - (n - 1) / n (`best_of_n_kl`). What
n' <= n replies would have given follows from one sample of n without bias (`expected_best_of_n`,
`pass_at_k`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch

from ..base.declare import Example
from ..base.text.attempts import attempt, check_scores
from ..base.text.generation import answered
from ..base.text.measures import expected_best_of_n, pass_at_k
from ..base.text_algorithm import TextAlgorithm
from .baselines import SMALL

# Prompts and replies, N each -> N numbers.
Scorer = Callable[[Sequence[str], Sequence[str]], Any]


class BestOfN(TextAlgorithm):
    """A language model that replies n times, and a scorer that chooses.

    There is nothing to learn after the warm start of the embedded model: `learn` replies to
    training tasks, so that callbacks and curves work as for the others. A timestep is a reply that
    was sampled. To choose among the replies of another agent's policy, load its parameters
    (`agent.policy.load_state_dict`).

    Args:
        n: replies of which one is kept.
        scorer: scores replies to prompts, such as `BradleyTerry.scores`. It is no part of a
            checkpoint: give it to `load` again. None: the environment's own score; `predict` then
            looks up the task of the attached environment, and replies to its prompt only.
        prompts: tasks of an update.
        temperature: of the n replies.
        demonstrations, imitate_until, ...: as in `TextAlgorithm`.

    Logged: `rollout/best_of_K`, what the environment pays for the best of K replies by the scorer,
    and `rollout/pass_at_K`, how often one of them is right; K = 1, 2, 4 ... and n.
    """

    example = Example(
        "Arithmetic-v0",
        {"digits": 1},
        "TextPolicy",
        {
            **{name: SMALL[name] for name in ("demonstrations", "imitate_until", "policy_kwargs")},
            **{"n": 4, "prompts": 2},
        },
        steps=96,
    )
    oracle = True

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        n: int = 8,
        scorer: Scorer | None = None,
        prompts: int = 16,
        **common: Any,
    ) -> None:
        if n < 1 or prompts < 1:
            raise ValueError(f"n and prompts are at least 1, got n={n}, prompts={prompts}")
        self.n, self.scorer, self.prompts = n, scorer, prompts
        super().__init__(policy, env, **common)

    def arguments(self) -> dict[str, Any]:
        """As the base's, without the scorer."""
        return {name: value for name, value in super().arguments().items() if name != "scorer"}

    # -- replying ----------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, None]:
        """The best reply to one prompt (a text), or to several (see `TextPolicy.predict`).

        Args:
            observation: a text, or a list, tuple or array of texts.
            state, episode_start: not used; SB3's signature.
            deterministic: the n replies to a prompt are the same at every call.

        Raises:
            ValueError: `observation` is not text; or there is no scorer, and it is not what the
                attached environment shows.
        """
        return answered(observation, lambda prompts: self.best(prompts, deterministic)), None

    def best(self, prompts: Sequence[str], deterministic: bool = False) -> list[str]:
        """The best of n replies to each prompt; see `predict`."""
        if deterministic:
            # What else is asked must not matter.
            texts = [
                text
                for prompt in prompts
                for text in self.policy.generate(
                    prompt, self.n, temperature=self.temperature, generator=self.draws_of(prompt)
                ).texts
            ]
        else:
            texts = self.policy.generate(prompts, self.n, temperature=self.temperature).texts
        replies = [texts[row : row + self.n] for row in range(0, len(texts), self.n)]
        chosen = self.rate(prompts, replies).argmax(dim=1)
        return [own[i] for own, i in zip(replies, chosen.tolist(), strict=True)]

    def draws_of(self, prompt: str) -> torch.Generator:
        """The generator of deterministic replies to a prompt, which depends on nothing else."""
        seed = crc32(prompt.encode(errors="surrogatepass"))
        return torch.Generator(self.policy.device).manual_seed(seed)

    def rate(self, prompts: Sequence[str], replies: Sequence[Sequence[str]]) -> torch.Tensor:
        """Scores float64 [B, n] of n replies to each of B prompts.

        Raises:
            ValueError: a score is not finite, or there are too few or many; or there is no scorer,
                and a prompt is not what the attached environment shows.
        """
        if self.scorer is None:
            env = self.tasks
            task = env.current
            if task is None or any(prompt != task.prompt for prompt in prompts):
                raise ValueError(
                    f"the attached environment shows {task and task.prompt!r} and not "
                    f"{list(prompts)}: without a scorer only its own prompt can be replied to"
                )
            rows = [[env.score(env.verify(task, reply)) for reply in own] for own in replies]
        else:
            asked = [prompt for prompt, own in zip(prompts, replies, strict=True) for _ in own]
            found = np.asarray(self.scorer(asked, [reply for own in replies for reply in own]))
            if found.shape != (len(asked),):
                raise ValueError(
                    f"the scorer must give {len(asked)} numbers, got an array {list(found.shape)}"
                )
            rows = found.reshape(len(prompts), -1).tolist()
        scores = torch.tensor(rows, dtype=torch.float64)
        check_scores(scores, prompts, replies)
        return scores

    # -- the loop ----------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """n replies to each of some training tasks."""
        ids = self.tasks.draw_pool(self.prompts, self.generator)
        given = attempt(self.tasks, self.policy, ids, self.n, self.temperature)
        scores = given.scores
        if self.scorer is not None:
            scores = self.rate([task.prompt for task in given.tasks], given.replies)
        self.num_timesteps += scores.numel()
        found = {}
        for k in sorted({2**power for power in range(self.n.bit_length())} | {self.n}):
            found[f"rollout/best_of_{k}"] = expected_best_of_n(scores, k, given.scores)
            found[f"rollout/pass_at_{k}"] = pass_at_k(given.correct, k)
        return {name: float(values.mean()) for name, values in found.items()}

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, and whether there was a scorer."""
        values, tensors = super().extra_state()
        return values | {"scored": self.scorer is not None}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`.

        Raises:
            ValueError: there was a scorer, and there is none now.
        """
        super().restore_extra_state(values, tensors)
        if values["scored"] and self.scorer is None:
            raise ValueError("it chose by a scorer, which no file can hold: give scorer= again")
