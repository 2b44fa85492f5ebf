"""Characters as tokens: no loss, no silent replacement, padding on the right side."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.base.text.tokenizer import PRINTABLE, CharTokenizer, padded


def test_ids_are_positions_in_the_alphabet():
    tokenizer = CharTokenizer("$0123456789+=", stop="$")
    assert tokenizer.prompt_ids("1+2=") == [tokenizer.bos, 2, 11, 3, 12]
    assert tokenizer.reply_ids("3$") == [4, 0]
    assert tokenizer.eos == 0 and tokenizer.outputs == 13 and tokenizer.tokens == 15


def test_without_a_stop_the_end_token_has_no_text():
    tokenizer = CharTokenizer("ab")
    assert tokenizer.reply_ids("ba") == [1, 0, 2] and tokenizer.eos == 2
    assert tokenizer.text([1, 0, 2]) == "ba"
    assert {tokenizer.eos, tokenizer.bos, tokenizer.pad} == {2, 3, 4}


def test_a_cut_reply_has_no_end_token():
    tokenizer = CharTokenizer("$62", stop="$")
    assert tokenizer.reply_ids("62") == [1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(PRINTABLE, max_size=12), min_size=1, max_size=4))
def test_any_printable_text_comes_back(texts):
    tokenizer = CharTokenizer()
    assert tokenizer.decode(*tokenizer.encode_replies(texts)) == texts


@pytest.mark.parametrize("text, place", [("3×4", 1), ("²", 0), ("37\x00", 2)])
def test_a_character_outside_the_alphabet_is_an_error_that_says_where(text, place):
    with pytest.raises(ValueError, match=f"at place {place}"):
        CharTokenizer().encode([text])


def test_text_after_the_stop_is_an_error():
    with pytest.raises(ValueError, match="goes on after its stop"):
        CharTokenizer("$1", stop="$").reply_ids("1$1")


@pytest.mark.parametrize(
    "alphabet, stop", [("", ""), ("aba", ""), ("ab", "c"), ("ab", "ab")], ids=str
)
def test_impossible_alphabets_are_refused(alphabet, stop):
    with pytest.raises(ValueError):
        CharTokenizer(alphabet, stop)


def test_prompts_are_padded_on_the_left_and_prefixes_follow_them():
    tokenizer = CharTokenizer("$12", stop="$")
    ids, mask = tokenizer.encode(["1", "12"], prefixes=["", "2"])
    bos, pad = tokenizer.bos, tokenizer.pad
    assert ids.tolist() == [[pad, pad, bos, 1], [bos, 1, 2, 2]]
    assert mask.tolist() == [[False, False, True, True], [True] * 4]


def test_replies_are_padded_on_the_right():
    ids, mask = padded([[1], [2, 3]], pad=9, left=False)
    assert ids.tolist() == [[1, 9], [2, 3]]
    assert mask.tolist() == [[True, False], [True, True]]


def test_an_empty_prompt_is_one_token_and_an_empty_reply_is_an_error():
    tokenizer = CharTokenizer("$1", stop="$")
    assert tokenizer.encode([""])[0].tolist() == [[tokenizer.bos]]
    with pytest.raises(ValueError, match="reply 1 has no token"):
        tokenizer.encode_replies(["1$", ""])


def test_stop_strings_are_found_at_the_end_only():
    tokenizer = CharTokenizer("abc")
    ids = torch.tensor([[0, 1], [1, 0], [2, 2]])  # ab, ba, cc
    assert tokenizer.holds(ids, ["ab", "c"]).tolist() == [True, False, True]
    assert tokenizer.holds(ids, ["aba"]).tolist() == [False, False, False]


@pytest.mark.parametrize("stops", ["ab", ["x"], [""]], ids=str)
def test_stop_strings_that_cannot_be_written_are_refused(stops):
    with pytest.raises(ValueError):
        CharTokenizer("abc").check_stops(stops)
