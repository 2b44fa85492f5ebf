from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.cluster.render import cluster_figure, draw_cluster, stacked


def cluster(**arguments):
    env = gym.make("VMRescheduling-v0", **arguments).unwrapped
    env.reset(seed=1)
    return env, {name: value[0] for name, value in env.state.items()}


def test_blocks_are_stacked_largest_first_on_their_nodes():
    owner, node = np.array([0, 0, 1, -1, 0]), np.array([0, 2, 1, -1, 0])
    blocks = stacked(owner, node, np.array([4, 16, 8, 99, 6]))
    assert blocks.vm.tolist() == [1, 4, 0, 1, 2]
    assert blocks.machine.tolist() == [0, 0, 0, 0, 1]
    assert blocks.node.tolist() == [0, 0, 0, 1, 1]
    assert blocks.below.tolist() == [0, 16, 22, 0, 0]


@pytest.mark.parametrize(
    "arguments", [{"pms": 1}, {"pms": 6, "numa": 1}, {"pms": 60}, {"pms": 300}]
)
def test_every_size_is_drawn_within_the_picture(arguments):
    _, one = cluster(**arguments)
    picture = draw_cluster(one, "title")
    assert picture.shape == (600, 960, 3)
    margin = np.concatenate([picture[:, :10].reshape(-1, 3), picture[:, -8:].reshape(-1, 3)])
    assert (margin == 255).all()
    assert picture[80:540].std() > 20


def test_the_title_tells_the_rate_and_texts_do_not_overlap():
    _, one = cluster(pms=24)
    figure = cluster_figure(
        one, "step 2 of 6", [f"a very long machine name {i}" for i in range(24)]
    )
    texts = figure.axes[0].texts
    assert texts and any("fragment rate 0." in text.get_text() for text in texts)
    figure.canvas.draw()
    boxes = np.array([text.get_window_extent().extents for text in texts])
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        others = np.delete(boxes, index, axis=0)
        apart = (
            (others[:, 0] >= x1)
            | (others[:, 2] <= x0)
            | (others[:, 1] >= y1)
            | (others[:, 3] <= y0)
        )
        assert apart.all(), texts[index].get_text()


def test_a_move_changes_the_picture_and_adds_an_arrow():
    env, one = cluster(pms=4, load=0.6, render_mode="rgb_array")
    before = env.render()
    assert not cluster_figure(one).axes[0].patches
    moves = env.action_masks() & (env.state["owner"][0][:, None] != np.arange(4))
    env.step(np.argwhere(moves)[0])
    after = env.render()
    assert (before != after).any()
    moved = {name: value[0] for name, value in env.state.items()}
    assert len(cluster_figure(moved).axes[0].patches) == 1


def test_a_picture_too_small_is_refused():
    with pytest.raises(ValueError, match=r"size=\(100, 100\)"):
        draw_cluster(cluster(pms=2)[1], size=(100, 100))
