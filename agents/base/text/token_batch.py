"""The arrays of a batch of replies on which a group-based learner works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch.nn import functional

TOKEN_FLOATS = (
    *("old_log_probs", "log_probs", "reference_log_probs", "entropies", "values"),
    *("advantages", "weights"),
)


@dataclass
class TokenBatch:
    """N replies of at most T tokens to prompts of at most P tokens.

    Prompts are padded on the left and replies on the right, so that every reply starts in the same
    column. What a stage of learning has not computed yet is None. A reply of several turns keeps
    in `tokens` what was said to it in between; `mask` leaves that out.

    Attributes:
        prompts: int [N, P], left-padded.
        prompt_mask: bool [N, P], at least one token each.
        tokens: int [N, T], right-padded.
        mask: bool [N, T], the tokens that the policy wrote; at least one each.
        old_log_probs: float [N, T], under the policy that sampled, its temperature included.
        log_probs: float [N, T], under the policy that learns, with gradients.
        reference_log_probs: float [N, T], under the frozen reference.
        entropies: float [N, T] of the next-token distribution of the policy that learns.
        values: float [N, T], of the states before the tokens by the policy that learns.
        advantages: float [N, T] or [N, 1].
        weights: float [N, T] or [N, 1], of the tokens in the loss.
        rewards: float [N], finite.
        groups: int [N], replies to one prompt have one number. By default 0, 1, ...
        turns: int [N, T], the turn to which a token belongs. By default 0.
        extra: what a single system adds, tensors [N] or [N, T] of any kind by name.

    Raises:
        ValueError: a shape or a kind of number is not the above, a reply or a prompt has no token,
            or a reward is not finite; it says which.
    """

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    old_log_probs: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    reference_log_probs: torch.Tensor | None = None
    entropies: torch.Tensor | None = None
    values: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    rewards: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    turns: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.prompts.ndim != 2:
            raise ValueError(
                f"tokens are [N, T] and prompts [N, P], got {list(self.tokens.shape)} and "
                f"{list(self.prompts.shape)}"
            )
        n, t = self.tokens.shape
        p = self.prompts.shape[1]
        if self.groups is None:
            self.groups = torch.arange(n, device=self.tokens.device)
        if self.turns is None:
            self.turns = torch.zeros_like(self.tokens)
        self._check("prompts", [(n, p)], "int")
        self._check("groups", [(n,)], "int")
        for name in ("tokens", "turns"):
            self._check(name, [(n, t)], "int")
        self._check("prompt_mask", [(n, p)], "bool")
        self._check("mask", [(n, t)], "bool")
        for name in TOKEN_FLOATS:
            wide = [(n, t), (n, 1)] if name in ("advantages", "weights") else [(n, t)]
            self._check(name, wide, "float")
        self._check("rewards", [(n,)], "float")
        for name, tensor in self.extra.items():
            if tuple(tensor.shape) not in ((n,), (n, t)):
                raise ValueError(
                    f"extra[{name!r}] must be [{n}] or [{n}, {t}], got {list(tensor.shape)}"
                )
        for name, mask in (("prompt", self.prompt_mask), ("reply", self.mask)):
            if not bool(mask.any(dim=1).all()):
                raise ValueError(f"{name} {int(mask.any(dim=1).int().argmin())} has no token")
        if self.rewards is not None and not bool(self.rewards.isfinite().all()):
            wrong = int(self.rewards.isfinite().int().argmin())
            raise ValueError(
                f"reply {wrong} to prompt {int(self.groups[wrong])} has the reward "
                f"{float(self.rewards[wrong])}: rewards are finite"
            )

    def _check(self, name: str, shapes: Sequence[tuple[int, ...]], kind: str) -> None:
        tensor = getattr(self, name)
        if tensor is None:
            return
        if tensor.dtype == torch.bool:
            found = "bool"
        else:
            found = "float" if tensor.is_floating_point() else "int"
        if tuple(tensor.shape) not in shapes or found != kind:
            allowed = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{name} must be {kind} {allowed}, got {found} {list(tensor.shape)}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each reply under the mask, int [N]."""
        return self.mask.sum(dim=1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors but those of `extra`, by name."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def to(self, device: torch.device | str) -> TokenBatch:
        """The batch on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return TokenBatch(**moved, extra=extra)

    def select(self, rows: torch.Tensor) -> TokenBatch:
        """The given replies, int [m], without columns that are padding in all of them."""
        start = self.prompts.shape[1] - reach(self.prompt_mask[rows].flip(1))
        end = reach(self.mask[rows])
        own = {name: tensor[rows] for name, tensor in self.tensors().items()}
        for name, tensor in own.items():
            if tensor.ndim == 2:
                in_prompt = name in ("prompts", "prompt_mask")
                own[name] = tensor[:, start:] if in_prompt else tensor[:, :end]
        extra = {name: tensor[rows] for name, tensor in self.extra.items()}
        extra = {name: x[:, :end] if x.ndim == 2 else x for name, x in extra.items()}
        return TokenBatch(**own, extra=extra)

    @staticmethod
    def join(parts: Sequence[TokenBatch]) -> TokenBatch:
        """Several batches with the same tensors as one; groups are numbered on from part to part.

        Raises:
            ValueError: there is none, or one has tensors that another has not.
        """
        names = {(*part.tensors(), *part.extra) for part in parts}
        if len(names) != 1:
            raise ValueError(f"batches that are joined have the same tensors, got {sorted(names)}")
        numbers, found = 0, []
        for part in parts:
            assert part.groups is not None
            found.append(part.tensors() | {"groups": part.groups + numbers})
            numbers = int(found[-1]["groups"].max()) + 1
        own = {
            name: padded([each[name] for each in found], name in ("prompts", "prompt_mask"))
            for name in found[0]
        }
        extra = {name: padded([part.extra[name] for part in parts]) for name in parts[0].extra}
        return TokenBatch(**own, extra=extra)

    def minibatches(
        self,
        size: int,
        generator: torch.Generator | None = None,
        whole_groups: bool = False,
    ) -> Iterator[TokenBatch]:
        """Parts of about equal size that together are the batch, each reply once.

        Args:
            size: most replies of a part; with `whole_groups` a part ends with the group that
                reaches it.
            generator: shuffles replies, or groups; on the CPU. None: they stay in order.
            whole_groups: keep the replies to one prompt together.

        Raises:
            ValueError: `size` is less than 1.
        """
        if size < 1:
            raise ValueError(f"a minibatch has at least 1 reply, got size={size}")
        device = self.tokens.device
        if not whole_groups:
            order = permutation(len(self), generator)
            for part in order.tensor_split(-(-len(self) // size)):
                yield self.select(part.to(device))
            return
        assert self.groups is not None
        names, member = self.groups.cpu().unique(return_inverse=True)
        chosen: list[torch.Tensor] = []
        for group in permutation(len(names), generator):
            chosen.append((member == group).nonzero()[:, 0])
            if sum(map(len, chosen)) >= size:
                yield self.select(torch.cat(chosen).to(device))
                chosen = []
        if chosen:
            yield self.select(torch.cat(chosen).to(device))


def padded(tensors: Sequence[torch.Tensor], left: bool = False) -> torch.Tensor:
    """Tensors [n_i] or [n_i, w_i] below each other, zeros where a row is narrower.

    [n, 1] stays so where all are of width 1.
    """
    if tensors[0].ndim == 1:
        return torch.cat(list(tensors))
    width = max(tensor.shape[1] for tensor in tensors)
    missing = [width - tensor.shape[1] for tensor in tensors]
    return torch.cat(
        [
            functional.pad(tensor, (gap, 0) if left else (0, gap))
            for tensor, gap in zip(tensors, missing, strict=True)
        ]
    )


def reach(mask: torch.Tensor) -> int:
    """Columns of mask [n, t] up to the last one in which a row is True."""
    used = mask.any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def permutation(n: int, generator: torch.Generator | None) -> torch.Tensor:
    """0, ..., n - 1 in random order, or in their own where there is no generator."""
    return torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
