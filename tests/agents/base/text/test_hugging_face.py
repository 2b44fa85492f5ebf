"""Models of Hugging Face: the numbers are transformers' own."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.text.tokenizer import HuggingFaceTokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

PROMPTS = ["What is 37+25?", "Compute 4+4:", "1"]
REPLIES = ["62 of course.", "8", "because\nyes"]
SIZES = {
    "vocab_size": 320,  # more than the tokenizer has
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def tokenizer():
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(PROMPTS + REPLIES, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>"
    )


CONFIGS = {
    "Llama": lambda: transformers.LlamaConfig(**SIZES, attention_dropout=0.5),
    "Llama, tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "GPT-2": lambda: transformers.GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128
    ),
    "Gemma 2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8, sliding_window=4),
    "Granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=3.0),
    "Cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.25),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Writes a random model of a name in CONFIGS once; its directory."""
    written = {}

    def write(name="Llama"):
        if name not in written:
            torch.manual_seed(0)
            config = CONFIGS[name]()
            config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, None
            model = transformers.AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            written[name] = tmp_path_factory.mktemp("model")
            model.save_pretrained(written[name])
            tokenizer().save_pretrained(written[name])
        return str(written[name])

    return write


def policy(path, **arguments):
    return TextPolicy(**{"model": path, "seed": 0, "max_tokens": 12, **arguments})


def own_log_probs(path, batch):
    """Transformers' numbers, row by row without padding."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    found = torch.zeros(batch.mask.shape)
    for i in range(len(batch)):
        prompt, reply = batch.prompts[i][batch.prompt_mask[i]], batch.tokens[i][batch.mask[i]]
        with torch.no_grad():
            logits = model(torch.cat([prompt, reply])[None]).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        found[i, : len(reply)] = scores.gather(1, reply[:, None])[:, 0]
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_are_transformers_own(directory, name):
    path = directory(name)
    made = policy(path)
    batch = made.batch(PROMPTS, REPLIES)
    made.set_training_mode(True)  # dropout is off all the same
    found = made.log_probs(batch)
    torch.testing.assert_close(found, own_log_probs(path, batch), atol=1e-5, rtol=0)
    rollout = made.generate(PROMPTS, 3).batch()
    torch.testing.assert_close(
        rollout.old_log_probs, made.log_probs(rollout).detach(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        rollout.old_log_probs, own_log_probs(path, rollout), atol=1e-5, rtol=0
    )


def test_what_was_written_is_constant_and_can_be_learned_from(directory):
    for made in (policy(directory()), TextPolicy(seed=0, max_tokens=6)):
        rollout = made.generate(["3+4=", "12+3="], 2).batch()
        for name, tensor in rollout.tensors().items():
            assert not tensor.requires_grad and not tensor.is_inference(), name
        made.set_training_mode(True)
        assert rollout.old_log_probs is not None
        (made.log_probs(rollout) - rollout.old_log_probs).exp().sum().backward()
        gradients = [p.grad for p in made.parameters() if p.grad is not None]
        assert gradients and any(bool(gradient.any()) for gradient in gradients)


def test_greedy_replies_are_transformers_own(directory):
    path = directory()
    made = policy(path)
    found = made.generate(PROMPTS, temperature=0)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([made.tokenizer.prompt_ids(prompt)])
        own = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=1)
        expected = own[0, ids.shape[1] :]
        assert torch.equal(found.tokens[i][found.mask[i]], expected[: int(found.mask[i].sum())])


def test_chunks_have_the_numbers_and_gradients_of_the_whole(directory):
    made = policy(directory("Llama, tied"))
    batch = made.batch(PROMPTS, REPLIES)
    found = []
    for most_logits in (2**22, 1000):
        made.most_logits = most_logits
        made.zero_grad()
        scores = made(batch, entropy=True)
        (scores.log_probs.sum() + (scores.entropies**2).sum()).backward()
        found.append(
            [scores.log_probs.detach()]
            + [parameter.grad.clone() for parameter in made.parameters()]
        )
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_no_gradient(directory):
    found = []
    for checkpointing in (False, True):
        made = policy(directory(), model_kwargs={"gradient_checkpointing": checkpointing})
        made.set_training_mode(True)
        batch = made.generate(PROMPTS, temperature=0).batch()
        made.log_probs(batch).sum().backward()
        assert made.training
        found.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(found[1], found[0])


def test_the_end_token_becomes_the_stop_and_back(directory):
    made = policy(directory(), stop="$")
    batch = made.batch(["1"], ["62$"])
    assert batch.tokens[0, -1] == 1 and made.tokenizer.decode(batch.tokens, batch.mask) == ["62$"]
    cut = made.batch(["1"], ["62"])
    assert 1 not in cut.tokens and made.tokenizer.decode(cut.tokens, cut.mask) == ["62"]


def test_replies_end_with_what_is_asked_for(directory):
    made = policy(directory(), stop="$", max_tokens=40)
    with torch.no_grad():
        made.model.inner.lm_head.weight[len(made.tokenizer.inner) :] = 0
    found = made.generate(PROMPTS, 30, stops=["ou"], temperature=1.5)
    for text, ended in zip(found.texts, found.ended, strict=True):
        assert text.count("$") <= 1 and "$" not in text[:-1] and "ou" not in text[:-2]
        assert text.endswith(("$", "ou")) == bool(ended)
    assert found.ended.any() and not found.ended.all()
    assert made.tokenizer.holds(torch.tensor(made.tokenizer.ids("course"))[None], ["ou"])
    assert not made.tokenizer.holds(torch.tensor(made.tokenizer.ids("cause"))[None], ["ou"])


def test_the_same_seed_gives_the_same_text(directory):
    path = directory()
    texts = [policy(path).generate(PROMPTS, 2, top_p=0.9).texts for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 3


def test_prompts_go_through_the_chat_template(directory, tmp_path):
    with pytest.raises(ValueError, match="no chat template"):
        policy(directory(), chat=True)
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}>"
    inner = tokenizer()
    inner.chat_template = template
    inner.save_pretrained(tmp_path)
    made = HuggingFaceTokenizer(tmp_path, chat=True)
    assert made.inner.decode(made.prompt_ids("1")) == "[user]1>"


def test_lora_trains_adapters_only_and_stores_nothing_else(directory, tmp_path):
    pytest.importorskip("peft")
    path = directory("Llama, tied")
    torch.manual_seed(0)
    made = policy(path, model_kwargs={"lora": {"r": 4}}, value_head=True)
    trained = [name for name, p in made.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name or name.startswith("value_head") for name in trained)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    batch = made.batch(PROMPTS, REPLIES)  # a fresh adapter changes nothing
    torch.testing.assert_close(made.log_probs(batch), own_log_probs(path, batch), atol=1e-5, rtol=0)
    reference = made.frozen_copy()
    made.warm_start(list(zip(PROMPTS, REPLIES, strict=True)), 3, learning_rate=1e-2)
    for name, parameter in made.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == ("lora_" in name), name
    torch.testing.assert_close(
        reference.log_probs(batch), own_log_probs(path, batch), atol=1e-5, rtol=0
    )
    shared = dict(reference.named_parameters())
    for name, parameter in made.named_parameters():
        assert (shared[name] is parameter) == ("lora_" not in name and "value" not in name)
    assert set(made.state_dict()) == set(trained)
    made.save(tmp_path / "adapters.zip")
    back = TextPolicy.load(tmp_path / "adapters.zip", device="cpu")
    assert torch.equal(back.log_probs(batch), made.log_probs(batch))


@pytest.mark.parametrize("name", ["Llama", "Llama, tied", "GPT-2"])
def test_a_file_brings_the_policy_back(directory, tmp_path, name):
    made = policy(directory(name))
    made.warm_start(list(zip(PROMPTS, REPLIES, strict=True)), 2, learning_rate=1e-2)
    made.save(tmp_path / "policy")
    back = TextPolicy.load(tmp_path / "policy", device="cpu")
    batch = made.batch(PROMPTS, REPLIES)
    assert torch.equal(back.log_probs(batch), made.log_probs(batch))
    tied = name != "Llama"
    assert ("model.inner.lm_head.weight" in made.state_dict()) != tied


def test_dtypes(directory):
    made = policy(directory(), model_kwargs={"dtype": "bfloat16"})
    assert made.model.inner.dtype == torch.bfloat16
    scores = made.generate(PROMPTS, 2).log_probs
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    with pytest.raises(ValueError, match="dtype must be"):
        policy(directory(), model_kwargs={"dtype": "int3"})


def test_code_in_a_directory_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}'
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="no language model could be read"):
        policy(str(tmp_path))
    with pytest.raises(ValueError, match="no such directory"):
        policy("some/model")


def test_what_is_longer_than_the_model_reads_is_refused(directory):
    with pytest.raises(ValueError, match="128 tokens together"):
        policy(directory()).generate("1", max_tokens=200)
