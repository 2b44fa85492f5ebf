"""Agents as trainers of TRL: the same numbers, on the arrays that TRL makes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import palaestra
from palaestra.agents.base.group import GroupAlgorithm, Selection
from palaestra.agents.base.text.losses import token_mean
from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.text_data import Preferences
from palaestra.agents.llm.baselines import GRPO
from palaestra.envs.text.arithmetic import ALPHABET, Arithmetic

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("trl", reason="TRL is not installed: palaestra[trl]")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from palaestra.agents.base.trl import dpo_trainer, grpo_trainer  # noqa: E402
from palaestra.agents.base.trl import group as ours  # noqa: E402
from palaestra.agents.base.trl.pairs import pair_config  # noqa: E402
from palaestra.agents.base.trl.shared import (  # noqa: E402
    check_agent,
    load_memory,
    save_memory,
)

BOS, END = len(ALPHABET), len(ALPHABET) + 1


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random model of Llama's form; one character is one token."""
    ids = {token: i for i, token in enumerate([*ALPHABET, "<s>", "</s>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<s>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(ids),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        attention_dropout=0.5,
        bos_token_id=BOS,
        eos_token_id=END,
        pad_token_id=END,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    return str(path)


class ManyRewards(Arithmetic):
    """Any reply of a random model is worth something."""

    def score(self, verdict):
        return verdict["length"] / 8


class AnyStop(Arithmetic):
    """A stop is all that is wanted."""

    def score(self, verdict):
        return float(verdict["stopped"])


class Halves(GRPO):
    """Half weight for the first half of the batch; the mean over all tokens."""

    aggregate = GroupAlgorithm.aggregate

    def weight(self, batch):
        first = torch.arange(len(batch)) < len(batch) // 2
        return torch.where(first, 0.5, 1.0)


class Squares(GRPO):
    """An advantage and a loss of tokens of its own."""

    def advantage(self, batch):
        return (batch.rewards**2)[:, None] - batch.mask.float().cumsum(dim=1) / 10

    def token_losses(self, batch):
        return -(batch.log_probs - batch.old_log_probs).exp() * batch.advantages**2


def built(cls, env=None, **arguments):
    settings = {"prompts": 4, "group_size": 4, "seed": 0, "device": "cpu", "demonstrations": 0}
    settings |= {"policy_kwargs": {"max_tokens": 8}, "learning_rate": 1e-3}
    return cls("TextPolicy", env or ManyRewards(digits=(1, 2)), **settings | arguments)


def trained(agent, directory, folder, max_steps=1, **arguments):
    settings = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    settings |= {"logging_steps": 1, "save_strategy": "no", "gradient_checkpointing": False}
    return grpo_trainer(
        agent, directory, output_dir=folder, max_steps=max_steps, **settings | arguments
    )


def gradients(parameters):
    return [p.grad.clone() for p in parameters]


AGENTS = {
    "GRPO": lambda **more: built(palaestra.agents.GRPO, **more),
    "GRPO with a reference": lambda **more: built(palaestra.agents.GRPO, kl_coef=0.5, **more),
    "DrGRPO": lambda **more: built(palaestra.agents.DrGRPO, **more),
    "GSPO": lambda **more: built(palaestra.agents.GSPO, **more),
    "RLOO": lambda **more: built(palaestra.agents.RLOO, **more),
    "weights": lambda **more: built(Halves, **more),
    "own losses": lambda **more: built(Squares, **more),
}


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def moved(policy):
    """The policy with its parameters a little away from those that sampled."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", AGENTS)
def test_loss_and_gradient_are_the_agents_own(name, directory, tmp_path):
    agent = AGENTS[name]()
    trainer = trained(agent, directory, tmp_path)
    trainer.batch = trainer.collect()
    moved(trainer.model)
    rows = torch.arange(len(trainer.batch))
    loss = trainer._compute_loss(trainer.model, {"rows": rows, "share": 1.0})
    loss.backward()

    agent = AGENTS[name](policy_kwargs={"model": directory, "max_tokens": 8})
    batch = trainer.batch.select(rows)
    policy = agent.policy
    torch.testing.assert_close(
        batch.old_log_probs, policy.log_probs(batch).detach(), atol=1e-5, rtol=0
    )
    if agent.kl_coef:
        torch.testing.assert_close(batch.reference_log_probs, batch.old_log_probs)
    moved(policy)
    scores = policy(batch, agent.temperature, True)
    batch.log_probs, batch.entropies = scores.log_probs, scores.entropies
    expected = agent.loss(batch)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        gradients(trainer.model.parameters()), gradients(policy.parameters()), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "at_once"), [("GRPO with a reference", None), ("DrGRPO", 2), ("weights", 2)]
)
def test_steps_are_the_agents_own(name, at_once, directory, tmp_path):
    """Two epochs of two minibatches, whole or in slices of two replies."""
    steps = {"epochs": 2, "minibatch_size": 8}
    agent = AGENTS[name](**steps)
    trainer = trained(agent, directory, tmp_path, 4, per_device_train_batch_size=at_once)
    assert trainer.args.gradient_accumulation_steps == (1 if at_once is None else 4)
    trainer.train()

    policy_kwargs = {"model": directory, "max_tokens": 8}
    expected = AGENTS[name](policy_kwargs=policy_kwargs, **steps).learn(0)
    start, found = flat(expected.policy), flat(trainer.model)
    expected.improve(trainer.batch)
    wanted = flat(expected.policy)
    assert (wanted - start).abs().max() > 1e-3  # four steps of up to the learning rate
    # Adam enlarges what is noise in the last digits of a gradient.
    assert (found - wanted).norm() < 0.005 * (wanted - start).norm()


def test_a_batch_is_written_and_judged_in_the_environment(directory, tmp_path):
    agent = built(palaestra.agents.GRPO)
    trainer = trained(agent, directory, tmp_path)
    batch = trainer.collect()
    assert batch.groups.tolist() == [row // 4 for row in range(16)]
    policy = TextPolicy(model=directory, stop="$", max_tokens=8, seed=0)
    texts = policy.tokenizer.decode(batch.tokens, batch.mask)
    env = agent.tasks
    for row, (task, text) in enumerate(zip(batch.extra["task"].tolist(), texts, strict=True)):
        verdict = env.verify(env.task(task, "train"), text)
        assert float(batch.rewards[row]) == pytest.approx(env.score(verdict))
        prompt = batch.prompts[row][batch.prompt_mask[row]].tolist()
        assert prompt == policy.tokenizer.prompt_ids(env.task(task, "train").prompt)
        complete = int(batch.tokens[row][batch.mask[row]][-1]) == END or "$" in text
        assert bool(batch.extra["ended"][row]) == complete
    assert batch.rewards.std() > 0
    torch.testing.assert_close(
        batch.old_log_probs, policy.log_probs(batch).detach(), atol=1e-5, rtol=0
    )
    assert agent.num_timesteps == 16 and agent.policy.arguments["model"] == "tiny"


def test_only_the_tasks_differ_between_prompts_of_a_chat(directory, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    agent = built(palaestra.agents.GRPO)
    trainer = grpo_trainer(
        agent,
        directory,
        chat=True,
        trainer={"processing_class": tokenizer},
        output_dir=tmp_path,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    batch = trainer.collect()
    read = tokenizer.decode(batch.prompts[0][batch.prompt_mask[0]])
    task = agent.tasks.task(int(batch.extra["task"][0]), "train")
    assert read.replace(" ", "") == f"<{task.prompt}>"


class Memory(palaestra.agents.DAPO):
    """Remembers what it has seen, and asks the policy."""

    seen = 0

    def track(self, batch):
        now = self.policy.log_probs(batch, self.temperature)
        self.note(moved=token_mean((now - batch.old_log_probs).abs(), batch.mask))
        self.seen += 1

    def extra_state(self):
        values, tensors = super().extra_state()
        return values | {"seen": self.seen}, tensors

    def restore_extra_state(self, values, tensors):
        super().restore_extra_state(values, tensors)
        self.seen = values["seen"]


class Uneven(palaestra.agents.GRPO):
    """Five replies to one task, three to another."""

    def select(self):
        return Selection(self.tasks_of([3, 5]), [5, 3])


def test_five_steps_with_all_stages(directory, tmp_path):
    agent = built(Memory, max_rounds=2)
    trainer = trained(agent, directory, tmp_path, 5, save_strategy="steps", save_steps=2)
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert agent.seen == 5
    assert all(
        not torch.equal(a, b) for a, b in zip(start, trainer.model.parameters(), strict=True)
    )
    logs = [row for row in trainer.state.log_history if "rollout/reward" in row]
    assert len(logs) == 5
    # A random model is always wrong: DAPO draws again, and then takes what there is.
    assert [row["train/rounds"] for row in logs] == [2.0] * 5
    assert all(row["train/moved"] > 0 and row["train/entropy"] > 0 for row in logs)
    assert agent.num_timesteps == 5 * 2 * 16

    again = built(Memory, max_rounds=2)
    resumed = trained(again, directory, tmp_path, 5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.seen == 5 and again.num_timesteps == agent.num_timesteps
    assert again.generator.bit_generator.state == agent.generator.bit_generator.state


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BNPO", {}),
        ("DCPO", {}),
        ("KLCov", {"epochs": 2}),
        ("ClipCov", {}),
        ("KnapsackGRPO", {"group_size": 4, "low": 2, "high": 8}),
        (
            "SingleStreamPO",
            {"prompts": 8, "group_size": 1, "candidates": 10, "first_replies": 2},
        ),
    ],
)
def test_systems_train_with_what_they_remember(name, arguments, directory, tmp_path):
    agent = built(getattr(palaestra.agents, name), env=AnyStop(digits=1, pool=12), **arguments)
    trainer = trained(agent, directory, tmp_path, 2 * arguments.get("epochs", 1))
    start = flat(trainer.model)
    trainer.train()
    assert not torch.equal(start, flat(trainer.model)) and flat(trainer.model).isfinite().all()
    logs = [row for row in trainer.state.log_history if "rollout/reward" in row]
    assert len(logs) == 2
    again = built(type(agent), env=AnyStop(digits=1, pool=12), **arguments)
    save_memory(agent, tmp_path / "agent.zip")
    load_memory(again, tmp_path / "agent.zip")
    found, expected = again.extra_state(), agent.extra_state()
    assert found[0] == expected[0] and again.num_timesteps == agent.num_timesteps >= 16
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)


def test_groups_of_any_size(directory, tmp_path):
    agent = built(Uneven, prompts=2, group_size=4)
    trainer = trained(agent, directory, tmp_path, 2)
    trainer.train()
    assert trainer.batch.groups.tolist() == [0] * 5 + [1] * 3
    assert trainer.batch.extra["task"].tolist() == [3] * 5 + [5] * 3


def test_a_slice_without_replies_has_no_gradient(directory, tmp_path):
    trainer = trained(built(palaestra.agents.GRPO), directory, tmp_path)
    trainer.batch = trainer.collect()
    none = torch.zeros(0, dtype=torch.int64)
    assert trainer.share(torch.arange(16), none) == 0.0
    trainer._compute_loss(trainer.model, {"rows": none, "share": 0.0}).backward()
    assert all(not p.grad.any() for p in trainer.model.parameters())


def test_the_reference_of_adapters_is_the_model_without_them(directory, tmp_path):
    peft = pytest.importorskip("peft")
    adapters = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    agent = built(palaestra.agents.GRPO, kl_coef=0.1, learning_rate=0.01)
    trainer = trained(
        agent,
        directory,
        tmp_path,
        3,
        gradient_checkpointing=True,
        trainer={"peft_config": adapters},
    )
    trainer.train()
    batch = trainer.batch
    before = TextPolicy(model=directory, seed=0).log_probs(batch).detach()
    torch.testing.assert_close(trainer.reference_scores(batch), before, atol=1e-5, rtol=0)
    assert (trainer.scores(trainer.model, batch) - before).abs().max() > 1e-3

    agent = LEARNERS["DPO"](learning_rate=0.01)
    trainer = trained_by_pairs(
        agent,
        directory,
        tmp_path,
        3,
        gradient_checkpointing=True,
        trainer={"peft_config": adapters},
    )
    trainer.train()
    with trainer.stages(trainer.model) as agent, torch.no_grad():
        pairs = agent.select(range(8))
        agent.score(pairs)
    before = TextPolicy(model=directory, seed=0).log_probs(pairs.replies).detach()
    found = pairs.replies.reference_log_probs
    torch.testing.assert_close(found, before, atol=1e-5, rtol=0)
    assert (pairs.replies.log_probs - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["GRPO", "DrGRPO", "weights", "RLOO"])
def test_slices_of_a_minibatch_add_up(name, directory, tmp_path):
    agent = AGENTS[name]()
    trainer = trained(agent, directory, tmp_path)
    trainer.batch = trainer.collect()
    losses = torch.randn(16, trainer.batch.mask.shape[1])
    whole = torch.randperm(16)[:10]
    parts = whole.split([1, 2, 3, 4])
    found = sum(
        trainer.share(whole, part) * agent.aggregate(losses[part], trainer.batch.mask[part])
        for part in parts
    )
    expected = agent.aggregate(losses[whole], trainer.batch.mask[whole])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_replies_of_vllm_are_weighted(directory, tmp_path):
    """Log-probabilities of another sampler: tokens count by the bounded ratio."""
    agent = built(Halves)
    trainer = trained(agent, directory, tmp_path)
    batch = trainer.collect()
    own = batch.old_log_probs
    trainer.use_vllm = True
    batch.old_log_probs = own + torch.where(batch.mask, torch.tensor(-2.0), 0.0)
    found = trainer.correct_sampling(batch)
    torch.testing.assert_close(batch.old_log_probs, own, atol=1e-5, rtol=0)
    assert found[batch.mask].tolist() == [3.0] * int(batch.mask.sum())  # exp(2), at most 3
    batch.old_log_probs = own + 0.5 * batch.mask
    ratio = trainer.correct_sampling(batch)[batch.mask]
    torch.testing.assert_close(ratio, torch.full_like(ratio, -0.5).exp(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("pool", "batches"), [(50, 12), (12, 3), (2, 1)])
def test_an_epoch_is_a_pass_over_the_tasks(pool, batches, directory, tmp_path):
    agent = built(palaestra.agents.GRPO, env=AnyStop(pool=pool), epochs=2, minibatch_size=8)
    trainer = trained(agent, directory, tmp_path, per_device_train_batch_size=4)
    assert trainer.train_dataset["task"][:] == list(range(pool))
    # Four prompts a batch, two epochs of two steps, each of two slices.
    assert len(trainer.get_train_dataloader()) == batches * 2 * 2 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.5}, "the agent says temperature=1.0"),
        ({"loss_type": "grpo"}, r"\['loss_type'\] belong to TRL's own loss"),
        ({"per_device_train_batch_size": 5}, "a minibatch of the agent has 16 records"),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16}, "a minibatch"),
    ],
)
def test_arguments_that_contradict_the_agent(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ours.group_config(built(palaestra.agents.GRPO), output_dir=tmp_path, **arguments)


def test_tasks_and_rewards_are_the_agents(directory, tmp_path):
    agent = built(palaestra.agents.GRPO)
    with pytest.raises(ValueError, match=r"\['eval_dataset'\] are the agent's"):
        trained(agent, directory, tmp_path, trainer={"eval_dataset": []})


def test_agents_that_a_trainer_cannot_be(directory, tmp_path):
    class Own(palaestra.agents.GRPO):
        def improve(self, batch):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"Own has its own \['improve'\]"):
        check_agent(built(Own), GroupAlgorithm, 1)

    class Valued(palaestra.agents.GRPO):
        uses_values = True

    with pytest.raises(ValueError, match="Valued learns values"):
        trained(built(Valued), directory, tmp_path)
    with pytest.raises(ValueError, match="needs a seed"):
        check_agent(built(palaestra.agents.GRPO, seed=None), GroupAlgorithm, 2)


def test_a_stage_may_only_ask_for_replies_and_their_scores(directory, tmp_path):
    trainer = trained(built(palaestra.agents.GRPO), directory, tmp_path)
    with trainer.stages() as agent:
        assert agent.policy.generate(["1+1="], 2).groups.tolist() == [0, 0]
        with pytest.raises(AttributeError, match="has no 'classify'"):
            agent.policy.classify(None)
        with pytest.raises(ValueError, match="temperature is 1.0, got 0.0"):
            agent.policy.generate(["1+1="], temperature=0.0)
    assert isinstance(agent.policy, TextPolicy)


# -- comparisons -----------------------------------------------------------------------------------


class Margins(palaestra.agents.DPO):
    """A loss of its own."""

    def pair_losses(self, pairs):
        return (pairs.margins - 0.1 * pairs.differences).relu()


LEARNERS = {
    "DPO": lambda **more: compared(palaestra.agents.DPO, beta=0.3, **more),
    "IPO": lambda **more: compared(palaestra.agents.IPO, **more),
    "own loss": lambda **more: compared(Margins, **more),
}


def compared(cls, **arguments):
    """Right sums are preferred to wrong ones."""
    env = Arithmetic(digits=(1, 2))
    tasks = [env.task(index, "train") for index in range(8)]
    data = Preferences(
        [task.prompt for task in tasks],
        [env.solution(task) for task in tasks],
        [env.corrupt(task, env.solution(task), row) for row, task in enumerate(tasks)],
        margins=[0.5 + row for row in range(8)],
        env=env,
    )
    settings = {"seed": 0, "device": "cpu", "demonstrations": 0, "batch_size": 8}
    settings |= {"policy_kwargs": {"max_tokens": 8}, "learning_rate": 1e-3}
    return cls("TextPolicy", data, **settings | arguments)


def trained_by_pairs(agent, directory, folder, max_steps=1, **arguments):
    settings = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    settings |= {"logging_steps": 1, "save_strategy": "no", "gradient_checkpointing": False}
    return dpo_trainer(
        agent, directory, output_dir=folder, max_steps=max_steps, **settings | arguments
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_loss_and_gradient_of_pairs_are_the_agents_own(name, directory, tmp_path):
    trainer = trained_by_pairs(LEARNERS[name](), directory, tmp_path)
    moved(trainer.model)
    loss = trainer._compute_loss(trainer.model, {"rows": torch.arange(8)}, False)
    loss.backward()

    agent = LEARNERS[name](policy_kwargs={"model": directory})
    agent.keep_reference()
    moved(agent.policy)
    expected = agent.loss(agent.select(range(8)))
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(
        gradients(trainer.model.parameters()),
        gradients(agent.policy.parameters()),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize(("name", "at_once"), [("DPO", None), ("IPO", 2), ("own loss", 4)])
def test_steps_of_pairs_are_the_agents_own(name, at_once, directory, tmp_path):
    """Five steps of the whole data, whole or in slices."""
    agent = LEARNERS[name]()
    trainer = trained_by_pairs(agent, directory, tmp_path, 5, per_device_train_batch_size=at_once)
    trainer.train()
    assert agent.num_timesteps == 40
    accuracy = [row["train/accuracy"] for row in trainer.state.log_history[:5]]
    assert accuracy[0] == 0.5 and accuracy[-1] > 0.5  # at first the policy is the reference

    expected = LEARNERS[name](policy_kwargs={"model": directory})
    start, found = flat(expected.policy), flat(trainer.model)
    wanted = flat(expected.learn(40, log_interval=None).policy)
    assert (wanted - start).abs().max() > 1e-3
    assert (found - wanted).norm() < 0.005 * (wanted - start).norm()


def test_arguments_of_pairs_that_contradict_the_agent(tmp_path):
    with pytest.raises(ValueError, match=r"\['beta'\] belong to TRL's own loss"):
        pair_config(LEARNERS["DPO"](), output_dir=tmp_path, beta=0.1)
    with pytest.raises(ValueError, match="has 8 records: that must be"):
        pair_config(LEARNERS["DPO"](), output_dir=tmp_path, per_device_train_batch_size=3)
    env = Arithmetic()
    with pytest.raises(ValueError, match="build the agent with Preferences"):
        pair_config(palaestra.agents.DPO("TextPolicy", env), output_dir=tmp_path)


# -- several processes -----------------------------------------------------------------------------

# Two steps of two minibatches of six replies each on a batch that is the same in every run.
PROGRAM = """
import os, sys, torch, palaestra
from palaestra.agents.base.text.policy import TextPolicy
from palaestra.agents.base.trl import grpo_trainer
from palaestra.envs.text.arithmetic import Arithmetic

directory, folder, out = sys.argv[1:]
agent = palaestra.agents.DAPO(
    "TextPolicy", Arithmetic(digits=(1, 2)), prompts=3, group_size=4,
    minibatch_size=6, seed=0, device="cpu", demonstrations=0, learning_rate=1e-3, max_rounds=1,
    policy_kwargs={"max_tokens": 8},
)
processes = int(os.environ.get("WORLD_SIZE", 1))
trainer = grpo_trainer(
    agent, directory, output_dir=folder, max_steps=2, use_cpu=True, bf16=False, report_to="none",
    per_device_train_batch_size=6 // processes,
)
policy = TextPolicy(model=directory, stop="$", seed=0)
with torch.no_grad():
    batch = policy.batch(["1+2=", "10+20="] * 6, ["1$", "12+3$", "123456$"] * 4)
    batch.old_log_probs = policy.log_probs(batch) + 0.05
batch.extra = {"correct": torch.ones(12), "ended": torch.ones(12)}
batch.rewards = torch.ones(12)
batch.advantages = torch.linspace(-1, 1, 12)[:, None]
collect = trainer.collect

def judged():
    drawn = collect()  # in processes that each write their part
    again = policy.log_probs(drawn).detach()
    assert len(drawn) == 12 and torch.allclose(drawn.old_log_probs, again, atol=1e-5)
    return batch

trainer.collect = judged
trainer.train()
if trainer.accelerator.is_main_process:
    torch.save(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), out)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(directory, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        files = (program, directory, tmp_path / "run", out)
        command = [*launch, f"--nproc-per-node={processes}", *files]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(torch.load(out))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    moved = (found[0] - flat(model)).norm()
    assert moved > 0.1
    assert (found[0] - found[1]).norm() < 0.005 * moved
