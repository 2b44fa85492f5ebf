"""Muon: orthogonal steps for matrices, Adam's for the rest, and its state in checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch

from palaestra.agents.base.checkpoint import flatten_optimizer, restore_optimizer
from palaestra.agents.base.nets.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 6, 12), (3, 12, 6)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape):
    torch.manual_seed(0)
    given = torch.randn(shape) * 100
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    found = torch.linalg.svdvals(orthogonalised(given))
    assert ((found > 0.3) & (found < 1.3)).all()
    # The same singular vectors: what is left in their basis is diagonal.
    inside = left.transpose(1, 2) @ orthogonalised(given) @ right.transpose(1, 2)
    off = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


def test_what_is_less_than_rounding_counts_as_nothing():
    torch.manual_seed(0)
    given = torch.randn(2, 6, 6)
    given[:, 3] = 1e-38  # the momentum of a unit that is dead
    found = orthogonalised(given)
    assert (found[:, 3] == 0).all()
    torch.testing.assert_close(found[:, :3], orthogonalised(given[:, [0, 1, 2, 4, 5]])[:, :3])


def make(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return net, Muon(matrices, [p for p in net.parameters() if p.ndim != 2], 1e-2)


def learn(net, optimizer, steps, seed=1):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(32, 5, generator=draw)
        loss = (net(x) - x.flip(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_the_rest_is_adam():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(7))
    theirs = torch.nn.Parameter(ours.detach().clone())
    first, second = Muon([], [ours], 0.1), torch.optim.Adam([theirs], 0.1)
    for _ in range(20):
        for parameter, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (parameter.square().sum() + parameter.sin().sum()).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_it_learns():
    net, optimizer = make()
    first = learn(net, optimizer, 1)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    assert learn(net, optimizer, 400) < 0.1 * first


def test_a_step_of_a_matrix_has_the_size_that_is_said():
    weight = torch.nn.Parameter(torch.zeros(12, 6))
    optimizer = Muon([weight], [], 1e-3, stride=10.0)
    weight.grad = torch.randn(12, 6)
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach()) / (10 * 1e-3 * 2**0.5)
    assert ((values > 0.3) & (values < 1.3)).all()


def test_its_state_survives_a_checkpoint():
    net, optimizer = make()
    learn(net, optimizer, 5)
    twin, other = make(seed=3)
    twin.load_state_dict(copy.deepcopy(net.state_dict()))
    kept = flatten_optimizer(optimizer, "optimizer").items()
    restore_optimizer(other, {k.removeprefix("optimizer."): v.clone() for k, v in kept})
    assert learn(net, optimizer, 5, seed=2) == learn(twin, other, 5, seed=2)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"two axes, got \[3\]"):
        Muon([torch.nn.Parameter(torch.zeros(3))], [], 0.1)
    with pytest.raises(ValueError, match="no closure"):
        make()[1].step(lambda: 0.0)
