"""Numbers that move on their own and mean nothing, to be appended to an observation."""

from __future__ import annotations

from typing import Any


def next_distractors(z: Any, noise: Any, decay: float, spread: float) -> Any:
    """z after one step: decay z + spread sqrt(1 - decay^2) noise.

    With z_0 = spread e_0 and standard normal noise every z has mean 0 and standard deviation
    `spread`, and z of k steps later a correlation of decay^k with it.

    Args:
        z: [..., k], NumPy or torch.
        noise: standard normal, [..., k].
        decay: in [0, 1].
        spread: >= 0.
    """
    return decay * z + spread * (1.0 - decay**2) ** 0.5 * noise
