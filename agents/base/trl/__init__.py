"""Agents as trainers of TRL: large models on many GPUs, with accelerate, DeepSpeed, FSDP and vLLM.

TRL (L. von Werra et al., github.com/huggingface/trl) writes the replies, holds the model and steps
the optimizer. What a paper is about stays the agent's: its stages are called as when it learns by
itself, in the same order and on the same arrays.

    agent = palaestra.agents.DCPO("TextPolicy", env, seed=0, device="cpu",
                                  policy_kwargs={"max_tokens": 512})
    trainer = grpo_trainer(agent, "models/Qwen3-4B", chat=True, output_dir="run", max_steps=500,
                           use_vllm=True, per_device_train_batch_size=8)
    trainer.train()

The agent's own policy, which may be the embedded model, is not trained and not asked. With several
processes (`accelerate launch`, `torchrun`) each of them has the same agent, built with the same
seed.
"""

from __future__ import annotations

from .group import grpo_trainer
from .pairs import dpo_trainer

__all__ = ["dpo_trainer", "grpo_trainer"]
