"""`CombinationLock-v0`: one right key per step, and a small consolation for giving up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from ..base import Arrays
from ..checks import check_choice, check_flag, check_integer, check_number, check_share
from .finite_mdp import OBSERVATIONS, FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv
from .probabilities import pick

TEMPERATURE = 0.1  # of the softmax that turns an action of numbers into a key
NOISE = 0.1  # standard deviation of the noise in an observation


class CombinationLock(FiniteMDP):
    """A lock of H keys, of which each wrong one ends the attempt without saying so.

    ## Description
    Every step has its right key, which also depends on which of two good latents one is in. Only
    right keys all along open the lock, so that an agent that tries keys at random finds it with
    probability about 1 / A^H. A consolation, paid for failing, leads away from searching on.

    ## Observation
    The latent: `Discrete(m + 1)` (`observation="index"`), 0 .. m - 1 good, m bad, or its unit
    vector in `Box(0, 1, (m + 1,))`, float32 (`"onehot"`). The step is in `info["t"]`.

    `observation="hadamard"`: `Box` of n = 2^ceil(log2(H + m + 2)) unbounded numbers, float32, the
    product of the n x n Hadamard matrix (Sylvester's, entries 1 and -1) and a vector that holds the
    unit vector of the latent (m + 1), then that of the step 0 .. H (H + 1), then zeros, plus noise
    N(0, 0.1^2) on its first H + m + 1 entries.

    ## Action
    `Discrete(A)`, the key (`action="index"`). With `action="logits"` numbers x in `Box(-1, 1,
    (A,))`; the key is then drawn with probabilities softmax(x / 0.1).

    ## Dynamics
    Those of `FiniteMDP` with tables for each step. `default_rng(instance).integers(A, size=(H, m))`
    draws the right keys, resets never change them. The first latent is uniform over the good ones.

        right key in good g   with probability keep it stays good: then 1 - g with probability
                              switch, else g (g if m = 1); otherwise bad
        any other key         bad
        in bad                bad for ever

    With "hadamard" or "logits" the tape goes on with `random(H)`, the uniforms that pick the keys,
    and `0.1 standard_normal((H + 1, H + m + 1))`, the noise of each observation.

    ## Reward
    - Last step: 1 for the right key in a good latent, otherwise (in bad too) `size` with
      probability `probability`, both from `consolation`.
    - Earlier: 0. With `shaped` a wrong key in a good latent pays as the consolation does.
    - With `distractor` > 0 key (right + 1) mod A of a good latent pays it for certain at the first
      step, instead of what is said above, and leads to bad as every wrong key.

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `horizon`, `keys`: H and A, integers >= 1.
    - `latents`: m, 1 or 2.
    - `switch`, `keep`: probabilities.
    - `consolation`: (size, probability), a finite number and a probability.
    - `shaped`: whether giving up early is consoled at once.
    - `distractor`: a reward >= 0; above 0 it needs two keys.
    - `observation`, `action`: as above, in any combination.
    - `instance`: integer >= 0.
    - `reset(options={"state": s})` starts from latent s; the tape is drawn all the same.

    `right_keys` [H, m] holds the solution. What planners read is about keys, also with logits;
    gamma is 1. The optimal return is keep^(H - 1), if keep is 1 or nothing is paid for failing.

    ## Data files
    None.

    ## Sources
    Y. Zhou, A. Sekhari, Y. Song, W. Sun, Offline Data Enhanced On-Policy Policy Gradient with
    Provable Guarantees, ICLR 2024, arXiv 2311.08384 (the lock with numbers for actions). D. Misra,
    M. Henaff, A. Krishnamurthy, J. Langford, Kinematic State Abstraction and Provably Efficient
    Rich-Observation Reinforcement Learning, ICML 2020, arXiv 1911.05815 (the lock before it).

    ## Version
    v0.
    """

    arrays = (*FiniteMDP.arrays, "_latent_codes", "_step_codes")

    def __init__(
        self,
        horizon: int = 20,
        keys: int = 10,
        *,
        latents: int = 2,
        switch: float = 0.5,
        keep: float = 1.0,
        consolation: tuple[float, float] = (0.1, 0.5),
        shaped: bool = False,
        distractor: float = 0.0,
        observation: str = "index",
        action: str = "index",
        instance: int = 0,
    ) -> None:
        steps, keys = check_integer("horizon", horizon, 1), check_integer("keys", keys, 1)
        good = check_integer("latents", latents, 1, 2)
        if len(np.atleast_1d(consolation)) != 2:
            raise ValueError(f"consolation={consolation!r} must be a size and a probability")
        size = check_number("consolation[0]", consolation[0])
        probability = check_share("consolation[1]", consolation[1])
        if check_number("distractor", distractor, 0.0) > 0 and keys < 2:
            raise ValueError(f"distractor={distractor} needs two keys, got keys={keys}")
        check_choice("observation", observation, (*OBSERVATIONS, "hadamard"))
        check_choice("action", action, ("index", "logits"))
        rng = np.random.default_rng(check_integer("instance", instance, 0))
        self.right_keys = rng.integers(keys, size=(steps, good))
        right = self.right_keys[:, :, None] == np.arange(keys)  # [H, m, A]

        P = np.zeros((steps, good + 1, keys, good + 1))
        stays, latent = check_share("keep", keep) * right, np.arange(good)
        changes = check_share("switch", switch) if good == 2 else 0.0
        for g in latent:
            P[:, g, :, g] = stays[:, g] * (1 - changes)
            P[:, g, :, good - 1 - g] += stays[:, g] * changes
        P[:, :good, :, good], P[:, good, :, good] = 1 - stays, 1.0

        low, high, q = (np.zeros((steps, good + 1, keys)) for _ in range(3))
        high[-1], q[-1] = size, probability
        if check_flag("shaped", shaped):
            high[:-1, :good], q[:-1, :good] = size * ~right[:-1], probability * ~right[:-1]
        paid = [(low[-1, :good], right[-1], 1.0), (high[-1, :good], right[-1], 1.0)]
        if distractor > 0:
            lure = np.roll(right[0], 1, axis=1)
            paid += [(low[0, :good], lure, distractor), (high[0, :good], lure, distractor)]
        for table, where, amount in paid:
            table[where] = amount

        super().__init__(
            P,
            *(table[..., None] for table in (low, high, q)),
            d0=np.append(np.full(good, 1 / good), 0.0),
            horizon=steps,
            observation="index" if observation == "hadamard" else observation,
            gamma=1.0,
        )
        self._hadamard, self._logits = observation == "hadamard", action == "logits"
        self._noisy = steps + good + 1  # entries of an observation's vector that get noise
        codes = np.eye(2 ** int(np.ceil(np.log2(self._noisy + 1))))
        self._latent_codes, self._step_codes = codes[: good + 1], codes[good + 1 : self._noisy + 1]
        if self._hadamard:
            bound = np.finfo(np.float32).max
            self.observation_space = gym.spaces.Box(-bound, bound, (len(codes),), np.float32)
        if self._logits:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (keys,), np.float32)

    @property
    def _continuous(self) -> bool:
        return self._hadamard or self._logits

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """As of a `FiniteMDP`, then the uniforms that pick the keys and the noise."""
        tape = super().draw_tape(rng, options)
        if self._continuous:
            tape["w"] = rng.random(self._tape_steps)
            noise = np.zeros((self._tape_steps + 1, self._step_codes.shape[1]))
            noise[:, : self._noisy] = NOISE * rng.standard_normal((len(noise), self._noisy))
            tape["noise"] = noise
        return tape

    def initial(self, tape: Arrays) -> Arrays:
        """As of a `FiniteMDP`; `key` is the one pressed last, `noise` [n, size] that of the
        observation."""
        state = super().initial(tape)
        if self._continuous:
            state |= {"key": 0 * state["t"], "noise": tape["noise"][:, 0] + 0.0}
        return state

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step; `action` int64 [n], or float64 [n, A] as logits."""
        if not self._continuous:
            return super().transition(state, action, tape)
        rows, t = array_namespace(state["t"]).arange(len(state["t"])), state["t"]
        key = choose(action, tape["w"][rows, t]) if self._logits else action
        after = super().transition(state, key, tape)
        return {**after, "key": key, "noise": tape["noise"][rows, t + 1]}

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """As of a `FiniteMDP`, by the key that was pressed, [n]."""
        return super().reward(state, next_state["key"] if self._logits else action, next_state)

    def observation(self, state: Arrays) -> Any:
        """The latent, or its code, [n, ...]."""
        if not self._hadamard:
            return super().observation(state)
        xp = array_namespace(state["s"])
        code = self._latent_codes[state["s"]] + self._step_codes[state["steps"]] + state["noise"]
        return xp.astype(hadamard(code), xp.float32)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The right keys, step by step, and where the attempt is."""
        from .render_lock import draw_lock

        step, latent = int(state["steps"][index]), int(state["s"][index])
        return draw_lock(self.right_keys, self.picture_values(), step, latent)


def choose(logits: Any, w: Any) -> Any:
    """Keys drawn with probabilities softmax(logits / 0.1) by uniforms.

    Args:
        logits: [n, A].
        w: uniforms in [0, 1), [n].

    Returns:
        int64 [n].
    """
    xp = array_namespace(logits)
    scores = logits / TEMPERATURE
    weights = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    sums = xp.cumulative_sum(weights, axis=1)
    return pick(sums / sums[:, -1:], w)


def hadamard(vectors: Any) -> Any:
    """Products of Sylvester's Hadamard matrix and vectors [n, size], size a power of 2.

    Sums and differences of pairs, so that every row is rounded in the same way for any n.
    """
    xp = array_namespace(vectors)
    n, size = vectors.shape
    half = 1
    while half < size:
        pairs = xp.reshape(vectors, (n, size // (2 * half), 2, half))
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        vectors = xp.reshape(xp.stack([first + second, first - second], axis=2), (n, size))
        half *= 2
    return vectors


class CombinationLockEnv(FiniteMDPEnv):
    """Face 1 of `CombinationLock`: `gymnasium.make("CombinationLock-v0", horizon=20)`."""

    core_class = CombinationLock


class CombinationLockVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `CombinationLock`: `gymnasium.make_vec("CombinationLock-v0", num_envs=1024,
    horizon=20)`."""

    core_class = CombinationLock
