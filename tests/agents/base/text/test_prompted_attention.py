"""Attention of prompts and their replies: both ways of it, and the gradients."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.base.text import prompted_attention as module
from palaestra.agents.base.text.prompted_attention import Layout, prompted_attention
from palaestra.agents.base.text.tiny import alone, bias_of, causal

HEADS, WIDTH = 2, 6
CPU = torch.device("cpu")


def layout(padded: bool = False) -> Layout:
    """Three prompts of four tokens, one of which nobody replies to, and four replies of three."""
    owner = torch.tensor([2, 0, 2, 2])
    prompts, replies = causal(4, 4, CPU), causal(3, 7, CPU)
    if padded:
        there = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]).bool()
        prompts = (prompts & there[:, None, None]) | torch.eye(4, dtype=torch.bool)
        seen = torch.cat([there[owner], torch.ones(4, 3, dtype=torch.bool)], dim=1)
        replies = replies & seen[:, None, None]
    return Layout(3, 4, 4, 3, owner, bias_of(prompts).double(), bias_of(replies).double())


def joint(seed: int = 0, rows: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3 * WIDTH, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("padded", [False, True])
def test_own_sums_and_torchs_attention_agree(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = joint(1)[:, :WIDTH]
    found = []
    for short in (module.SHORT, 0):
        monkeypatch.setattr(module, "SHORT", short)
        x = joint().requires_grad_()
        seen = prompted_attention(x, HEADS, layout(padded))
        (gradient,) = torch.autograd.grad((seen * weights).sum(), x)
        found.append((seen.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_is_that_of_finite_differences(padded: bool) -> None:
    assert torch.autograd.gradcheck(
        lambda x: prompted_attention(x, HEADS, layout(padded)), joint().requires_grad_()
    )


def test_prompts_alone_are_causal_attention() -> None:
    x = joint().requires_grad_()
    bias = bias_of(causal(8, 8, CPU)).double()
    seen = prompted_attention(x, HEADS, alone(3, bias))
    queries, keys, values = x.view(3, 8, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True
    )
    torch.testing.assert_close(seen, expected.transpose(1, 2).reshape(24, WIDTH))
    assert torch.autograd.gradcheck(lambda x: prompted_attention(x, HEADS, alone(3, bias)), x)


def test_a_reply_sees_its_own_prompt_only() -> None:
    x = joint()
    before = prompted_attention(x, HEADS, layout())
    changed = x.clone()
    changed[4:8] += 1.0  # the prompt that nobody replies to
    after = prompted_attention(changed, HEADS, layout())
    assert torch.equal(before[12:], after[12:])
    changed = x.clone()
    changed[:4] += 1.0  # the prompt of reply 1
    moved = (prompted_attention(changed, HEADS, layout())[12:] != before[12:]).any(dim=1)
    assert moved.view(4, 3).all(dim=1).tolist() == [False, True, False, False]


def test_replies_in_the_order_of_their_prompts_need_no_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    biases = [bias_of(causal(w, k, CPU)).double() for w, k in ((4, 4), (3, 7))]
    weights = joint(1, 30)[:, :WIDTH]
    for short in (module.SHORT, 0):
        monkeypatch.setattr(module, "SHORT", short)
        found = []
        for given in (owner, None):
            x = joint(rows=30).requires_grad_()
            seen = prompted_attention(x, HEADS, Layout(3, 4, 6, 3, given, *biases))
            (gradient,) = torch.autograd.grad((seen * weights).sum(), x)
            found.append((seen.detach(), gradient))
        torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
