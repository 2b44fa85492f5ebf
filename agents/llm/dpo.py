"""DPO and IPO: a policy fitted to comparisons without a reward model.

R. Rafailov et al.: Direct Preference Optimization: Your Language Model is Secretly a Reward Model
(arXiv 2305.18290). M. G. Azar et al.: A General Theoretical Paradigm to Understand Learning from
Human Preferences (arXiv 2310.12036).

The policy that is best for a reward r less beta KL(pi || ref) satisfies r = beta log(pi / ref) up
to a term of the prompt. So the policy itself is the reward model, and of a comparison y_w > y_l
only the difference of the two log-ratios matters, summed over the tokens of the replies:

    h = log(pi(y_w | x) / ref(y_w | x)) - log(pi(y_l | x) / ref(y_l | x))

    DPO   mean -log sigmoid(beta h)           maximum likelihood under Bradley and Terry's model
    IPO   mean (h - 1 / (2 tau))^2            a regression that does not drive h to infinity where
                                              all labels agree
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ..base.declare import Example
from ..base.preference import PairBatch, PreferenceAlgorithm
from ..base.text_data import Preferences
from .baselines import SMALL

# -- what the papers compute -----------------------------------------------------------------------


def dpo_losses(differences: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """-log sigmoid(beta h) of each comparison; the gradient is -beta sigmoid(-beta h).

    Args:
        differences: h, float [n].
        beta: weight of the KL to the reference in the implied objective.
    """
    return -functional.logsigmoid(beta * differences)


def ipo_losses(differences: torch.Tensor, tau: float = 0.1) -> torch.Tensor:
    """(h - 1 / (2 tau))^2 of each comparison.

    Args:
        differences: h, float [n].
        tau: weight of the KL to the reference.
    """
    return (differences - 1 / (2 * tau)).square()


# -- the agents ------------------------------------------------------------------------------------


def example(**kwargs: Any) -> Example:
    """An example of a learner from comparisons that takes a second, with changed arguments."""
    small = {name: SMALL[name] for name in ("demonstrations", "imitate_until", "policy_kwargs")}
    return Example(
        "Arithmetic-v0",
        {"digits": 1},
        "TextPolicy",
        {**small, "batch_size": 8, **kwargs},
        steps=96,
        data=Preferences.from_demonstrations,
    )


class DPO(PreferenceAlgorithm):
    """Direct preference optimisation.

    Args:
        beta: above 0; the larger, the closer to the reference.
        arguments: of `PreferenceAlgorithm`.
    """

    example = example()

    def __init__(self, policy: Any, env: Any, *, beta: float = 0.1, **common: Any) -> None:
        if beta <= 0:
            raise ValueError(f"beta must be above 0, got {beta}")
        self.beta = beta
        super().__init__(policy, env, **common)

    def pair_losses(self, pairs: PairBatch) -> torch.Tensor:
        """-log sigmoid(beta h)."""
        return dpo_losses(pairs.differences, self.beta)


class IPO(PreferenceAlgorithm):
    """Identity preference optimisation.

    Args:
        tau: above 0; the larger, the closer to the reference. 1 / (2 tau) is what h is drawn to:
            log-probabilities of whole replies, not divided by their lengths.
        arguments: of `PreferenceAlgorithm`.
    """

    example = example()

    def __init__(self, policy: Any, env: Any, *, tau: float = 0.1, **common: Any) -> None:
        if tau <= 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        self.tau = tau
        super().__init__(policy, env, **common)

    def pair_losses(self, pairs: PairBatch) -> torch.Tensor:
        """(h - 1 / (2 tau))^2."""
        return ipo_losses(pairs.differences, self.tau)
