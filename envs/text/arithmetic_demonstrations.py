"""Replies to `Arithmetic-v0` to learn from: terse or redundant, mended or wrong on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arithmetic_problems import ArithmeticTask, Problem, level_of, work_out
from .base import TASKS, Demonstration, altered_digit, check_integer, check_share, draw_until

if TYPE_CHECKING:
    from .arithmetic import Arithmetic

Share = float | Mapping[int, float]
HINTS = (0.25, 0.5, 0.75)
ATTEMPTS = 1000  # how often redundancy is drawn again for a reply that fits


class ArithmeticDemonstrations:
    """Writes demonstrations for one environment; `Arithmetic.demonstrations` says what the
    arguments mean."""

    def __init__(
        self,
        env: Arithmetic,
        skip: Share,
        redundancy: float,
        slip: float,
        noise: float,
        control_share: float,
        hint_share: Share,
        critique_share: float,
    ) -> None:
        self.env, self.notation = env, env.notation
        self.skip = self._by_level("skip", skip)
        self.hint_share = self._by_level("hint_share", hint_share)
        self.redundancy = check_share("redundancy", redundancy, 2.0)
        self.slip = check_share("slip", slip)
        self.noise = check_share("noise", noise)
        self.control_share = check_share("control_share", control_share)
        self.critique_share = check_share("critique_share", critique_share)
        if any(self.skip.values()) and not self.notation.free:
            raise ValueError(f"skip={skip!r} needs free=True: the working is required")
        if self.slip and self.notation.reply != "lines":
            raise ValueError(f"slip={slip!r} needs reply='lines', got {self.notation.reply!r}")
        for name, share in (("redundancy", self.redundancy), ("hint_share", hint_share)):
            if share and self.notation.reply == "plain":
                raise ValueError(f"{name}={share!r}: a plain reply has no working")

    def write(
        self,
        n: int,
        seed: int,
        ids: Sequence[int] | None,
        levels: Mapping[int, float] | None,
    ) -> list[Demonstration]:
        """`n` demonstrations; see `Arithmetic.demonstrations`."""
        rng = np.random.default_rng(seed)
        chosen = self._choose_ids(check_integer("n", n, 0, 10**9), rng, ids, levels)
        return [self._demonstration(index, rng) for index in chosen]

    def _choose_ids(
        self,
        n: int,
        rng: np.random.Generator,
        ids: Sequence[int] | None,
        levels: Mapping[int, float] | None,
    ) -> list[int]:
        env, low = self.env, self.env.pool or 0
        if ids is not None:
            if len(ids) == 0:
                raise ValueError("ids is empty")
            return [int(index) for index in rng.choice(np.asarray(ids), size=n)]
        if low >= TASKS:
            raise ValueError(f"pool={low} leaves no training tasks outside it: name ids")
        if levels is None:
            return rng.integers(low, TASKS, size=n).tolist()
        wanted = {level: float(weight) for level, weight in levels.items()}
        if not wanted or not set(wanted) <= set(env.levels) or not min(wanted.values()) > 0:
            raise ValueError(f"levels={levels!r} must give levels of {env.levels} a weight above 0")
        weights = np.array(list(wanted.values()))
        drawn = rng.choice(list(wanted), size=n, p=weights / weights.sum())
        return [self._id_of_level(int(level), low, rng) for level in drawn]

    def _id_of_level(self, level: int, low: int, rng: np.random.Generator) -> int:
        env = self.env
        return draw_until(
            lambda: int(rng.integers(low, TASKS)),
            lambda index: level_of(index, env.levels, env.weights) == level,
            f"training task of level {level} outside the pool",
        )

    def _demonstration(self, index: int, rng: np.random.Generator) -> Demonstration:
        env = self.env
        plain = env.task(index, "train")
        control, hint, context = None, 0.0, ""
        if env.control and rng.random() < self.control_share:
            control = int(rng.integers(len(env.control)))
        if rng.random() < self.critique_share:
            context = self._critique(plain, rng)
        wrong = bool(rng.random() < self.noise)
        worked = self.notation.reply != "plain" and rng.random() >= self.skip[plain.level]
        if worked and rng.random() < self.hint_share[plain.level]:
            hint = float(rng.choice(HINTS))
        task = env.put(plain, control=control, hint=hint, context=context)
        for _ in range(ATTEMPTS):
            reply = self._reply(task.problem, worked, wrong, rng)
            given = "" if self.notation.verbose else task.hint
            length = len(reply) - len(given)
            # Only what goes on from the hint will do: a detour or an error comes after it.
            if reply.startswith(given) and length <= env.max_reply:
                return Demonstration(
                    index, task.prompt, reply[len(given) :], plain.level, not wrong
                )
        raise ValueError(
            f"no reply to {task.prompt!r} fits into max_reply={env.max_reply}; the last of "
            f"{ATTEMPTS} draws was {reply!r}"
        )

    def _reply(self, problem: Problem, worked: bool, wrong: bool, rng: np.random.Generator) -> str:
        notation = self.notation
        mark = str(rng.choice(list(notation.marks))) if notation.marks else ""
        if not worked:
            answer = altered_digit(problem.value, rng) if wrong else problem.value
            return notation.write("", "", str(answer), mark)
        steps, value = work_out(problem, notation.reply)
        if wrong:
            steps, value = self._off_by_one(problem, rng)
        written = [text for step in steps for text in self._with_detours(problem, step, rng)]
        return notation.write(notation.join(written), notation.join(steps), str(value), mark)

    def _with_detours(self, problem: Problem, step: str, rng: np.random.Generator) -> list[str]:
        texts = [step]
        if self.slip and rng.random() < self.slip:
            left, _, result = step.partition("=")
            texts = [f"{left}={_one_off(int(result), rng)}", f"~{step}"]
        for _ in range(rng.binomial(2, self.redundancy / 2)):
            aside = _aside(problem, rng) if len(problem.operands) > 2 and rng.random() < 0.5 else ""
            texts.append(aside or "=" + texts[-1].lstrip("=~"))
        return texts

    def _off_by_one(self, problem: Problem, rng: np.random.Generator) -> tuple[list[str], int]:
        """A working in which one step is off by one, so that the answer is wrong."""
        steps = len(work_out(problem, self.notation.reply)[0])
        errors = [(k, off) for k in range(steps) for off in (-1, 1)]
        for k in rng.permutation(len(errors)):
            try:
                found = work_out(problem, self.notation.reply, errors[k])
            except ValueError:  # a digit can be no lower than 0 and no higher than 9
                continue
            if found[1] != problem.value:  # a factor 0 can make up for an error
                return found
        raise AssertionError(f"no error in one step changes the value of {problem.text}")

    def _critique(self, task: ArithmeticTask, rng: np.random.Generator) -> str:
        value = task.problem.value
        answer = value if rng.random() < 0.25 else altered_digit(value, rng)
        reply = self.notation.write("", "", str(answer))
        return self.env.critique(task, reply, str(rng.choice(["position", "digit", "answer"])))

    def _by_level(self, name: str, share: Share) -> dict[int, float]:
        levels = self.env.levels
        if not isinstance(share, Mapping):
            return {level: check_share(name, share) for level in levels}
        if not set(share) <= set(levels):
            raise ValueError(f"{name}={share!r}: the levels of this environment are {levels}")
        return {level: check_share(name, share.get(level, 0.0)) for level in levels}


def _one_off(result: int, rng: np.random.Generator) -> int:
    return result + (1 if result == 0 else int(rng.choice([-1, 1])))


def _aside(problem: Problem, rng: np.random.Generator) -> str:
    """A true line about two random operands that the problem does not ask for; empty if there is
    none."""
    needed = work_out(problem, "lines")[0]
    for _ in range(100):
        left, right = rng.choice(problem.operands, size=2, replace=False).tolist()
        pair = Problem((left, right), str(rng.choice(list(problem.operators))))
        line = f"{pair.text}={pair.value}"
        if line not in needed:
            return line
    return ""
