"""Other people's code at work in a process of its own, to be timed in turns with ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self


class Peer:
    """A program that answers "ready", and then, for every number n on its input, the seconds that
    n units of its work took.

    Args:
        command: the program and its arguments.
        name: what to call it in an error.
        threads: that it may use.

    Raises:
        ValueError: the program fails.
    """

    def __init__(self, command: Sequence[str], name: str, threads: int = 1) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MPLBACKEND": "agg"},
        )

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.process.stderr.read().strip().splitlines() or ["nothing"]
            raise ValueError(f"{self.name} failed: {said[-1]}")
        return line

    def seconds(self, work: int) -> float:
        """How long so many units of work take."""
        assert self.process.stdin is not None
        print(work, file=self.process.stdin, flush=True)
        return float(self._answer())
