"""Reference returns: the published ones, and those that a data set brings."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from palaestra.agents.base.normalised_scores import (
    Reference,
    d4rl_reference,
    normalised_score,
    reference_of,
)
from palaestra.agents.base.offline_files import FileDataset


@pytest.mark.parametrize(
    ("task", "lowest", "highest"),
    [
        ("halfcheetah-medium-v2", -280.178953, 12135.0),
        ("hopper-full-replay-v1", -20.272305, 3234.3),
        ("walker2d-medium-expert-v0", 1.629008, 4592.3),
        ("ant-medium-replay-v2", -325.6, 3879.7),
        ("antmaze-umaze-v2", 0.0, 1.0),
        ("antmaze-large-diverse-v0", 0.0, 1.0),
        ("maze2d-umaze-v1", 23.85, 161.86),
        ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
        ("pen-human-v1", 96.262799, 3076.8331017826877),
        ("relocate-cloned-v0", -6.425911, 4233.877797728884),
        ("kitchen-mixed-v0", 0.0, 4.0),
    ],
)
def test_published_reference_returns(task, lowest, highest):
    assert d4rl_reference(task) == Reference(lowest, highest)


@pytest.mark.parametrize(
    "task",
    ["hopper", "hopper-medium-v3", "hopper-full-replay-v0", "antmaze-umaze-play-v2", "my-own-v0"],
)
def test_tasks_that_were_never_published_have_none(task):
    with pytest.raises(ValueError, match=f"no reference returns are known for '{task}'"):
        d4rl_reference(task)


def test_worked_example_score():
    # (3234.3 - -20.272305) / 2 - 20.272305 = 1607.0138475 lies in the middle.
    returns = [-20.272305, 1607.0138475, 3234.3]
    scores = normalised_score(returns, "hopper-expert-v2")
    np.testing.assert_allclose(scores, [0, 0.5, 1], atol=1e-12)
    assert normalised_score([[15.0]], Reference(10, 20)).tolist() == [[0.5]]


def data(**metadata):
    box = spaces.Box(-1, 1, (1,))
    return FileDataset(
        np.zeros((2, 1)),
        np.zeros((2, 1)),
        observation_space=box,
        action_space=box,
        metadata=metadata,
    )


def test_a_data_set_brings_its_own():
    own = data(ref_min_score=-10.0, ref_max_score=10)
    assert reference_of(own) == Reference(-10.0, 10.0)
    assert normalised_score(5.0, own) == 0.75
    with pytest.raises(ValueError, match="no ref_min_score and ref_max_score"):
        normalised_score(5.0, data(ref_min_score=-10.0))


@pytest.mark.parametrize("pair", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_reference_returns_must_rise(pair):
    with pytest.raises(ValueError, match="must be finite and rise"):
        Reference(*pair)
