"""Linear decision processes: transitions and rewards that are linear in features of the pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .finite_mdp import FiniteMDP, Planned


def linear_tables(
    phi: NDArray[np.float64], mu: NDArray[np.float64], theta: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P = phi mu and R = phi theta.

    Args:
        phi: features of the pairs, at least 0 and summing to 1, [S, A, d].
        mu: what each feature makes of the next state, probabilities [d, S].
        theta: reward of each feature, [d].

    Returns:
        P [S, A, S] and R [S, A].
    """
    # einsum, not a library product, whose rounding depends on the machine.
    return np.einsum("sai,ij->saj", phi, mu), np.einsum("sai,i->sa", phi, theta)


class LinearMDP(FiniteMDP):
    """A finite world that may come with the features it is linear in.

    Attributes:
        phi, mu, theta: as in `linear_tables`; None where the world is not linear.
    """

    phi: NDArray[np.float64] | None = None
    mu: NDArray[np.float64] | None = None
    theta: NDArray[np.float64] | None = None


class Featured(Planned):
    """What a face of a `LinearMDP` shows to planners."""

    core: LinearMDP

    @property
    def phi(self) -> NDArray[np.float64] | None:
        """Features of the pairs [S, A, d]; None where the world is not linear."""
        return self.core.phi

    @property
    def mu(self) -> NDArray[np.float64] | None:
        """Probabilities of the next state by feature [d, S]; None where the world is not linear."""
        return self.core.mu

    @property
    def theta(self) -> NDArray[np.float64] | None:
        """Reward of each feature [d]; None where the world is not linear."""
        return self.core.theta
