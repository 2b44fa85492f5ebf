"""Diffusion of vectors: the schedule, exact denoising of what is known, two modes learned."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from palaestra.agents.base.nets.diffusion import (
    NoisePredictor,
    denoised,
    generate,
    noise_loss,
    noised,
    variance_preserving_betas,
)


def test_the_schedule_keeps_what_the_continuous_one_keeps():
    betas = variance_preserving_betas(5)
    assert [float(betas[0]), float(betas[-1])] == pytest.approx([0.195875, 0.835031], abs=1e-6)
    for steps in (1, 5, 40):
        kept = (1 - variance_preserving_betas(steps)).prod()
        # exp(-low - (high - low) / 2), whatever the number of steps
        assert float(kept) == pytest.approx(0.006409, abs=1e-6)


def test_noise_against_numbers():
    x, noise = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]])
    assert_close(noised(x, noise, torch.tensor(0.64)), torch.tensor([[1.1, 0.4]]))
    assert float(noise_loss(x, noise)) == pytest.approx(0.25 + 9)
    found = denoised(x, noise, torch.tensor(0.36), torch.tensor(0.36), -x)
    assert_close(found, torch.tensor([[(1 - 0.36 / 0.8 * 0.5) / 0.8 - 0.6, -1.9 / 0.8 + 0.6]]))


def test_with_the_exact_noise_every_sample_is_the_only_point_of_the_data():
    point, betas = torch.tensor([0.3, -0.7]), variance_preserving_betas(6).float()
    kept = (1 - betas).cumprod(0)

    def exact(x, step):
        return (x - kept[step].sqrt() * point) / (1 - kept[step]).sqrt()

    noise = torch.randn(6, 50, 2, generator=torch.Generator().manual_seed(0))
    assert_close(generate(exact, betas, noise), point.expand(50, 2))
    clipped = generate(exact, betas, noise, clip=0.5)
    assert clipped.abs().max() == 0.5


def test_two_modes_are_learned_under_the_condition_under_which_they_are():
    torch.manual_seed(0)
    net, betas = NoisePredictor(1, 1, 32, 1, 16), variance_preserving_betas(8).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(500):
        condition = torch.randint(2, (128, 1)).float()
        sign = torch.randint(2, (128, 1)) * 2.0 - 1
        x = torch.where(condition > 0, 0.8 * sign, torch.zeros(1))
        steps = torch.randint(8, (128,))
        loss = net.loss(x, condition, betas, steps, torch.randn_like(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = net.sample(torch.tensor([[[0.0]], [[1.0]]]), betas, torch.randn(8, 2, 400, 1), 1.0)
    one, two = found[..., 0]
    assert one.abs().median() < 0.15
    assert (two.abs() - 0.8).abs().median() < 0.15
    assert 0.3 < (two > 0).float().mean() < 0.7


def test_samples_under_many_conditions_are_those_under_each():
    net, betas = NoisePredictor(2, 3, 16, 2, 8), variance_preserving_betas(4).float()
    condition, noise = torch.randn(5, 1, 3), torch.randn(4, 5, 7, 2)
    with torch.no_grad():
        together = net.sample(condition, betas, noise)
        alone = [net.sample(condition[row], betas, noise[:, row]) for row in range(5)]
        assert_close(together, torch.stack(alone))
        steps = torch.full((7,), 2)
        context = net.context(steps, condition[0])
        assert_close(net(noise[0, 0], steps, condition[0]), net.denoise(noise[0, 0], context))
