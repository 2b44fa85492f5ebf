"""The arrays of a batch: what is refused, and what a part of it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palaestra.agents.base.text.token_batch import TokenBatch


def batch(**changes):
    """Five replies of lengths 3, 1, 2, 4, 1 to prompts of lengths 1, 3, 2, 1, 2."""
    mask = torch.arange(4) < torch.tensor([3, 1, 2, 4, 1])[:, None]
    prompt_mask = torch.arange(3) >= 3 - torch.tensor([1, 3, 2, 1, 2])[:, None]
    return TokenBatch(
        **{
            "prompts": torch.arange(15).reshape(5, 3),
            "prompt_mask": prompt_mask,
            "tokens": torch.arange(20).reshape(5, 4),
            "mask": mask,
            "old_log_probs": -torch.rand(5, 4),
            "advantages": torch.rand(5, 1),
            "rewards": torch.tensor([1.0, 0, 1, 0, 0.5]),
            "groups": torch.tensor([7, 7, 2, 2, 2]),
            "extra": {"returns": torch.rand(5, 4), "levels": torch.arange(5)},
            **changes,
        }
    )


def test_defaults_and_lengths():
    made = batch(groups=None)
    assert made.groups.tolist() == [0, 1, 2, 3, 4] and made.turns.unique().tolist() == [0]
    assert made.lengths.tolist() == [3, 1, 2, 4, 1] and len(made) == 5


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"tokens": torch.zeros(5, dtype=torch.int64)}, "tokens are"),
        ({"mask": torch.ones(5, 4)}, r"mask must be bool \[5, 4\], got float"),
        ({"mask": torch.ones(5, 3, dtype=torch.bool)}, r"got bool \[5, 3\]"),
        ({"old_log_probs": torch.zeros(5, 3)}, r"float \[5, 4\], got float \[5, 3\]"),
        ({"advantages": torch.zeros(5)}, r"\[5, 4\] or \[5, 1\], got float \[5\]"),
        ({"weights": torch.ones(5, 4).long()}, "weights must be float"),
        ({"rewards": torch.zeros(4)}, "rewards must be"),
        ({"groups": torch.zeros(5)}, "groups must be int"),
        ({"turns": torch.zeros(5, 1).long()}, "turns must be"),
        ({"prompt_mask": torch.zeros(5, 3).bool()}, "prompt 0 has no token"),
        ({"mask": torch.eye(5)[:, :4].bool()}, "reply 4 has no token"),
        ({"rewards": torch.tensor([1.0, 0, float("nan"), 0, 0])}, "reply 2 to prompt 2 has"),
        ({"extra": {"x": torch.zeros(5, 2)}}, r"extra\['x'\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arrays_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        batch(**changes)


def test_a_part_has_the_rows_and_no_column_of_padding():
    whole = batch()
    part = whole.select(torch.tensor([4, 2]))
    assert part.tokens.tolist() == [[16, 17], [8, 9]]
    assert part.prompts.tolist() == [[13, 14], [7, 8]] and part.prompt_mask.all()
    assert part.groups.tolist() == [2, 2] and part.rewards.tolist() == [0.5, 1.0]
    assert torch.equal(part.old_log_probs, whole.old_log_probs[[4, 2], :2])
    assert torch.equal(part.advantages, whole.advantages[[4, 2]])
    assert torch.equal(part.extra["returns"], whole.extra["returns"][[4, 2], :2])
    assert part.extra["levels"].tolist() == [4, 2] and part.weights is None


def test_what_was_said_between_turns_stays_in_a_part():
    mask = torch.tensor([[True, False, False, True]] * 5)
    part = batch(mask=mask).select(torch.tensor([1]))
    assert part.tokens.tolist() == [[4, 5, 6, 7]] and part.lengths.tolist() == [2]


@pytest.mark.parametrize("size, parts", [(1, 5), (2, 3), (3, 2), (5, 1), (9, 1)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_minibatches_hold_every_reply_once(size, parts, shuffled):
    generator = torch.Generator().manual_seed(0) if shuffled else None
    found = list(batch().minibatches(size, generator))
    assert len(found) == parts and max(map(len, found)) <= size
    levels = torch.cat([part.extra["levels"] for part in found]).tolist()
    assert sorted(levels) == [0, 1, 2, 3, 4] and (levels == sorted(levels)) != shuffled


def test_whole_groups_stay_together():
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        found = [part.groups.tolist() for part in batch().minibatches(1, generator, True)]
        assert sorted(found) == [[2, 2, 2], [7, 7]]
    together = list(batch().minibatches(4, whole_groups=True))
    assert [sorted(part.groups.tolist()) for part in together] == [[2, 2, 2, 7, 7]]
    with pytest.raises(ValueError, match="size=0"):
        next(batch().minibatches(0))


def test_replace_checks_again():
    made = replace(batch(), weights=torch.ones(5, 1))
    assert made.weights.shape == (5, 1)
    with pytest.raises(ValueError, match="weights"):
        replace(made, weights=torch.ones(4, 1))


def test_batches_are_joined_with_their_padding_and_their_groups_numbered_on():
    wide = batch()
    narrow = wide.select(wide.lengths.argsort()[:1])
    joined = TokenBatch.join([wide, narrow])
    assert len(joined) == len(wide) + 1
    assert joined.groups.tolist() == [
        *wide.groups.tolist(),
        int(wide.groups.max()) + 1 + int(narrow.groups),
    ]
    assert joined.lengths.tolist() == [*wide.lengths.tolist(), *narrow.lengths.tolist()]
    back = joined.select(torch.tensor([len(wide)]))
    assert torch.equal(back.tokens, narrow.tokens) and torch.equal(back.prompts, narrow.prompts)
    with pytest.raises(ValueError, match="have the same tensors"):
        TokenBatch.join([])
    narrow.extra["more"] = torch.zeros(1)
    with pytest.raises(ValueError, match="have the same tensors"):
        TokenBatch.join([wide, narrow])
