"""Times steps of GRPO, ours and TRL's: a program that `palaestra bench` runs beside itself.

    python -m palaestra.lab.llm_steps TASK

TASK is JSON: `side` ("embedded" and "hugging_face" are ours, "trl" is TRL's `GRPOTrainer`),
`directory` (of the model that `write_llama` wrote; the embedded side needs none), `prompts`,
`group_size`, `tokens` (of every reply) and `threads`. The program answers "ready" and then, for
every number n on its standard input, the seconds that n steps took; for 0, the most memory that the
process has held so far, in MiB.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..envs.text.arithmetic import ALPHABET, Arithmetic
from ..extras import require

WARM_UP = 3  # steps that are not timed
POOL = 512  # tasks of the comparison
LEARNING_RATE = 1e-6  # all the work of learning, and the replies stay what they are
LAYERS, WIDTH, HEADS = 2, 64, 4
# Three matrices of a gated layer hold what two matrices to and from 4 * WIDTH do.
GATED_WIDTH = round(4 * WIDTH * 2 / 3)


class StopRewarded(Arithmetic):
    """`Arithmetic-v0` that pays for any stop: one reply in three of a model that knows nothing is
    right, so that there is something to learn in every step."""

    def score(self, verdict: Any) -> float:
        """1 where the reply has a stop, else 0."""
        return float(verdict["stopped"])


def environment(tokens: int, pool: int) -> StopRewarded:
    """Sums of two digits (prompts of one length), the first `pool` of them; they are made before
    the first step."""
    env = StopRewarded(digits=2, reply="columns", max_reply=tokens, pool=pool)
    for index in range(pool):
        env.task(index, "train")
    return env


def write_llama(directory: str | Path) -> None:
    """A random model of Llama's form, of the size of the embedded one, one character one token.

    Its tokenizer's end token is none that the model can write: no reply ends before its budget.
    """
    import tokenizers
    import torch
    import transformers

    tokens = {token: i for i, token in enumerate([*ALPHABET, "<s>", "<pad>", "</s>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokens, unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokens["<s>"])]
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokens["</s>"],
        hidden_size=WIDTH,
        intermediate_size=GATED_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        bos_token_id=tokens["<s>"],
        pad_token_id=tokens["<pad>"],
        eos_token_id=tokens["</s>"],
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(directory)


def our_steps(task: dict[str, Any]) -> Callable[[int], float]:
    """Updates of our GRPO."""
    from ..agents.llm.baselines import GRPO

    embedded = task["side"] == "embedded"
    agent = learner(
        GRPO,
        environment(task["tokens"], POOL),
        None if embedded else task["directory"],
        prompts=task["prompts"],
        group_size=task["group_size"],
    )

    def steps(count: int) -> float:
        begun = time.perf_counter()
        replies = count * task["prompts"] * task["group_size"]
        agent.learn(replies, log_interval=None, reset_num_timesteps=False)
        return time.perf_counter() - begun

    return steps


def learner(cls: Any, env: StopRewarded, directory: str | None = None, **arguments: Any) -> Any:
    """An agent whose replies all have the whole budget, ready to learn.

    Args:
        cls: class of the agent.
        env: its environment.
        directory: of a model; None: the embedded one.
        arguments: further ones of the agent.
    """
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": HEADS}
    agent = cls(
        "TextPolicy",
        env,
        demonstrations=0,
        learning_rate=LEARNING_RATE,
        policy_kwargs={"model_kwargs": sizes} if directory is None else {"model": directory},
        seed=0,
        device="cpu",
        **arguments,
    )
    if directory is None:
        agent.policy.tokenizer.ends = (-1,)  # no token
    agent.policy.tokenizer.implied_stops = ()
    return agent.learn(0, log_interval=None)


def trl_requests(task: dict[str, Any], requests: Iterator[str]) -> None:
    """Train with TRL's `GRPOTrainer`; the training waits between requests."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import: nothing is reported to anybody
    import torch
    import transformers

    trl, datasets = require("trl", extra="trl"), require("datasets", extra="trl")
    logging.disable(logging.WARNING)
    env = environment(task["tokens"], POOL)
    tasks = [env.task(index, "train") for index in range(POOL)]
    prompts = {"prompt": [one.prompt for one in tasks], "task": list(range(len(tasks)))}

    def reward(completions: list[str], task: list[int], **_: Any) -> list[float]:
        pairs = zip(task, completions, strict=True)
        return [env.score(env.verify(tasks[index], reply)) for index, reply in pairs]

    class Requests(transformers.TrainerCallback):
        """Holds the training until the next request."""

        left, begun = WARM_UP, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.left -= 1
            if self.left:
                return
            answer: float | str = time.perf_counter() - self.begun if self.begun else "ready"
            print(answer, flush=True)
            self.left = next_count(requests)
            control.should_training_stop = not self.left
            self.begun = time.perf_counter()

    replies = task["prompts"] * task["group_size"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=replies,
            num_generations=task["group_size"],
            max_completion_length=task["tokens"],
            max_steps=1_000_000,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            loss_type="grpo",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            seed=0,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trl.GRPOTrainer(
            transformers.AutoModelForCausalLM.from_pretrained(task["directory"]),
            reward,
            arguments,
            datasets.Dataset.from_dict(prompts),
            processing_class=transformers.AutoTokenizer.from_pretrained(task["directory"]),
            callbacks=[Requests()],
        )
        torch.set_num_threads(task["threads"])
        trainer.train()


def next_count(requests: Iterator[str]) -> int:
    """The next request for steps, 0 at the end of the input; one for memory is answered."""
    for line in requests:
        if count := int(line):
            return count
        # Linux counts in KiB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, flush=True)
    return 0


def main() -> None:
    """Answer requests until the input ends."""
    import torch

    task: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    requests = iter(sys.stdin)
    if task["side"] == "trl":
        trl_requests(task, requests)
        return
    steps = our_steps(task)
    steps(WARM_UP)
    print("ready", flush=True)
    while count := next_count(requests):
        print(steps(count), flush=True)


if __name__ == "__main__":
    main()
