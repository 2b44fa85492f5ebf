"""Randomness of a wrapper's own, apart from that of the environment below."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np


class EpisodeNoise:
    """A generator for every episode, which decides all that the wrapper draws in it.

    Episodes follow from the seed of the latest seeded reset and from how many there were since,
    not from their lengths: two agents that are compared meet the same draws. The environment's own
    generator is left alone, so that it starts as it would without the wrapper.

    Args:
        wrapper: the wrapper that draws, already around its environment. Wrappers of different
            classes, or around each other, draw independently.
    """

    def __init__(self, wrapper: gym.Wrapper) -> None:
        depth, layer = 0, wrapper.env
        while isinstance(layer, gym.Wrapper):
            depth += type(layer) is type(wrapper)
            layer = layer.env
        self._key = (zlib.crc32(type(wrapper).__name__.encode()), depth)
        self._seeds = np.random.SeedSequence(spawn_key=self._key)

    def begin(self, seed: int | None) -> np.random.Generator:
        """The generator of the episode that begins with a reset of this seed (None: goes on)."""
        if seed is not None:
            self._seeds = np.random.SeedSequence(seed, spawn_key=self._key)
        return np.random.default_rng(self._seeds.spawn(1)[0])

    def get_state(self) -> dict[str, Any]:
        """What decides the episodes to come, as JSON values."""
        return {"entropy": self._seeds.entropy, "episodes": self._seeds.n_children_spawned}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self._seeds = np.random.SeedSequence(
            state["entropy"], spawn_key=self._key, n_children_spawned=state["episodes"]
        )
