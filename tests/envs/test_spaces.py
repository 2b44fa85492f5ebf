import numpy as np
import pytest
from gymnasium import spaces

from palaestra.envs.spaces import FeasibleDiscrete, FeasiblePairs


def test_samples_are_feasible_as_soon_as_the_environment_has_said_what_is():
    space = FeasibleDiscrete(5, seed=0)
    assert {int(space.sample()) for _ in range(200)} == set(range(5))
    space.feasible = np.array([False, True, False, True, False])
    assert {int(space.sample()) for _ in range(50)} == {1, 3}
    assert space.sample(mask=np.array([1, 0, 0, 0, 0], dtype=np.int8)) == 0
    assert space == spaces.Discrete(5)


def test_samples_of_pairs_follow_the_joint_mask():
    space = FeasiblePairs([2, 3], seed=0)
    assert {tuple(space.sample()) for _ in range(200)} == {
        (v, p) for v in range(2) for p in range(3)
    }
    space.feasible = np.array([[False, True, False], [False, False, True]])
    assert {tuple(space.sample()) for _ in range(50)} == {(0, 1), (1, 2)}
    given = np.zeros((2, 3), dtype=bool)
    given[1, 0] = True
    assert tuple(space.sample(mask=given)) == (1, 0)
    assert space.contains(space.sample(mask=np.zeros((2, 3), dtype=bool)))  # nothing is feasible
    assert space == spaces.MultiDiscrete([2, 3])


def test_a_joint_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(3, 2\)"):
        FeasiblePairs([2, 3]).sample(mask=np.ones((3, 2), dtype=bool))
