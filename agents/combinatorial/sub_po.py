"""SubPO: Submodular Policy Optimization.

Manish Prajapat, Mojmir Mutny, Melanie N. Zeilinger, Andreas Krause: Submodular Reinforcement
Learning (ICLR 2024, arXiv 2307.13372).

What an episode is worth is a monotone submodular set function F of the states that it visits, so
the same state pays less the second time and J(pi) = E F(tau) is no sum of rewards. The marginal
gains F(s | tau) = F(tau + s) - F(tau) of the states in the order of their visits telescope to F,
and so give an ordinary policy gradient:

    grad J = E sum_{i=0}^{H-1} grad log pi(a_i | s_i) (G_i - b_i)
    G_i = sum_{j=i}^{H-1} F(s_{j+1} | tau_{0:j}) = F(tau) - F(tau_{0:i})

b_i may depend on the prefix only. Where any state can be reached next with probability at least
1 - epsilon, the greedy idea in it earns a constant factor that approaches 1 - 1/e; under bounded
curvature c = 1 - min_s F(s | V - s) / F(s) the factor is 1 - c in any world.

Batches of episodes, baseline and loss are those of `EpisodicPolicyGradient`; what the paper adds is
what a step pays. MODPO (`modpo.py`) is the same learner with F({s}) in the place of F(s | tau).

The paper's actor-critic regresses V(s_i, i) on G_i and takes the generalised advantage estimate of
the marginal gains. An environment of coverage pays marginal gains and shows the time, so this is
`palaestra.agents.PPO` (or A2C) with gamma=1 on such an environment, and is not written here again.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ...envs.base import ArrayCore
from ...envs.coverage.submodular_coverage import SubmodularCoverage
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.episodes import Episodes
from ..base.episodic import (
    EpisodicPolicyGradient,
    policy_gradient_loss,
    returns_to_go,
    step_means,
)
from ..base.episodic_policies import TabularPolicy

# -- the paper's computation ----------------------------------------------------------------------


def marginal_gains(values: torch.Tensor) -> torch.Tensor:
    """F(s_{j+1} | tau_{0:j}) of every step.

    Args:
        values: F of the states visited so far, at the start and after each step, [T + 1, ...].

    Returns:
        [T, ...].
    """
    return values[1:] - values[:-1]


def gains_to_go(values: torch.Tensor) -> torch.Tensor:
    """G_i: what the states after step i add to F, [T, ...]; `values` as in `marginal_gains`."""
    return returns_to_go(marginal_gains(values))


class SubPO(EpisodicPolicyGradient):
    """Submodular Policy Optimization, for environments that say F in `info["set_value"]`.

    It computes the gains itself, so it learns the same whether the environment's rewards are gains
    or additive. With "TabularPolicy" or "MlpPolicy" and an observation of place and time it is the
    paper's SubPO-M. It is SubPO-NM, a policy of the whole history, with "HistoryPolicy", or with
    "MlpPolicy" where the environment shows what is covered (`observation="history"`).

    A negative gain (F is not monotone) is allowed; a warning says once that the guarantees are
    void. Arguments are those of `EpisodicPolicyGradient`.
    """

    paper = Paper(
        slug="sub_po",
        title="Submodular Reinforcement Learning",
        authors="Manish Prajapat, Mojmir Mutny, Melanie N. Zeilinger, Andreas Krause",
        year=2023,
        arxiv="2307.13372",
        code="github.com/manish-pra/non-additive-RL",
    )
    example = Example(
        "SubmodularCoverage-v0",
        {"rows": 3, "cols": 3, "horizon": 5},
        policy="TabularPolicy",
        kwargs={"episodes": 10},
        steps=1_000,
    )
    reads: ClassVar[tuple[str, ...]] = ("set_value",)
    _warned = False

    def step_rewards(self, episodes: Episodes) -> torch.Tensor:
        """The marginal gain of each step, [T, n]."""
        gains = marginal_gains(episodes.info["set_value"])
        if not self._warned:
            lowest = float(torch.where(episodes.taken, gains, 0.0).min())
            # A sum of floats may lose its last digits.
            if lowest < -1e-9 * max(1.0, float(episodes.info["set_value"].abs().max())):
                self._warned = True
                warnings.warn(
                    f"a visited state lowered the set value by {-lowest:.3g}: F is not monotone, "
                    "and SubPO's guarantees are void",
                    stacklevel=2,
                )
        return gains


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_UPDATES, CLAIM_EPISODES, CLAIM_POINTS = 150, 200, 10
MAP: dict[str, Any] = {"rows": 8, "cols": 8, "weights": "sparse", "horizon": 20, "start": 0}


def mean_coverage(agent: EpisodicPolicyGradient) -> float:
    """Mean share of the map's weight that the agent's episodes cover."""
    assert isinstance(agent.core, SubmodularCoverage)
    found = agent.play(CLAIM_EPISODES).final("set_value").mean()
    return float(found) / float(agent.core.weights.sum())


def coverage_of(agent_class: type[EpisodicPolicyGradient], seed: int, scale: float) -> Outcome:
    """Coverage after learning on the map that belongs to the seed, and on the way."""
    env = gym.make("SubmodularCoverage-v0", **MAP, instance=seed)
    agent = agent_class("TabularPolicy", env, seed=seed, episodes=CLAIM_EPISODES, device="cpu")
    updates = max(int(CLAIM_UPDATES * scale) // CLAIM_POINTS, 1)
    steps, curve = [0.0], [mean_coverage(agent)]
    for _ in range(CLAIM_POINTS):
        agent.learn(updates * CLAIM_EPISODES * MAP["horizon"], reset_num_timesteps=False)
        steps.append(float(agent.num_timesteps))
        curve.append(mean_coverage(agent))
    return Outcome({"coverage": curve[-1]}, {"coverage": (steps, curve)})


def sub_po_arm(seed: int, scale: float) -> Outcome:
    """SubPO."""
    return coverage_of(SubPO, seed, scale)


def modpo_arm(seed: int, scale: float) -> Outcome:
    """MODPO with the same policy, episodes and tapes."""
    from .modpo import MODPO

    return coverage_of(MODPO, seed, scale)


def gradient_arm(seed: int, scale: float) -> Outcome:
    """The expected update against finite differences of J, both by enumeration of all episodes."""
    rng, horizon, small = np.random.default_rng(seed), 3, 1e-5
    core = SubmodularCoverage(2, 3, weights=rng.uniform(0.5, 1.5, (2, 3)), horizon=horizon)
    sequences = np.array(list(product(range(5), repeat=horizon)))
    observations, values = follow(core, sequences)
    actions, steps = torch.as_tensor(sequences.T), torch.arange(horizon)[:, None]
    places = observations[..., :-1].argmax(-1)
    table = torch.as_tensor(rng.standard_normal((horizon, core.elements, 5)))

    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1)[steps, places, actions].sum(0).exp()

    policy = TabularPolicy(core.observation_space, core.action_space, lambda _: 0.0, horizon)
    policy.logits = torch.nn.Parameter(table.clone())
    weights = probabilities(table).expand(horizon, -1)
    to_go = gains_to_go(values)
    log_probs, _ = policy.evaluate(observations, actions)
    # The weights of a step add up to 1, so the mean over the steps is a sum over H.
    policy_gradient_loss(log_probs, to_go - step_means(to_go, weights), weights).backward()
    assert policy.logits.grad is not None
    gradient, slopes = -horizon * policy.logits.grad, torch.zeros_like(table)
    for place in np.ndindex(*table.shape):
        change = torch.zeros_like(table)
        change[place] = small
        rise = probabilities(table + change) - probabilities(table - change)
        slopes[place] = (rise * values[-1]).sum() / (2 * small)
    return Outcome({"gradient error": float((gradient - slopes).abs().max())})


def follow(core: ArrayCore, actions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations [T, n, D] and set values [T + 1, n] of given action sequences [n, T]."""
    tape = core.tapes(len(actions), seed=0)
    state = core.initial(tape)
    observations, values = [], [core.info(state)["set_value"]]
    for action in actions.T:
        observations.append(core.observation(state))
        state = core.transition(state, action, tape)
        values.append(core.info(state)["set_value"])
    return torch.as_tensor(np.stack(observations)), torch.as_tensor(np.stack(values))


SubPO.claim = Claim(
    text="On an 8 x 8 map with sparse weights and 20 steps, a tabular SubPO covers a larger share "
    "of the weight than MODPO with the same episodes, by at least 0.25; its expected update is the "
    "gradient of the expected set value.",
    arms={"SubPO": sub_po_arm, "MODPO": modpo_arm, "gradient": gradient_arm},
    criteria=(
        Superior("coverage", "SubPO", "MODPO"),
        # Not worse by more than -0.25: better by at least 0.25.
        NotInferior("coverage", "SubPO", "MODPO", margin=-0.25),
        Exact("gradient error", "gradient", value=0.0, tolerance=1e-6),
    ),
    seeds=5,
    core_minutes=1.0,
)
