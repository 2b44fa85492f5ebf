"""Stretches of an episode through `torch.compile`: fewer and larger operations for small
networks."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from ...envs.base import Arrays


class CompiledStretch:
    """A function of (core, policy, state, tape, alive, steps), compiled for one number of steps.

    Compilation happens in the first two calls (the state that starts an episode carries no
    gradients, later ones do) and for every new batch size, and takes seconds each time, in
    proportion to `steps`. Results equal those of the plain function up to float rounding.

    Args:
        function: what to compile.
        steps: number of steps, >= 1.

    Raises:
        ValueError: there is no C++ compiler, which `torch.compile` needs.
    """

    def __init__(self, function: Any, steps: int) -> None:
        names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
        if not any(shutil.which(name) for name in names):
            raise ValueError(
                f"compile_periods={steps} needs a C++ compiler, and none of {', '.join(names)} is on "
                "the path: install one, or leave compile_periods at 0"
            )
        self.function, self.steps = function, steps
        self.compiled = torch.compile(function, dynamic=False)
        self.warm = False

    def __call__(self, core: Any, policy: Any, state: Arrays, tape: Arrays, alive: Any) -> Any:
        """What the function returns after `steps` steps."""
        if not self.warm:
            # Whatever core and policy prepare on first use belongs outside of the compiled graph.
            with torch.no_grad():
                self.function(core, policy, state, tape, alive, 1)
            self.warm = True
        # One memory layout for all stretches: another one would be compiled anew.
        state = {name: value.contiguous() for name, value in state.items()}
        return self.compiled(core, policy, state, tape, alive, self.steps)
