"""MDPO: Mirror Descent Policy Optimization.

Manan Tomar, Lior Shani, Yonathan Efroni, Mohammad Ghavamzadeh: Mirror Descent Policy Optimization
(ICLR 2022, arXiv 2005.09814).

Mirror descent on policies improves pi_k in every state s by

    pi_{k+1}(.|s) = argmax_p  <p, A_k(s, .)> - KL(p || pi_k(.|s)) / t_k,    so
    pi_{k+1}(a|s) is proportional to pi_k(a|s) exp(t_k A_k(s, a)).

With a network this problem is solved roughly, by several plain gradient steps on the penalised
objective: no line search, no clipping. The divergence is that of the new policy from the old one;
in TRPO it is the other way round. On-policy, on a batch from pi_k with standardized advantages,

    maximise  mean(pi_theta / pi_k * A) - mean KL(pi_theta || pi_k) / t_k,   t_k from t_0 towards 0,

by m steps of Adam on the whole batch. The gradient of the penalty is zero at pi_k, so one step
would be ordinary policy gradient. With Tsallis' logarithm in the penalty in place of the natural
one, other divergences result, whose mean is estimated from the actions taken.

The class changes PPO's policy loss and the order of its steps. The paper's other algorithm, which
learns from a replay buffer, is in `mdpo_off_policy.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import RolloutBufferSamples, Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ...envs.checks import check_integer, check_number
from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.planning.discounted import evaluate, policy_iteration
from ...extras import require
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.ppo import Evaluation, ProximalAlgorithm

# -- the paper's computation ----------------------------------------------------------------------


def exact_step(log_probs: torch.Tensor, advantages: torch.Tensor, step: float) -> torch.Tensor:
    """The next policy in closed form, proportional to pi exp(t A).

    Args:
        log_probs: log pi(a|s), [..., A].
        advantages: [..., A].
        step: t, at least 0.

    Returns:
        Probabilities, [..., A].
    """
    return (log_probs + step * advantages).softmax(-1)


def step_size(first: float, iteration: int, iterations: float) -> float:
    """t_k = t_0 (1 - (k - 1) / n) of iteration k = 1 .. n; the last is t_0 / n."""
    return first * (1 - (iteration - 1) / iterations)


def standardize(advantages: torch.Tensor) -> torch.Tensor:
    """Advantages [B] with mean 0 and deviation 1; with mean 0 only where all are the same."""
    centred = advantages - advantages.mean()
    if len(advantages) < 2:
        return centred
    deviation = advantages.std()
    # Of equal numbers rounding leaves a deviation that is not quite 0.
    return torch.where(deviation > 1e-6 * advantages.abs().max(), centred / deviation, centred)


def tsallis_log(log_x: torch.Tensor, q: float) -> torch.Tensor:
    """log_q x = (x^(1 - q) - 1) / (1 - q) from log x, [...]; with q = 1 the natural logarithm."""
    return log_x if q == 1 else torch.expm1((1 - q) * log_x) / (1 - q)


def tsallis_difference(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, q: float
) -> torch.Tensor:
    """log_q pi - log_q pi_old of actions, [...], whose mean under pi is the penalty."""
    return tsallis_log(log_prob, q) - tsallis_log(old_log_prob, q)


def kl_per_state(new: Any, old: Any) -> torch.Tensor:
    """KL(new || old), [B], of torch's distributions, or of lists of them, over independent parts of
    an action."""
    if isinstance(new, list):
        parts = zip(new, old, strict=True)
        return torch.stack([kl_per_state(first, second) for first, second in parts]).sum(0)
    found = torch.distributions.kl_divergence(new, old)
    return found.sum(-1) if found.dim() > 1 else found


def mirror_objective(
    log_ratio: torch.Tensor, advantages: torch.Tensor, divergence: torch.Tensor, step: float
) -> torch.Tensor:
    """What the on-policy steps make larger, a scalar.

    Args:
        log_ratio: log pi_theta(a|s) - log pi_k(a|s), [B].
        advantages: standardized, [B].
        divergence: of pi_theta from pi_k, by state, [B].
        step: t_k > 0.
    """
    return (log_ratio.exp() * advantages).mean() - divergence.mean() / step


# -- the algorithm --------------------------------------------------------------------------------

# The paper's rate; it is annealed with the step size.
ANNEALED = LinearSchedule(3e-4, 0.0, 1.0)


class OnPolicyMDPO(ProximalAlgorithm):
    """Mirror descent on rollouts: PPO's rollouts and values, with another way to learn from them.

    A rollout is first used whole for `mirror_steps` gradient steps on the policy, then in
    minibatches for the values. The paper normalizes observations and rewards (SB3's
    `VecNormalize`). Actor and critic share no features, unless `policy_kwargs` says so. Schedules
    are read as at the beginning of a rollout. Log: `train/kl`, mean KL(pi_theta || pi_k) before
    each of the steps, and `train/step_size`.

    Args:
        policy, env: as in SB3.
        mirror_steps: m; 1 is ordinary policy gradient, and warned of.
        step_size: t_0, at least 0; with 0 the policy stays as it is.
        tsallis_q: q of the logarithms in the penalty; 1: KL in closed form.
        learning_rate, batch_size, n_epochs, clip_range_vf: as in SB3; the last three are those of
            the values.
        arguments: further ones of SB3's PPO, of which `clip_range` plays no part.

    Raises:
        ValueError: an argument is out of range, or `target_kl` is given: nothing stops the steps.
    """

    paper = Paper(
        slug="mdpo",
        title="Mirror Descent Policy Optimization",
        authors="Manan Tomar, Lior Shani, Yonathan Efroni, Mohammad Ghavamzadeh",
        year=2022,
        arxiv="2005.09814",
        code="github.com/manantomar/Mirror-Descent-Policy-Optimization",
    )
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={"n_steps": 32, "batch_size": 16, "n_epochs": 2, "mirror_steps": 3},
        steps=160,
    )
    old: Any  # the distribution of actions of pi_k at the states of the rollout

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        mirror_steps: int = 10,
        step_size: float = 1.0,
        tsallis_q: float = 1.0,
        learning_rate: float | Schedule = ANNEALED,
        batch_size: int = 128,
        n_epochs: int = 5,
        clip_range_vf: float | Schedule | None = 0.2,
        **arguments: Any,
    ) -> None:
        self.mirror_steps = check_integer("mirror_steps", mirror_steps, 1)
        self.step_size = check_number("step_size", step_size, 0.0)
        self.tsallis_q = check_number("tsallis_q", tsallis_q)
        if mirror_steps < 2:
            warnings.warn(
                "mirror_steps=1: the gradient of the divergence is zero at the first step, so "
                "there is no trust region",
                stacklevel=2,
            )
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            batch_size=batch_size,
            n_epochs=n_epochs,
            clip_range_vf=clip_range_vf,
            **arguments,
        )

    def _setup_model(self) -> None:
        if self.target_kl is not None:
            raise ValueError(f"target_kl={self.target_kl}: MDPO never stops early, it must be None")
        self.policy_kwargs = {"share_features_extractor": False, **self.policy_kwargs}
        super()._setup_model()

    def train(self) -> None:
        """As the base's, with schedules as at the beginning of the rollout: at its end those of the
        last one would be 0."""
        iterations = max(self._total_timesteps, 1) / (self.n_steps * self.n_envs)
        self._current_progress_remaining += 1 / iterations
        self._current_progress_remaining = min(self._current_progress_remaining, 1.0)
        super().train()

    def run_epochs(self) -> None:
        """The steps on the policy, then the epochs on the values."""
        whole = next(iter(self.rollout_buffer.get()))
        self.improve(self.prepare(whole))
        super().run_epochs()

    def improve(self, batch: RolloutBufferSamples) -> None:
        """The gradient steps on the policy, on the whole rollout."""
        if self.present_step == 0:
            return
        with torch.no_grad():
            distribution: Any = self.policy.get_distribution(batch.observations)
        self.old = distribution.distribution
        for _ in range(self.mirror_steps):
            now = self.evaluate(batch)
            policy_loss, entropy_loss = self.policy_loss(now, batch), self.entropy_loss(now)
            self.note(policy_gradient_loss=policy_loss, entropy_loss=entropy_loss)
            self.gradient_step(policy_loss + self.ent_coef * entropy_loss)

    @property
    def present_step(self) -> float:
        """t_k."""
        return self.step_size * self._current_progress_remaining

    def prepare(self, batch: RolloutBufferSamples) -> RolloutBufferSamples:
        """As the base's; advantages that are all the same become 0."""
        prepared = super().prepare(batch)
        if not self.normalize_advantage:
            return prepared
        return prepared._replace(advantages=standardize(batch.advantages))

    def policy_loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """Minus the penalised objective, a scalar."""
        divergence = kl_per_state(now.distribution, self.old)
        self.note(kl=divergence.mean())
        if self.tsallis_q != 1:
            old_log_prob = now.log_prob - now.log_ratio
            change = tsallis_difference(now.log_prob, old_log_prob, self.tsallis_q)
            divergence = now.log_ratio.exp() * change
        return -mirror_objective(now.log_ratio, batch.advantages, divergence, self.present_step)

    def loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """Of a minibatch: the value loss, which leaves the parameters of the policy alone."""
        value_loss = self.value_loss(now, batch)
        self.note(value_loss=value_loss)
        return self.vf_coef * value_loss

    def moved_too_far(self, now: Evaluation) -> bool:
        """Never: when the values are learned, the policy stands still."""
        return False

    def record(self) -> None:
        """As the base's, with the step size."""
        super().record()
        self.logger.record("train/step_size", self.present_step)


# -- the claim in miniature -----------------------------------------------------------------------

GAMMA, ITERATIONS, NOISE, RATE = 0.95, 30, 0.3, 0.3
TASKS = ("InvertedPendulum-v5", "Hopper-v5")
STEPS, POINTS = 25_000, 20
COMMON: dict[str, Any] = {"n_steps": 512, "clip_range_vf": 0.2, "device": "cpu"}
# Of 3e-4 and 3e-3 the better one for each, in 10000 steps of InvertedPendulum with another seed.
MDPO_RATE, PPO_RATE = LinearSchedule(3e-3, 0.0, 1.0), LinearSchedule(3e-4, 0.0, 1.0)


def ascend(
    logits: torch.Tensor, advantages: torch.Tensor, step: float, rate: float, steps: int
) -> torch.Tensor:
    """Gradient steps of a softmax in tables on the penalised objective of every state.

    Args:
        logits: of pi_k, [..., A].
        advantages: [..., A].
        step: t_k > 0.
        rate, steps: of the ascent.

    Returns:
        Logits, [..., A].
    """
    old = logits.log_softmax(-1)
    for _ in range(steps):
        now = logits.log_softmax(-1)
        gain = advantages - (now - old) / step
        # d/d logit_b of sum_a pi_a gain_a; what the gain itself gives adds up to 0.
        logits = logits + rate * now.exp() * (gain - (now.exp() * gain).sum(-1, keepdim=True))
    return logits


def world(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P [S, A, S] and R [S, A] of the world that belongs to the seed."""
    core: FiniteMDP = gym.make("Garnet-v0", gamma=GAMMA, instance=seed).unwrapped.core  # type: ignore[attr-defined]
    return core.P[0], core.R[0]


def gap_after(steps: int, seed: int, scale: float) -> float:
    """Mean of V* - V after the iterations, each with so many gradient steps."""
    P, R = world(seed)
    rng = np.random.default_rng(seed)
    logits, iterations = torch.zeros(R.shape, dtype=torch.float64), max(int(ITERATIONS * scale), 1)
    for k in range(1, iterations + 1):
        values = evaluate(P, R, logits.softmax(-1).numpy(), GAMMA)
        noise = NOISE * rng.standard_normal(R.shape)  # the same of all arms
        advantages = R + GAMMA * P @ values - values[:, None] + noise
        advantages = (advantages - advantages.mean()) / advantages.std()
        logits = ascend(
            logits, torch.as_tensor(advantages), step_size(1.0, k, iterations), RATE, steps
        )
    best = policy_iteration(P, R, GAMMA).values
    return float((best - evaluate(P, R, logits.softmax(-1).numpy(), GAMMA)).mean())


def trained(
    agent_class: type[ProximalAlgorithm], task: str, seed: int, scale: float, **arguments: Any
) -> tuple[float, tuple[list[float], list[float]]]:
    """Area under the curve, the mean return of the episodes by their steps, and the curve."""
    require("mujoco", extra="mujoco")
    monitor = Monitor(gym.make(task))
    env = VecNormalize(DummyVecEnv([lambda: monitor]))
    agent = agent_class("MlpPolicy", env, seed=seed, **COMMON, **arguments)
    agent.learn(max(int(STEPS * scale), COMMON["n_steps"]))
    lengths, returns = (
        np.asarray(found, dtype=np.float64)
        for found in (monitor.get_episode_lengths(), monitor.get_episode_rewards())
    )
    ends, points = lengths.cumsum(), min(POINTS, len(lengths))
    pieces = np.array_split(np.arange(len(lengths)), points)
    x = [float(ends[piece[-1]]) for piece in pieces]
    y = [float(np.average(returns[piece], weights=lengths[piece])) for piece in pieces]
    return float(np.average(returns, weights=lengths)), (x, y)


def deep(
    agent_class: type[ProximalAlgorithm], seed: int, scale: float, **arguments: Any
) -> Outcome:
    """Areas and curves of all tasks."""
    found = {task: trained(agent_class, task, seed, scale, **arguments) for task in TASKS}
    return Outcome(
        {f"area, {task}": area for task, (area, _) in found.items()},
        {task: curve for task, (_, curve) in found.items()},
    )


def mdpo_arm(seed: int, scale: float) -> Outcome:
    """MDPO with 10 gradient steps, in tables and with networks."""
    gap = gap_after(10, seed, scale)
    found = deep(OnPolicyMDPO, seed, scale, learning_rate=MDPO_RATE)
    return Outcome({"gap": gap, "gap to beat": gap, **found.metrics}, found.curves)


def one_step_arm(seed: int, scale: float) -> Outcome:
    """One gradient step in tables: ordinary policy gradient."""
    gap = gap_after(1, seed, scale)
    return Outcome({"gap": gap, "gap to beat": gap / 2})


def two_steps_arm(seed: int, scale: float) -> Outcome:
    """Two gradient steps in tables."""
    return Outcome({"gap": gap_after(2, seed, scale)})


def five_steps_arm(seed: int, scale: float) -> Outcome:
    """Five gradient steps in tables."""
    return Outcome({"gap": gap_after(5, seed, scale)})


def closed_form_arm(seed: int, scale: float) -> Outcome:
    """The closed form with exact advantages, and the most that it ever loses in a state."""
    P, R = world(seed)
    iterations = max(int(ITERATIONS * scale), 1)
    policy, fall = torch.full(R.shape, 1 / R.shape[-1], dtype=torch.float64), 0.0
    values = evaluate(P, R, policy.numpy(), GAMMA)
    for k in range(1, iterations + 1):
        advantages = torch.as_tensor(R + GAMMA * P @ values - values[:, None])
        policy = exact_step(policy.log(), advantages, step_size(1.0, k, iterations))
        following = evaluate(P, R, policy.numpy(), GAMMA)
        fall, values = max(fall, float((values - following).max())), following
    return Outcome({"largest fall": fall})


def unclipped_arm(seed: int, scale: float) -> Outcome:
    """PPO on the same rollouts, without clipping the ratio."""
    return deep(ProximalAlgorithm, seed, scale, learning_rate=PPO_RATE, clip_range=1e6)


OnPolicyMDPO.claim = Claim(
    text="In Garnets of 20 states with noisy advantages, 30 iterations of a softmax in tables with "
    "10 gradient steps each leave less than half the gap to the optimal values that one step each "
    "leaves; the closed form with exact advantages never makes a state worse. On InvertedPendulum "
    "and Hopper, in 25000 steps, the area under the learning curve of MDPO is at most 5% below "
    "that of PPO without clipping.",
    arms={
        "MDPO": mdpo_arm,
        "1 step": one_step_arm,
        "2 steps": two_steps_arm,
        "5 steps": five_steps_arm,
        "closed form": closed_form_arm,
        "PPO without clipping": unclipped_arm,
    },
    criteria=(
        Superior("gap to beat", "MDPO", "1 step", higher_is_better=False),
        Exact("largest fall", "closed form", value=0.0, tolerance=1e-9),
        *(
            NotInferior(f"area, {task}", "MDPO", "PPO without clipping", margin=0.05, relative=True)
            for task in TASKS
        ),
    ),
    seeds=5,
    core_minutes=9.0,
)
