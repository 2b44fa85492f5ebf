"""`Arithmetic-v0`: an expression is shown, the reply states its value, with or without working."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .arithmetic_demonstrations import ArithmeticDemonstrations, Share
from .arithmetic_notation import (
    ANSWER,
    check_context,
    check_control,
    check_notation,
    critique,
    digit_match,
    first_wrong,
    read,
)
from .arithmetic_problems import (
    ArithmeticTask,
    Problem,
    check_digits,
    check_operations,
    draw_problem,
    longest_answer,
    parse_problem,
    work_out,
)
from .arithmetic_wording import to_grammar, write_prompt
from .arithmetic_working import judge
from .base import (
    PRINTABLE,
    Demonstration,
    TextEnv,
    check_integer,
    check_share,
    cut,
    is_test,
)

ALPHABET = "$0123456789+-*/()=,\n#@<>~|[]?!.ABCDEFGH"
MAX_REPLY = {"plain": 8, "columns": 32, "lines": 64}


class Arithmetic(TextEnv):
    r"""An expression is shown, the reply must state its value; the working is read step by step.

    ## Description
    One prompt, one reply. The working may be asked for, allowed, measured, hinted at and judged
    line by line, so that methods which reward outcomes, steps, lengths or formats find what they
    need. How difficult a task is, and how long the shortest right reply, is known.

    ## Observation
    `Text`: the prompt, which is shown again after the reply.

        prompt = expression "=" [ "[" context "]" ] [ control ] [ "|" hint ]
        37+25=        37+25=C        4837+6295=|12,13,        37+25=[52?1=6]

    `control` is a letter for the k-th control value, `hint` the beginning of a working that the
    reply continues, `context` what `critique` says of an earlier reply. With `verbose` the same in
    English. 39 characters: `$0123456789+-*/()=,\n#@<>~|[]?!.ABCDEFGH`; verbose: printable ASCII,
    newline, tab.

    ## Action
    `Text`, at most `max_reply` characters, ended by `$`. Any string is legal; what is not a right
    answer earns nothing.

        plain      answer "$"                           62$
        columns    working "#" answer "$"               12,6#62$
        lines      working "#" answer "$"               7+5=12\n3+2+1=6\n#62$
        tags       "<" working ">" answer "$"           <12,6>62$
        response   "<" lines ">" lines "#" answer "$"   <3*4=12\n7+2=9\n9-12=-3\n>3*4=...#-3$
        styles 2   ("#" | "@") answer "$"               #62$  @62$   (also after a working)

    An answer is 0, or an optional `-`, a digit from 1 to 9 and at most 17 more, in ASCII.
    Columns, from the right: each chunk is the sum of its column with the carry that comes in
    (`12,6` for 37+25), or the digit of a difference, with `-` where the column borrows (`-5,1` for
    52-37); `=x` restates the chunk before. Lines: `[mark] number op number [op number] = number`
    and a newline, for two terms `7+5=12`, `3+2+1=6`; `12-7=5`, `4-3=1`; `37*5=185`, `37*20=740`,
    `185+740=925`; for more terms one operation per line, products first. One to three `~` in front
    withdraw as many lines above, `=` repeats the line above. Free working is any text of
    `0-9+-*=,.~` and newlines.

    With `verbose` a reply is mapped to this grammar before it is graded: blanks, tabs and carriage
    returns vanish, `<think>` and `</think>` become `<` and `>`, four or more `#` or `@` one, and
    newlines around `< > $` and after a mark vanish, until nothing changes. Free working then holds
    any characters but `#@<>$`.

    ## Dynamics
    Task i of a split depends on operations, digits, terms, pool_seed, i and the split alone. Its
    level is the first whose cumulative weight exceeds frac(0.6180339887498949 (i + 1)); operands
    and operators are drawn from `default_rng((pool_seed, i))` until the problem belongs to the
    split. A problem is a test problem iff crc32 of its text is divisible by 5, where a sum or
    product of two terms has the smaller one first: about one in five, and none ever occurs in
    training, under any id.

    The verdict (`info` after the step; what has no value is left out of `info`, and None in
    `verify`), each 0 or 1 unless said:

    - `correct`; `answer` (the number); `integer`: there is one; `digit_match`: share of digits that
      agree, from the right; `first_wrong`: place of the lowest wrong character from the right, -1
      for none; `stopped`; `length` in characters; `style`: index of the answer's mark, -1 for none;
      `slot`: the text in the answer's place.
    - `format`: the structure above and nothing else, with a working where it is not free, and
      withdrawals and repetitions of lines that refer to what stands there.
    - `working_length` in characters, without marks, tags and hint; `steps`; `step_ends`: offset in
      the reply after each. Per step: `labels` (right), `useful` (right, needed, not there yet),
      `withdrawn`, `adopted` (the answer uses it); `reflections`: pairs (step that withdraws, first
      step that it withdraws).

    At reset `info` has `task`, `split`, `level`, `difficulty` (lines needed, plus carries and
    borrows), `carries`, `truth` and, where one is shown, `control`.

    ## Reward
    `correct`, 0 or 1. Exactly one place for an answer: two marks, two closing tags, a blank,
    `062`, `+62`, `62.0`, digits of other scripts or an expression are no answer.

    ## Episode end
    Terminated after the reply.

    ## Arguments
    - `operations`: one or more of `+-*`. `digits`: of every operand, 1 to 6, a tuple of levels, or
      a mapping level -> weight. `terms`: 2 to 6; with `*`, digits times terms at most 16.
    - `pool`: number of training tasks that `reset` draws from, 1 to 2^20, None for all.
      `pool_seed`: integer >= 0. `split`: "train" or "test".
    - `reply`: "plain", "columns" (two terms, + and - only) or "lines". `free`: the working is
      optional and its text free. `tags`, `response` (needs tags and lines), `styles` (1 or 2).
    - `control`: up to 8 numbers, or None. `max_reply`: characters; 8, 32, 64 for plain, columns,
      lines and 1024 for verbose. `verbose`: for chat models, needs `free` where there is working.
    - `reset(options=...)`: `task` (0 to 2^20 - 1), `split`, `problem` (such as "37+25"), `control`
      (index), `hint` (share of the reference working, in [0, 1)), `context`.

    ## Data files
    None.

    ## Sources
    Written for this suite. Sums with written-out carries as a test of reasoning in small models:
    M. Nye et al., Show Your Work: Scratchpads for Intermediate Computation with Language Models,
    arXiv 2112.00114.

    ## Version
    v0.
    """

    options = ("task", "split", "problem", "control", "hint", "context")

    def __init__(
        self,
        operations: str = "+",
        digits: int | Sequence[int] | Mapping[int, float] = 2,
        terms: int = 2,
        *,
        pool: int | None = None,
        pool_seed: int = 0,
        split: str = "train",
        reply: str = "plain",
        free: bool = False,
        tags: bool = False,
        response: bool = False,
        styles: int = 1,
        control: Sequence[float] | None = None,
        max_reply: int | None = None,
        verbose: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.operations = check_operations(operations)
        self.levels, self.weights = check_digits(digits)
        self.terms = check_integer("terms", terms, 2, 6)
        self.pool_seed = check_integer("pool_seed", pool_seed, 0, 2**63 - 1)
        size = max(self.levels)
        if "*" in operations and size * self.terms > 16:
            raise ValueError(
                f"digits={size} times terms={terms} is {size * self.terms}, with '*' at most 16"
            )
        self.notation = check_notation(reply, free, tags, response, styles, verbose)
        if reply == "columns" and (terms != 2 or "*" in operations):
            raise ValueError(f"reply='columns' needs terms=2 and no '*', {terms=}, {operations=}")
        self.control = check_control(control)
        default = 1024 if verbose else MAX_REPLY[reply]
        wanted = default if max_reply is None else max_reply
        bare = len(self.notation.write("", "", "9" * longest_answer(operations, size, terms)))
        max_reply = check_integer("max_reply", wanted, bare, 2**20)
        self._max_context = max_reply + 21  # a slot, a remark, the answer
        # A line has three numbers of at most 18 digits; * needs two lines for each digit.
        working = 0 if reply == "plain" else 2 * max(size, self.terms) * 60
        expression = self.terms * (size + 1) + (500 if verbose else 5)
        super().__init__(
            alphabet=PRINTABLE + "\n\t" if verbose else ALPHABET,
            max_prompt=expression + self._max_context + working,
            max_reply=max_reply,
            split=split,
            pool=pool,
            reply_characters=None if verbose else self.notation.characters,
            render_mode=render_mode,
        )

    def make_task(self, index: int, split: str) -> ArithmeticTask:
        """Task `index` of a split, without hint, control and context."""
        level, problem = draw_problem(
            self.operations, self.levels, self.weights, self.terms, self.pool_seed, index, split
        )
        return self._present(ArithmeticTask(index, split, "", level, problem))

    def problem(self, text: str) -> ArithmeticTask:
        """The task that asks for an expression such as "37+25"; its id is -1.

        Raises:
            ValueError: the expression is none that this environment could ask for.
        """
        problem = parse_problem(text, self.operations, max(self.levels), self.terms)
        split = "test" if is_test(problem.content) else "train"
        level = max(len(str(operand)) for operand in problem.operands)
        return self._present(ArithmeticTask(-1, split, "", level, problem))

    def choose(self, options: Mapping[str, Any]) -> ArithmeticTask:
        """The task of a reset: a control value is drawn only where the task is drawn, too."""
        control = options.get("control")
        if "problem" in options:
            if {"task", "split"} & set(options):
                raise ValueError("options name a problem, which has no id and no choice of split")
            task: Any = self.problem(options["problem"])
        else:
            task = super().choose(options)
            if self.control and not {"task", "control"} & set(options):
                control = int(self.np_random.integers(len(self.control)))
        hint, context = options.get("hint", 0.0), options.get("context", "")
        return self.put(task, control=control, hint=hint, context=context)

    def put(
        self,
        task: Any,
        *,
        control: int | None = None,
        hint: float = 0.0,
        context: str = "",
    ) -> ArithmeticTask:
        """The task with a control value, a hint or a context in its prompt.

        Args:
            task: a task, or its id in this environment's split.
            control: index of the control value.
            hint: share of the reference working, in [0, 1).
            context: what is said of an earlier attempt.

        Raises:
            ValueError: there is no such control value, share, or text.
        """
        one = self.find(task)
        if control is not None:
            if self.control is None:
                raise ValueError(f"control={control!r}: the environment has no control values")
            control = check_integer("control", control, 0, len(self.control) - 1)
        check_context(context, self.alphabet, self._max_context)
        given = self.hint_text(one, hint)
        return self._present(replace(one, control=control, hint=given, context=context))

    def hint_text(self, task: Any, share: float) -> str:
        """The first `share` of the reference working, its opening tag included; no answer.

        Args:
            task: a task, or its id in this environment's split.
            share: in [0, 1).
        """
        if check_share("hint", share) == 1:
            raise ValueError("hint=1 must be below 1: the reply has to write something")
        working = self.notation.opening + self._working(self.find(task).problem)
        return working[: round(share * len(working))]

    def describe(self, task: ArithmeticTask) -> dict[str, Any]:
        """What `info` tells of a task."""
        return {
            "level": task.level,
            "difficulty": task.problem.difficulty,
            "carries": task.problem.carries,
            "truth": task.problem.value,
            "control": task.control,
        }

    def grade(self, task: ArithmeticTask, reply: str) -> dict[str, Any]:
        """The verdict over the graded part of a reply."""
        notation, truth = self.notation, task.problem.value
        text, ends = to_grammar(reply) if notation.verbose else (reply, [])
        given = "" if notation.verbose else task.hint
        text = given + text
        found = read(text, notation)
        slot = found.slot or ""
        answer = int(slot) if ANSWER.fullmatch(slot) else None
        verdict: dict[str, Any] = {
            "correct": int(answer == truth),
            "answer": answer,
            "integer": int(answer is not None),
            "digit_match": 0.0 if answer is None else digit_match(answer, truth),
            "first_wrong": -1 if answer is None else first_wrong(slot, str(truth)),
        }
        steps, sound = judge(task.problem, notation, text, found, answer, len(given))
        if ends:  # offsets in what was written, not in what it was mapped to
            steps["step_ends"] = [ends[end - 1] for end in steps["step_ends"]]
        well_formed = notation.well_formed.fullmatch(text) is not None
        verdict["format"] = int(well_formed and (sound or notation.free))
        verdict["length"], verdict["stopped"] = len(reply), int(found.stopped)
        verdict["working_length"] = max(0, found.end - max(found.begin, len(given)))
        return {**verdict, **steps, "style": found.style, "slot": slot}

    def solution(self, task: Any) -> str:
        """The reference reply, with working; the rest of it where the task has a hint."""
        one = self.find(task)
        working = self._working(one.problem)
        whole = self.notation.write(working, working, str(one.problem.value))
        return whole if self.notation.verbose else whole[len(one.hint) :]

    def critique(self, task: Any, reply: str, kind: str) -> str:
        """What is said of a reply, as the context of a second attempt.

        The text in the answer's place and `!` if it is right; `?` if it is wrong, followed by the
        place of the lowest wrong character from the right (kind "position"), also by `=` and the
        right character there ("digit"), by `=` and the right answer ("answer"), or by nothing
        ("binary"). Without an answer's place `?` alone, or `?=` and the right answer.

        Raises:
            ValueError: an unknown kind.
        """
        one = self.find(task)
        return critique(self.verify(one, reply), one.problem.value, kind)

    def corrupt(self, task: Any, reply: str, attempt: int) -> str | None:
        """The graded part of a reply with a wrong answer: the value + 1 + `attempt`.

        None where the reply has no place for an answer. A verbose reply comes back in the grammar.
        """
        check_integer("attempt", attempt, 0, 2**31)
        one = self.find(task)
        text = cut(reply, self.stop, self.max_reply)
        slot = self.grade(one, text)["slot"]
        text = to_grammar(text)[0] if self.notation.verbose else text
        wrong = one.problem.value + 1 + attempt
        return f"{text[: -1 - len(slot)]}{wrong}$" if slot else None

    def demonstrations(
        self,
        n: int,
        seed: int,
        *,
        ids: Sequence[int] | None = None,
        levels: Mapping[int, float] | None = None,
        skip: Share = 0.0,
        redundancy: float = 0.0,
        slip: float = 0.0,
        noise: float = 0.0,
        control_share: float = 0.5,
        hint_share: Share = 0.0,
        critique_share: float = 0.0,
    ) -> list[Demonstration]:
        """Replies to learn from, by default to training tasks outside the pool.

        Args:
            n: how many.
            seed: seed of the draw.
            ids: training ids to draw from instead.
            levels: weights of the levels, in the place of those of `digits`.
            skip: share written without working (a number, or level -> number); needs `free`.
            redundancy: in [0, 2]: each needed step is followed by Binomial(2, redundancy / 2)
                superfluous ones, repetitions or (with more than two terms) true lines about two
                random operands. Drawn again until the reply fits `max_reply`.
            slip: chance that a line is first written off by one, then withdrawn; lines only.
            noise: chance of a wrong reply: one step is off by one and the rest follows from it;
                without working one digit of the answer is replaced.
            control_share: share of prompts with a random control letter.
            hint_share: share (a number, or level -> number) of prompts with a hint of 0.25, 0.5 or
                0.75 of the working; the reply is the rest.
            critique_share: share of prompts with the critique of an earlier attempt, of a random
                kind; one attempt in four was right, in the others one digit is wrong.

        Raises:
            ValueError: a share is outside its range or cannot be had with this notation; a reply
                does not fit.
        """
        writer = ArithmeticDemonstrations(
            self, skip, redundancy, slip, noise, control_share, hint_share, critique_share
        )
        return writer.write(n, seed, ids, levels)

    def logs(self, n: int, right: float, seed: int = 0) -> list[Demonstration]:
        """`n` logged replies, of which a share `right` is right."""
        return self.demonstrations(n, seed, noise=1 - check_share("right", right))

    def _working(self, problem: Problem) -> str:
        if self.notation.reply == "plain":
            return ""
        return self.notation.join(work_out(problem, self.notation.reply)[0])

    def _present(self, task: ArithmeticTask) -> ArithmeticTask:
        return replace(task, prompt=write_prompt(task, self.notation, self.control))
