"""An optimizer for small transformers: orthogonal steps for matrices, Adam for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adam import adam

# Of the polynomial a s + b s^3 + c s^5, which takes singular values in (0, 1] to about 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
LEAST = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are replaced by the nearest (semi-)orthogonal ones; Adam else.

    K. Jordan et al.: Muon: An optimizer for hidden layers in neural networks (2024). A step is as
    large in all directions of a matrix, also in those that gradients seldom point to. Beside
    `torch.optim.Muon`, which works in bfloat16 one matrix at a time, matrices of one shape are
    orthogonalised together in their own precision: on a CPU that is several times as fast for
    matrices of 64 or 128 rows.

    Args:
        matrices: parameters [r, c] of hidden layers.
        others: parameters for Adam, such as embeddings, heads and biases.
        lr: of Adam.
        stride: the step of a matrix is `stride * lr * sqrt(max(1, r / c))` times an orthogonal one.
        momentum: of matrices.
        betas, eps: of Adam.

    Raises:
        ValueError: a matrix has not two axes.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: Iterable[torch.nn.Parameter],
        lr: float,
        *,
        stride: float = 10.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "stride": stride, "momentum": momentum},
            {"params": list(others), "betas": betas, "eps": eps},
        ]
        for parameter in groups[0]["params"]:
            if parameter.ndim != 2:
                raise ValueError(f"a matrix has two axes, got {list(parameter.shape)}")
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        matrices, others = self.param_groups
        shapes: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                shapes[tuple(parameter.shape)].append(parameter)
        for alike in shapes.values():
            self._orthogonal_step(alike, matrices)
        self._adam_step([p for p in others["params"] if p.grad is not None], others)

    def _orthogonal_step(self, alike: list[torch.Tensor], group: dict[str, Any]) -> None:
        gradients: Any = [parameter.grad for parameter in alike]
        means = [self._kept(parameter, "momentum") for parameter in alike]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, means, group["momentum"])  # as Nesterov's
        steps = orthogonalised(torch.stack(ahead))
        rows, columns = alike[0].shape
        size = group["stride"] * group["lr"] * max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(alike, list(steps.unbind()), alpha=-size)

    def _adam_step(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        gradients: Any = [parameter.grad for parameter in parameters]
        beta1, beta2 = group["betas"]
        adam(
            parameters,
            gradients,
            [self._kept(parameter, "exp_avg") for parameter in parameters],
            [self._kept(parameter, "exp_avg_sq") for parameter in parameters],
            [],
            [self.state[p].setdefault("step", torch.zeros(())) for p in parameters],
            foreach=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _kept(self, parameter: torch.Tensor, name: str) -> torch.Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        kept: torch.Tensor = state[name]
        return kept


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """U V^T for matrices U S V^T [m, r, c], about: singular values come to between 0.7 and 1.2.

    Newton and Schulz's iteration with the coefficients of Muon, which need five rounds.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Momentum of what has no gradient any more (a dead unit) goes to numbers with which processors
    # are ten times as slow; they are less than rounding here.
    x = x.masked_fill(x.abs() < LEAST, 0.0)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.transpose(1, 2)
