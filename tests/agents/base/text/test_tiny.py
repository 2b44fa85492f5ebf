"""The embedded transformer: padding and cache change no number."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.base.text import tiny
from palaestra.agents.base.text.scoring import aligned, distinct
from palaestra.agents.base.text.tiny import TinyTransformer
from palaestra.agents.base.text.tokenizer import padded

TOKENS = 9
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 1, 2]]
REPLIES = [[3, 1, 4, 1], [5, 2, 6, 5], [3, 5, 0, 7]]


def model(**sizes):
    torch.manual_seed(0)
    made = TinyTransformer(TOKENS, TOKENS - 1, **{"context": 16, **sizes})
    torch.nn.init.normal_(made.positions)
    return made


@pytest.fixture(params=[tiny.FEW, 0], ids=["rows last", "rows first"])
def form(request, monkeypatch):
    """Both forms of the cache."""
    monkeypatch.setattr(tiny, "FEW", request.param)


def hidden_alone(made, row):
    return made(torch.tensor([row]))[0]


def test_nothing_depends_on_what_comes_later():
    made = model()
    full = hidden_alone(made, PROMPTS[0])
    for length in range(1, 5):
        torch.testing.assert_close(hidden_alone(made, PROMPTS[0][:length]), full[:length])


def test_rows_padded_on_the_right_equal_rows_alone():
    made = model()
    ids, mask = padded(PROMPTS, pad=8, left=False)
    hidden = made(ids)
    for i, row in enumerate(PROMPTS):
        torch.testing.assert_close(
            hidden[i][mask[i]], hidden_alone(made, row), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1] * 3], ids=["padded", "equal lengths"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_the_cache_and_left_padding_change_no_number(prompts, repeats):
    made = model(layers=3)
    ids, mask = padded(prompts, pad=8, left=True)
    hidden, cache = made.start(ids, mask, repeats, budget=4)
    rows = [prompt for prompt in prompts for _ in range(repeats)]
    replies = [REPLIES[i % 3] for i in range(len(rows))]
    for t in range(5):
        for i, row in enumerate(rows):
            alone = hidden_alone(made, row + replies[i][:t])[-1]
            torch.testing.assert_close(hidden[i], alone, atol=1e-5, rtol=1e-5)
        if t < 4:
            hidden = made.step(torch.tensor([reply[t] for reply in replies]), cache)


@torch.no_grad()
@pytest.mark.usefixtures("form")
def test_rows_that_are_left_in_the_cache_go_on_as_before():
    made = model()
    ids, mask = padded(PROMPTS, pad=8, left=True)
    _, cache = made.start(ids, mask, 1, budget=2)
    kept = torch.tensor([2, 1])
    hidden = made.step(torch.tensor([3, 4]), cache.select(kept))
    for found, i, token in zip(hidden, kept, (3, 4), strict=True):
        torch.testing.assert_close(
            found, hidden_alone(made, PROMPTS[i] + [token])[-1], atol=1e-5, rtol=1e-5
        )


def test_what_is_longer_than_the_context_is_refused():
    made = model(context=4)
    with pytest.raises(ValueError, match="4 tokens together"):
        made(torch.zeros(1, 5, dtype=torch.int64))
    ids = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="got 5"):
        made.start(ids, torch.ones_like(ids).bool(), 1, budget=2)


@pytest.mark.parametrize("sizes", [{"width": 30}, {"layers": 0}, {"heads": 0}, {"context": 0}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes of at least 1"):
        TinyTransformer(4, 4, **sizes)


def test_prompts_and_replies_are_joined_without_a_gap():
    prompts, prompt_mask = padded(PROMPTS, pad=8, left=True)
    tokens, _ = padded(REPLIES, pad=8, left=False)
    ids, lengths = aligned(prompts, prompt_mask, tokens, width=3)
    assert lengths.tolist() == [5, 1, 3]
    for i in range(3):
        row = PROMPTS[i] + REPLIES[i][:3]
        assert ids[i, : len(row)].tolist() == row


def test_different_rows_keep_their_order_and_each_row_finds_its_own():
    rows = torch.tensor([[7, -1], [3, 4], [7, -1], [3, 5], [3, 4]])
    own, owner = distinct(rows)
    assert own.tolist() == [[7, -1], [3, 4], [3, 5]]
    assert owner.tolist() == [0, 1, 0, 2, 1]
