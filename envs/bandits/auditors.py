"""A panel of auditors who object when two similar people are treated too differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from ..checks import check_number

# How far apart an auditor finds people, of arrays [..., d] that broadcast: [...].
Dissimilarity = Callable[[Any, Any], Any]
EPSILON = 1e-12  # by which a share of auditors may miss gamma through rounding


@dataclass(frozen=True)
class AuditorPanel:
    """m auditors, and when they report.

    Auditor j objects to the ordered pair (i, i') when pi_i - pi_i' > d_j(i, i') + alpha. The panel
    reports the pair to which the largest share of auditors objects, if that share is at least
    gamma; of equal ones that with the lowest i, then the lowest i'.

    Args:
        alpha: slack, >= 0.
        gamma: share in (0, 1].

    Raises:
        ValueError: a number outside its range.
    """

    alpha: float = 0.2
    gamma: float = 0.6

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0.0)
        if not 0 < check_number("gamma", self.gamma, 0.0, 1.0):
            raise ValueError(f"gamma={self.gamma} must be in (0, 1]")

    def report(self, acceptance: Any, distances: Any) -> tuple[Any, Any]:
        """The reported pair, int64 [n, 2], (-1, -1) for none, and the largest share, [n].

        Args:
            acceptance: probabilities pi of k people, [n, k].
            distances: what the auditors find, [n, m, k, k].
        """
        xp, k = array_namespace(acceptance), acceptance.shape[-1]
        gaps = acceptance[:, None, :, None] - acceptance[:, None, None, :]
        objections = xp.astype(gaps > distances + self.alpha, xp.int64)
        votes = xp.reshape(xp.sum(objections, axis=1), (len(acceptance), k * k))
        place = xp.argmax(votes, axis=-1)
        most = xp.astype(xp.max(votes, axis=-1), acceptance.dtype)
        share = most / distances.shape[1]
        pair = xp.stack((place // k, place % k), axis=-1)
        reported = share >= self.gamma - EPSILON
        return xp.where(reported[:, None], pair, xp.full_like(pair, -1)), share


def scaled_distances(scores: Any, kappas: Any) -> Any:
    """|score - score'| times each auditor's factor: of [n, k] and [n, m], [n, m, k, k]."""
    xp = array_namespace(scores)
    apart = xp.abs(scores[:, :, None] - scores[:, None, :])
    return kappas[:, :, None, None] * apart[:, None]


def called_distances(contexts: Any, auditors: Sequence[Dissimilarity]) -> Any:
    """What each of m functions finds: of contexts [n, k, d], [n, m, k, k]."""
    xp = array_namespace(contexts)
    left, right = contexts[:, :, None, :], contexts[:, None, :, :]
    zeros = 0 * (left + right)[..., 0]
    return xp.stack([zeros + auditor(left, right) for auditor in auditors], axis=1)
