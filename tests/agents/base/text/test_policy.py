"""What learners ask of a policy: scores, heads, files, a warm start; and SB3's `predict`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load, save
from stable_baselines3.common.policies import BasePolicy

from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.text.token_batch import TokenBatch

PROMPTS, REPLIES = ["12+3=", "4=", ""], ["15$", "4$", "1+1"]


def policy(**arguments):
    torch.manual_seed(0)
    return TextPolicy(**{"alphabet": "$0123456789+=", "stop": "$", "seed": 3, **arguments})


@torch.no_grad()
def direct_scores(made, batch, temperature=1.0):
    """Row by row, without padding: log-probabilities and entropies of the tokens."""
    log_probs, entropies = torch.zeros(batch.mask.shape), torch.zeros(batch.mask.shape)
    for i in range(len(batch)):
        prompt = batch.prompts[i][batch.prompt_mask[i]]
        end = int(batch.mask[i].nonzero()[-1]) + 1
        ids = torch.cat([prompt, batch.tokens[i, :end]])[None]
        scores = (made.model.logits(made.model(ids))[0] / temperature).log_softmax(-1)
        for t in range(end):
            if batch.mask[i, t]:
                row = scores[len(prompt) + t - 1]
                log_probs[i, t] = row[batch.tokens[i, t]]
                entropies[i, t] = -(row.exp() * row).sum()
    return log_probs, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("most_logits", [2**22, 30], ids=["whole", "chunks"])
def test_scores_of_a_padded_batch_are_those_of_single_rows(temperature, most_logits):
    made = policy(most_logits=most_logits)
    batch = made.batch(PROMPTS, REPLIES)
    found = made(batch, temperature, entropy=True)
    log_probs, entropies = direct_scores(made, batch, temperature)
    torch.testing.assert_close(found.log_probs, log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropies, entropies, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.entropy(batch, temperature), entropies, atol=1e-5, rtol=0)
    assert found.values is None and not found.log_probs[~batch.mask].any()


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1] * 3], ids=["padded", "one prompt"])
def test_prompts_that_are_read_once_change_no_number_and_no_gradient(prompts):
    made = policy(value_head=True, labels=2)
    replies = [*REPLIES, "9+2=11$", "0", "123", "7$", "$", "+"]
    batch = made.batch(prompts * 3, replies)
    found = made(batch, entropy=True)
    log_probs, entropies = direct_scores(made, batch)
    torch.testing.assert_close(found.log_probs, log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropies, entropies, atol=1e-5, rtol=0)
    together = made.classify(batch)
    weights = torch.linspace(0.5, 1, found.log_probs.numel()).view_as(found.log_probs)
    (weights * found.log_probs).sum().backward()
    gradients = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    for i in range(9):  # alone, a prompt is not shared
        one = made.batch([(prompts * 3)[i]], [replies[i]])
        torch.testing.assert_close(made.classify(one)[0], together[i], atol=1e-5, rtol=0)
        (weights[i, : one.tokens.shape[1]] * made.log_probs(one)).sum().backward()
    alone = {n: p.grad for n, p in made.named_parameters() if p.grad is not None}
    torch.testing.assert_close(gradients, alone, atol=1e-5, rtol=1e-4)


def test_what_was_said_between_turns_is_read_but_not_scored():
    made = policy()
    mask = torch.tensor([[True, False, False, True, False]])
    tokens = torch.tensor([[1, 5, 6, 2, 9]])
    one = made.batch(["4="], ["4$"])
    batch = TokenBatch(one.prompts, one.prompt_mask, tokens, mask)
    found = made.log_probs(batch)
    torch.testing.assert_close(found, direct_scores(made, batch)[0], atol=1e-5, rtol=0)
    other = TokenBatch(one.prompts, one.prompt_mask, tokens + 0, mask)
    other.tokens[0, 1] = 7
    changed = made.log_probs(other)
    assert changed[0, 0] == found[0, 0] and changed[0, 3] != found[0, 3]


def gradients(made, batch, chunked):
    made.most_logits = 30 if chunked else 2**22
    made.zero_grad()
    scores = made(batch, 0.8, entropy=True, values=True)
    weights = torch.linspace(0, 1, scores.log_probs.numel()).view_as(scores.log_probs)
    loss = (weights * (scores.log_probs + scores.entropies**2 + (scores.values - 1) ** 2)).sum()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in made.named_parameters()}


def test_chunks_have_the_gradients_of_the_whole():
    made = policy(value_head=True)
    batch = made.batch(PROMPTS, REPLIES)
    whole, chunks = gradients(made, batch, False), gradients(made, batch, True)
    assert all(gradient.abs().max() > 0 for gradient in whole.values())
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=1e-5)


def test_chunks_hold_less_than_all_logits():
    made = policy(most_logits=40)
    seen = []
    inner = made.model.logits
    made.model.logits = lambda hidden: seen.append(len(hidden)) or inner(hidden)
    made.log_probs(made.batch(PROMPTS, REPLIES))
    assert seen == [3, 3, 2]  # 8 tokens, 13 logits each, at most 40 at once


def test_gradients_are_those_of_finite_differences():
    made = policy(model_kwargs={"width": 8, "layers": 1, "heads": 2}, most_logits=30).double()
    batch = made.batch(PROMPTS, REPLIES)
    parameter = made.model.blocks[0].back.weight
    made.log_probs(batch).sum().backward()
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[2, 5] += sign * 1e-5
            sums.append(made.log_probs(batch).sum().item())
            parameter[2, 5] -= sign * 1e-5
    assert parameter.grad[2, 5].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5)


def test_values_are_of_the_states_before_the_tokens():
    made = policy(value_head=True)
    batch = made.batch(PROMPTS, REPLIES)
    assert not made.values(batch).any()  # a new head values everything at 0
    torch.nn.init.normal_(made.value_head.weight)
    found = made.values(batch)
    torch.testing.assert_close(made(batch, values=True).values, found)
    other = made.batch(PROMPTS, ["25$", "5$", "2+1"])
    torch.testing.assert_close(made.values(other)[:, 0], found[:, 0])
    assert (made.values(other)[:, 1] != found[:, 1]).all()


def test_classes_are_read_at_the_last_token():
    made = policy(labels=2)
    batch = made.batch(PROMPTS, REPLIES)
    found = made.classify(batch)
    for i in range(3):
        tokenizer = made.tokenizer
        ids = tokenizer.prompt_ids(PROMPTS[i]) + tokenizer.reply_ids(REPLIES[i])
        expected = made.label_head(made.model(torch.tensor([ids]))[0, -1])
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)


def test_heads_that_are_not_there_are_named():
    made = policy()
    batch = made.batch(PROMPTS, REPLIES)
    for call in (made.values, made.classify, lambda b: made(b, values=True)):
        with pytest.raises(ValueError, match="has no"):
            call(batch)


def test_predict_takes_a_prompt_or_several():
    made = policy()
    assert isinstance(made, BasePolicy)
    reply, state = made.predict("4=", deterministic=True)
    assert isinstance(reply, str) and state is None
    for several in (["4=", "5="], ("4=", "5="), np.array(["4=", "5="])):
        replies, _ = made.predict(several, deterministic=True)
        assert len(replies) == 2 and replies[0] == reply
    assert made.predict(np.array("4="), deterministic=True)[0] == reply
    assert made.predict([])[0] == []
    sampled = [made.predict("4=")[0] for _ in range(5)]
    assert len(set(sampled)) > 1
    for wrong in (3, ["4=", 3], None):
        with pytest.raises(ValueError, match="a prompt is a text"):
            made.predict(wrong)


def test_spaces_of_text_give_the_alphabet_and_the_budget():
    seen = spaces.Text(10, charset="ba+")
    act = spaces.Text(7, charset="$c")
    made = TextPolicy(seen, act, stop="$")
    assert made.tokenizer.alphabet == "$+abc" and made.max_tokens == 7
    assert TextPolicy(spaces.Discrete(2), act).tokenizer.alphabet.startswith("0123")


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_kwargs": {"lora": {}}},
        {"chat": True},
        {"labels": -1},
        {"temperature": -1},
        {"most_logits": 0},
        {"model": "/nowhere"},
    ],
    ids=str,
)
def test_impossible_policies_are_refused(arguments):
    with pytest.raises(ValueError):
        policy(**arguments)


def test_a_file_brings_the_policy_back(tmp_path):
    made = policy(value_head=True, labels=3, model_kwargs={"width": 32, "layers": 1})
    made.observation_space = spaces.Text(10, charset="ab")
    torch.nn.init.normal_(made.value_head.weight)
    made.save(tmp_path / "policy")
    back = TextPolicy.load(tmp_path / "policy", device="cpu")
    assert back.arguments == made.arguments
    assert back.observation_space == made.observation_space and back.action_space is None
    batch = made.batch(PROMPTS, REPLIES)
    assert torch.equal(back.log_probs(batch), made.log_probs(batch))
    assert torch.equal(back.values(batch), made.values(batch))
    assert torch.equal(back.classify(batch), made.classify(batch))
    assert back.generate(PROMPTS, 3).texts == made.generate(PROMPTS, 3).texts


def test_state_dict_goes_through_safetensors():
    made, other = policy(), policy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    other.load_state_dict(load(save(made.state_dict())))
    batch = made.batch(PROMPTS, REPLIES)
    assert torch.equal(other.log_probs(batch), made.log_probs(batch))
    short = made.state_dict()
    short.pop("model.head.weight")
    with pytest.raises(RuntimeError, match="head.weight"):
        other.load_state_dict(short)


def test_a_frozen_copy_stays_as_it_was():
    made = policy()
    made.generate("4=")  # so that there is a generator to copy
    batch = made.batch(PROMPTS, REPLIES)
    reference = made.frozen_copy()
    before = reference.log_probs(batch)
    assert not before.requires_grad
    made.warm_start([("4=", "4$")], 2)
    assert torch.equal(reference.log_probs(batch), before)
    assert not torch.equal(made.log_probs(batch), before)
    twin = copy.deepcopy(made)
    assert twin.generate("4=").texts == made.generate("4=").texts


PAIRS = [(f"{a}+{b}=", f"{a + b}$") for a in range(10) for b in range(10)]


def test_a_warm_start_learns_what_it_is_shown():
    made = policy()
    losses = made.warm_start(PAIRS, 200, batch_size=50, learning_rate=3e-3)
    assert len(losses) == 200 and losses[-1] < 0.25 * losses[0]
    assert not made.training
    replies, _ = made.predict([prompt for prompt, _ in PAIRS], deterministic=True)
    right = np.mean([r == answer for r, (_, answer) in zip(replies, PAIRS, strict=True)])
    assert right > 0.6


def test_a_warm_start_is_the_same_with_the_same_seed_and_ends_when_told():
    first, second = policy(), policy()
    assert first.warm_start(PAIRS, 6) == second.warm_start(PAIRS, 6)
    assert policy().warm_start(PAIRS, 6, seed=1) != second.warm_start(PAIRS, 6)
    asked = []
    losses = policy().warm_start(
        PAIRS, 100, until=lambda step: asked.append(step) or step >= 4, every=2
    )
    assert len(losses) == 4 and asked == [2, 4]


def test_the_loss_of_a_warm_start_is_the_mean_over_reply_tokens():
    made = policy()
    batch = made.batch(PROMPTS, REPLIES)
    log_probs = direct_scores(made, batch)[0]
    losses = made.warm_start(list(zip(PROMPTS, REPLIES, strict=True)), 1)
    assert losses[0] == pytest.approx(-log_probs.sum().item() / 8, abs=1e-5)


@pytest.mark.parametrize(
    "pairs, arguments",
    [([], {}), (PAIRS, {"batch_size": 0}), (PAIRS, {"every": 0}), ([("ä", "1$")], {})],
    ids=["no pairs", "no batch", "never", "unknown character"],
)
def test_a_warm_start_that_makes_no_sense_is_refused(pairs, arguments):
    with pytest.raises(ValueError):
        policy().warm_start(pairs, 1, **arguments)
