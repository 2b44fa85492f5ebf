"""Agents that learn from comparisons in TRL's `DPOTrainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ....extras import require
from ..preference import PairBatch, PreferenceAlgorithm
from ..text.token_batch import TokenBatch
from ..text.tokenizer import HuggingFaceTokenizer
from .shared import (
    AfterUpdates,
    Elsewhere,
    Remembering,
    check_agent,
    check_arguments,
    configured,
    datasets,
    inputs_of,
    stop_dropout,
    swapped,
    trl,
)

models = require("trl.models.utils", extra="trl")
adapters = require("trl.trainer.utils", extra="trl")
DPOTrainer: Any = trl.DPOTrainer

# What belongs to TRL's own loss and data, in whose place stand the agent's.
UNHEARD = (
    *("loss_type", "loss_weights", "beta", "label_smoothing", "ld_alpha", "use_weighting"),
    *("f_divergence_type", "f_alpha_divergence_coef", "discopop_tau", "precompute_ref_log_probs"),
    *("max_length", "truncation_mode", "padding_free", "dataset_num_proc"),
    *("eval_strategy", "eval_steps"),
)


def dpo_trainer(
    agent: PreferenceAlgorithm,
    model: Any,
    *,
    chat: bool = False,
    trainer: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> PairTrainer:
    """A trainer of TRL that learns from the agent's comparisons by the agent's loss.

    Args:
        agent: says how to learn; built with `Preferences`. There is no warm start: the model is to
            be fine-tuned before.
        model: directory, name on the Hub, or model of transformers. As it is, it is the reference.
        chat: give prompts in the chat template of the tokenizer.
        trainer: further arguments of `DPOTrainer`, such as `processing_class`, `peft_config` or
            `ref_model`.
        arguments: of `DPOConfig`, such as `output_dir`, `num_train_epochs`, `bf16`, `deepspeed`.
            The agent's `batch_size` is that of a step of the optimizer in all processes together;
            a process holds its part of it at once, or `per_device_train_batch_size` comparisons.
            Learning rate (that at the start, kept constant), weight decay, gradient norm and seed
            are the agent's unless they are given.

    Raises:
        ValueError: an argument belongs to TRL's own loss; a batch cannot be divided so; or the
            agent has no data, or a loop of learning of its own.
        ImportError: the extra "trl" is not installed.
    """
    return PairTrainer(agent, model, pair_config(agent, **arguments), chat, **(trainer or {}))


def pair_config(agent: PreferenceAlgorithm, **given: Any) -> Any:
    """`DPOConfig` of an agent; see `dpo_trainer`."""
    if agent.records is None:
        raise ValueError("a trainer needs the comparisons: build the agent with Preferences")
    minibatch = min(agent.batch_size, len(agent.records))
    said = {"remove_unused_columns": False, "dataloader_drop_last": True}
    return configured(trl.DPOConfig, agent, minibatch, said, UNHEARD, given)


class PairTrainer(Remembering, DPOTrainer):
    """`DPOTrainer` with the stages of an agent in the place of its own.

    A slice of a minibatch (of a process, or of a step of gradient accumulation) has its own loss,
    and the mean over the slices counts.

    Logged: what the agent notes, as `train/...`.

    Args:
        agent: whose stages are called.
        model: as in `DPOTrainer`.
        args: as `pair_config` makes them.
        chat: see `dpo_trainer`.
        arguments: further ones of `DPOTrainer`.

    Raises:
        ValueError: the agent cannot be trained so.
    """

    agent: PreferenceAlgorithm

    def __init__(
        self,
        agent: PreferenceAlgorithm,
        model: Any,
        args: Any,
        chat: bool = False,
        **arguments: Any,
    ) -> None:
        check_agent(agent, PreferenceAlgorithm, args.world_size)
        check_arguments(arguments)
        remembers = type(agent).track is not PreferenceAlgorithm.track
        if remembers and args.world_size > 1:
            raise ValueError(
                f"{type(agent).__name__} remembers what it has seen, and each process sees a part"
            )
        self.agent = agent
        rows = datasets.Dataset.from_dict({"row": range(len(agent.records))})
        super().__init__(model, None, args, collated, rows, **arguments)
        if self.aux_loss_enabled:
            raise ValueError("the agent's loss has no part for routers: router_aux_loss_coef=0")
        stop_dropout(self.model)
        if not agent.uses_reference:
            self.ref_model = None
        ends = self.model.generation_config.eos_token_id
        self.text = HuggingFaceTokenizer(
            self._tokenizer,
            agent.records.language["stop"],
            chat,
            ends if isinstance(ends, list) else [] if ends is None else [ends],
        )
        self.seen: list[PairBatch] = []  # since the last step
        self.add_callback(AfterUpdates(self))

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Rows of the agent's data, as they are."""
        return dataset

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: rows have no tokens yet."""
        return 0

    @contextmanager
    def stages(self, model: Any) -> Iterator[PreferenceAlgorithm]:
        """The agent, whose policy and reference are the trainer's models meanwhile."""
        reference = Scorer(self, None) if self.agent.uses_reference else None
        changed = {"policy": Scorer(self, model), "device": self.accelerator.device}
        with swapped(self.agent, reference=reference, **changed):
            yield self.agent

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The agent's loss of a slice."""
        if return_outputs:
            raise ValueError("a loss is all that the agent has of a comparison: no return_outputs")
        with self.stages(model) as agent:
            pairs = agent.select(inputs["rows"].tolist())
            loss = agent.loss(pairs)
            agent.note(loss=loss)
        if self.model.training:
            self.seen.append(pairs)
        return loss

    def look_back(self) -> None:
        """After a step of the optimizer: remember, and log."""
        with self.stages(self.model) as agent:
            for pairs in self.seen:
                agent.num_timesteps += len(pairs) * self.accelerator.num_processes
                agent.track(pairs)
        for name, value in self.agent.noted().items():
            self._metrics["train"][name].append(value)
        self.agent._notes.clear()
        self.seen = []

    def scores(self, model: Any, batch: TokenBatch) -> torch.Tensor:
        """Log-probabilities [n, T] of the tokens of a batch by a model, or by the reference where
        it is None; 0 where they are masked."""
        off = models.disable_gradient_checkpointing
        frozen = off(self.model, self.args.gradient_checkpointing_kwargs)
        adapted: Any = nullcontext()
        if model is None and self.ref_model is None:
            # Adapters are trained: without them the model is what it was.
            inner = self.accelerator.unwrap_model(self.model)
            adapted = adapters.use_adapter(inner, "ref" if "ref" in inner.peft_config else None)
        ids, attention = inputs_of(batch)
        labels = ids.masked_fill(attention == 0, -100)
        labels[:, : batch.prompts.shape[1]] = -100
        with nullcontext() if model is not None else frozen, adapted:
            found = (model or self.ref_model or self.model)(
                input_ids=ids,
                attention_mask=attention,
                labels=labels,
                use_cache=False,
                fused_lm_head=True,
            ).log_probs
        return found[:, -batch.tokens.shape[1] :].float() * batch.mask


class Scorer(Elsewhere):
    """A trainer's model, as the stages of an agent may ask it: arrays of texts and their scores.

    Args:
        trainer: has it.
        model: with gradients; None: the reference, without.
    """

    def __init__(self, trainer: PairTrainer, model: Any) -> None:
        self._trainer, self._model = trainer, model

    def batch(self, prompts: Sequence[str], replies: Sequence[str]) -> TokenBatch:
        """As `TextPolicy.batch`."""
        tokenizer = self._trainer.text
        arrays = (*tokenizer.encode(prompts), *tokenizer.encode_replies(replies))
        return TokenBatch(*arrays).to(self._trainer.accelerator.device)

    def log_probs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """As `TextPolicy.log_probs`.

        Raises:
            ValueError: another temperature than 1.
        """
        if temperature != 1:
            raise ValueError(f"the trainer's temperature is 1, got {temperature}: it has one")
        return self._trainer.scores(self._model, batch)


def collated(rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
    """Rows of the data set as one tensor."""
    return {"rows": torch.tensor([row["row"] for row in rows])}
