"""What is drawn: nucleus, inverse distribution, budgets, stop strings, prefixes, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.text.sampling import draw, nucleus

PROMPTS = ["12+3=", "4=", ""]


def policy(**arguments):
    torch.manual_seed(0)
    return TextPolicy(**{"alphabet": "$0123456789+=", "stop": "$", "seed": 3, **arguments})


def direct_nucleus(probs, top_p):
    """Token by token, from the most likely one."""
    kept, total = [0.0] * len(probs), 0.0
    for i in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if total >= top_p - 1e-6:
            break
        kept[i], total = probs[i], total + probs[i]
    return kept


def test_nucleus_on_numbers():
    found = nucleus(torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.25, 0.25, 0.25, 0.25]]), 0.8)
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0.5, 0.0, 0.3], [0.25, 0.25, 0.25, 0.25]])
    )
    found = nucleus(torch.tensor([[0.25, 0.25, 0.25, 0.25]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.25, 0.0, 0.0]]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.floats(0.01, 1.0))
def test_nucleus_equals_the_direct_loop(counts, top_p):
    probs = [count / sum(counts) for count in counts]
    found = nucleus(torch.tensor([probs], dtype=torch.float64), top_p)[0]
    assert found.tolist() == pytest.approx(direct_nucleus(probs, top_p))
    assert found.argmax() == torch.tensor(probs, dtype=torch.float64).argmax()


def test_draw_inverts_the_distribution():
    weights = torch.tensor([0.0, 0.2, 0.0, 0.6, 0.2, 0.0]).expand(6, 6)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.79, 0.81, 1 - 2**-24])
    assert draw(weights, uniforms).tolist() == [1, 1, 3, 3, 4, 4]


def test_draws_have_the_frequencies_of_the_weights():
    probs = torch.tensor([0.1, 0.6, 0.3])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = draw(probs.expand(20_000, 3), uniforms).bincount(minlength=3) / 20_000
    torch.testing.assert_close(counts, probs, atol=0.015, rtol=0)


def test_the_same_seed_gives_the_same_text():
    first, second = policy().generate(PROMPTS, 4), policy().generate(PROMPTS, 4)
    assert first.texts == second.texts and torch.equal(first.log_probs, second.log_probs)
    made = policy()
    again = [made.generate(PROMPTS, 4).texts for _ in range(2)]
    assert again[0] == first.texts and again[1] != first.texts
    made.set_seed(3)
    assert made.generate(PROMPTS, 4).texts == first.texts
    assert policy(seed=4).generate(PROMPTS, 4).texts != first.texts
    given_one = [
        made.generate(PROMPTS, generator=torch.Generator().manual_seed(5)).texts for _ in range(2)
    ]
    assert given_one[0] == given_one[1]


def test_without_a_seed_torchs_decides():
    texts = []
    for _ in range(2):
        torch.manual_seed(7)
        texts.append(TextPolicy().generate("abc", max_tokens=8).texts)
    assert texts[0] == texts[1]


def test_log_probs_of_a_rollout_are_those_of_the_policy():
    made = policy()
    for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (1.3, 0.6), (0.0, 1.0)):
        found = made.generate(PROMPTS, 4, temperature=temperature, top_p=top_p, max_tokens=12)
        batch = found.batch()
        torch.testing.assert_close(
            made.log_probs(batch, temperature or 1.0), batch.old_log_probs, atol=1e-5, rtol=0
        )


def test_a_reply_ends_with_its_first_stop_or_at_its_budget():
    made = policy()
    found = made.generate(PROMPTS, 20, max_tokens=10)
    assert 0 < found.ended.sum() < 60
    for text, ended, row, mask in zip(
        found.texts, found.ended, found.tokens, found.mask, strict=True
    ):
        assert text.endswith("$") == bool(ended) and text.count("$") <= 1
        assert bool(ended) or len(text) == 10
        assert int(mask.sum()) == len(text) and (row[~mask] == made.tokenizer.pad).all()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)


def test_replies_do_not_depend_on_when_others_end():
    """Rows that have ended leave the batch; a row with the same uniforms is the same alone."""
    long = policy().generate(PROMPTS, 8, max_tokens=24)
    without = policy()
    without.tokenizer.ends = (10_000,)  # nothing ends
    endless = without.generate(PROMPTS, 8, max_tokens=24)
    for text, other in zip(long.texts, endless.texts, strict=True):
        assert other.startswith(text)


@pytest.mark.parametrize(
    "given_ones, expected",
    [
        (3, [3] * 6),
        ([2, 5, 1], [2, 2, 5, 5, 1, 1]),
        (np.arange(1, 7), [1, 2, 3, 4, 5, 6]),
        (np.int64(2), [2] * 6),
    ],
    ids=str,
)
def test_budgets_for_all_per_prompt_and_per_reply(given_ones, expected):
    made = policy()
    made.tokenizer.ends = (10_000,)
    found = made.generate(PROMPTS, 2, max_tokens=given_ones)
    assert [len(text) for text in found.texts] == expected
    assert found.mask.sum(dim=1).tolist() == expected and not found.ended.any()


def test_a_stop_string_ends_a_reply():
    made = policy()
    found = made.generate(PROMPTS, 40, max_tokens=20, stops=["1", "23"])
    ends = {text[-1] for text in found.texts}
    assert {"1", "$"} <= ends
    for text, ended in zip(found.texts, found.ended, strict=True):
        assert "1" not in text[:-1] and "23" not in text[:-1]
        assert bool(ended) == text.endswith(("$", "1", "23"))
    endless = policy()
    endless.tokenizer.ends = (10_000,)
    longer = endless.generate(PROMPTS, 40, max_tokens=20).texts
    for short, long in zip(found.texts, longer, strict=True):
        assert long.startswith(short)


def test_a_prefix_is_read_and_begins_the_text():
    made = policy()
    found = made.generate(PROMPTS[:2], 3, temperature=0, max_tokens=4, prefixes=["7", "89"])
    direct = made.generate(["12+3=7", "4=89"], 3, temperature=0, max_tokens=4)
    prefixes = ["7"] * 3 + ["89"] * 3
    assert found.texts == [a + b for a, b in zip(prefixes, direct.texts, strict=True)]
    assert torch.equal(found.tokens, direct.tokens)
    torch.testing.assert_close(found.log_probs, direct.log_probs)
    each = made.generate("4=", 2, temperature=0, max_tokens=4, prefixes=["1", "2"])
    assert [text[0] for text in each.texts] == ["1", "2"] and each.groups.tolist() == [0, 0]


def test_greedy_takes_the_most_likely_token():
    made = policy()
    found = made.generate("12+3=", temperature=0, max_tokens=6)
    ids = made.tokenizer.prompt_ids("12+3=")
    for token in found.tokens[0][found.mask[0]].tolist():
        logits = made.model.logits(made.model(torch.tensor([ids])))[0, -1]
        assert int(logits.argmax()) == token
        ids.append(token)


def test_sampling_follows_the_models_probabilities():
    made = policy()
    drawn = made.generate("4=", 4000, max_tokens=1, temperature=0.8).tokens[:, 0]
    ids = torch.tensor([made.tokenizer.prompt_ids("4=")])
    probs = (made.model.logits(made.model(ids))[0, -1] / 0.8).softmax(-1).detach()
    torch.testing.assert_close(drawn.bincount(minlength=13) / 4000, probs, atol=0.03, rtol=0)


def test_a_small_nucleus_draws_the_most_likely_token():
    made = policy()
    found = made.generate(PROMPTS, 3, top_p=1e-3, max_tokens=5)
    assert found.texts == made.generate(PROMPTS, 3, temperature=0, max_tokens=5).texts


@pytest.mark.parametrize(
    "prompts, arguments",
    [
        ([], {}),
        ("1", {"n": 0}),
        ("1", {"temperature": -1.0}),
        ("1", {"temperature": float("nan")}),
        ("1", {"top_p": 0.0}),
        ("1", {"top_p": 1.1}),
        ("1", {"max_tokens": 0}),
        ("1", {"max_tokens": 2.5}),
        ("1", {"max_tokens": []}),
        (["1", "2"], {"max_tokens": [1, 2, 3]}),
        (["1", "2"], {"n": 2, "prefixes": ["1", "2", "3"]}),
        ("1", {"stops": ["ä"]}),
        ("ä", {}),
        ("1", {"max_tokens": 600}),
    ],
    ids=str,
)
def test_bad_requests_are_refused(prompts, arguments):
    with pytest.raises(ValueError):
        policy().generate(prompts, **arguments)
