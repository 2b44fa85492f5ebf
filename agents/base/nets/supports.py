"""Numbers as categorical distributions over fixed atoms.

J. Schrittwieser et al.: Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model
(Nature 2020, arXiv 1911.08265), appendix F. A number is squashed by

    h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x

and shared between the two atoms beside it, so that the mean of the distribution is h(x).
"""

from __future__ import annotations

import torch
from torch.nn import functional

EPSILON = 0.001


def squash(x: torch.Tensor) -> torch.Tensor:
    """h(x), element by element."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + EPSILON * x


def unsquash(y: torch.Tensor) -> torch.Tensor:
    """The inverse of `squash`, in double precision."""
    size = y.double().abs()
    root = ((1 + 4 * EPSILON * (size + 1 + EPSILON)).sqrt() - 1) / (2 * EPSILON)
    return (y.sign() * (root**2 - 1)).to(y.dtype)


def two_hot(x: torch.Tensor, low: float, high: float, atoms: int) -> torch.Tensor:
    """Distributions over atoms equally spaced in [low, high] whose mean is x, [..., atoms].

    What lies outside becomes the atom at that end.

    Args:
        x: [...].
        low, high: first and last atom.
        atoms: how many, at least 2.
    """
    place = (x.clamp(low, high) - low) * ((atoms - 1) / (high - low))
    below = place.floor().clamp(max=atoms - 2)
    above = (place - below)[..., None]
    left = functional.one_hot(below.long(), atoms).to(x.dtype)
    return (1 - above) * left + above * left.roll(1, dims=-1)


def expectation(logits: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The number that a distribution over atoms in [low, high] stands for, h undone, [...]."""
    atoms = torch.linspace(low, high, logits.shape[-1], device=logits.device)
    return unsquash((logits.softmax(dim=-1) * atoms).sum(dim=-1))
