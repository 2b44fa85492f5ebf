"""Group-based agents in TRL's `GRPOTrainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Sampler

from ....envs.text.base import TextEnv
from ....extras import require
from ..group import GroupAlgorithm, Rollouts
from ..text.generation import Generation, cut
from ..text.losses import kl_k3, ratios, token_mean
from ..text.token_batch import TokenBatch
from ..text.tokenizer import HuggingFaceTokenizer, padded
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

gathering = require("accelerate.utils", extra="trl")
models = require("trl.models.utils", extra="trl")
adapters = require("trl.trainer.utils", extra="trl")
GRPOTrainer: Any = trl.GRPOTrainer

# What belongs to TRL's own loss and advantages, in whose place stand the agent's.
UNHEARD = (
    *("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level"),
    *("scale_rewards", "reward_weights", "multi_objective_aggregation", "shuffle_dataset"),
    *("mask_truncated_completions", "off_policy_mask_threshold", "use_bias_correction_kl"),
    *("top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "num_generations_eval"),
    *("vllm_importance_sampling_clip_min", "eval_strategy", "eval_steps"),
    *("sapo_temperature_neg", "sapo_temperature_pos"),
    *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
)


def grpo_trainer(
    agent: GroupAlgorithm,
    model: Any,
    *,
    chat: bool = False,
    trainer: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> GroupTrainer:
    """A trainer of TRL that learns as the agent does, in the agent's environment.

    Args:
        agent: says how to learn, and in which environment. Of its policy only `max_tokens` and
            `top_p` count. There is no warm start: a model that cannot do the task at all is to be
            fine-tuned before.
        model: directory, name on the Hub, or model of transformers.
        chat: give prompts in the chat template of the tokenizer.
        trainer: further arguments of `GRPOTrainer`, such as `processing_class` or `peft_config`.
        arguments: of `GRPOConfig`, such as `output_dir`, `max_steps`, `bf16`, `deepspeed`,
            `use_vllm`. What the agent says is not among them: sizes of batches, epochs,
            temperature, budget of tokens, KL coefficient. Learning rate (that at the start, kept
            constant), weight decay, gradient norm and seed are the agent's unless they are given.
            A process holds its part of a minibatch at once, or `per_device_train_batch_size`
            replies of it.

    Raises:
        ValueError: an argument is the agent's to say; a minibatch cannot be divided so; or the
            agent has a loop of learning of its own, or values, which a trainer does not have.
        ImportError: the extra "trl" is not installed.
    """
    return GroupTrainer(agent, model, group_config(agent, **arguments), chat, **(trainer or {}))


def group_config(agent: GroupAlgorithm, **given: Any) -> Any:
    """`GRPOConfig` of an agent; see `grpo_trainer`."""
    replies = agent.prompts * agent.group_size
    said: dict[str, Any] = {
        # Which replies belong together, the agent knows: to TRL any number of at least 2 is right.
        "num_generations": agent.group_size if agent.group_size > 1 else replies,
        "generation_batch_size": replies,
        "num_iterations": agent.epochs,
        "temperature": agent.temperature,
        "top_p": agent.policy.top_p,
        "max_completion_length": agent.policy.max_tokens,
        "beta": agent.kl_coef,
        "vllm_importance_sampling_mode": "token_truncate",  # what `correct_sampling` does
    }
    minibatch = min(agent.minibatch_size or replies, replies)
    if replies % minibatch:
        raise ValueError(f"minibatch_size={minibatch} must divide the {replies} replies of a batch")
    return configured(trl.GRPOConfig, agent, minibatch, said, UNHEARD, given)


def training_tasks(env: TextEnv) -> Any:
    """The training tasks of an environment as a data set of their ids, `task`."""
    return datasets.Dataset.from_dict({"task": range(env.pool_size)})


class Passes(Sampler[int]):
    """Rows of whole batches, as many as one pass over the tasks has; a last one that is not whole
    is left out, unless there is no other. The agent itself draws the tasks: rows only count.

    Args:
        tasks: in the data set.
        prompts: of a batch.
        rows: that are read while a batch is learned from.
    """

    def __init__(self, tasks: int, prompts: int, rows: int) -> None:
        self.tasks, self.rows = tasks, max(tasks // prompts, 1) * rows

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return (row % self.tasks for row in range(self.rows))


class GroupTrainer(Remembering, GRPOTrainer):
    """`GRPOTrainer` with the stages of an agent in the place of its own.

    A batch of the agent is a batch that TRL generates; the stages see all of it in every process.
    Its minibatches are divided between the processes and the steps of gradient accumulation; every
    slice counts by its share of the agent's `aggregate`, so that the gradient is that of the whole
    minibatch (a `loss` that counts more than tokens and replies should have `whole_groups`).

    What differs from `agent.learn`: a batch without any signal still moves the model by the
    momentum of the optimizer; and where vLLM writes the replies, losses of tokens are weighted by
    the ratio between the probabilities of the model and of vLLM, at most
    `vllm_importance_sampling_clip_max` (F. Yao et al., Your Efficient RL Framework Secretly Brings
    You Off-Policy RL Training, 2025), unless `vllm_importance_sampling_correction` is off.

    Logged: what the agent logs (`rollout/...`, `train/...`), and TRL's `completions/...`.

    Args:
        agent: whose stages are called; built with `device="cpu"` and a seed where there are several
            processes.
        model: as in `GRPOTrainer`.
        args: as `group_config` makes them.
        chat: see `grpo_trainer`.
        arguments: further ones of `GRPOTrainer`.

    Raises:
        ValueError: the agent cannot be trained so.
    """

    agent: GroupAlgorithm

    def __init__(
        self, agent: GroupAlgorithm, model: Any, args: Any, chat: bool = False, **arguments: Any
    ) -> None:
        check_agent(agent, GroupAlgorithm, args.world_size)
        check_arguments(arguments)
        if agent.uses_values:
            name = type(agent).__name__
            raise ValueError(f"{name} learns values, and TRL's model has no head for them")
        self.agent = agent
        super().__init__(model, unused_reward, args, training_tasks(agent.tasks), **arguments)
        if self.aux_loss_enabled:
            raise ValueError("the agent's loss has no part for routers: router_aux_loss_coef=0")
        stop_dropout(self.model)
        self.num_generations = 1  # each row is a prompt of its own: the agent has repeated them
        self.text = HuggingFaceTokenizer(
            self._tokenizer, agent.tasks.stop, chat, self.eos_token_ids
        )
        self.batch: TokenBatch | None = None
        self.slices: list[list[torch.Tensor]] = []  # of the epoch: rows, by minibatch
        self.add_callback(AfterUpdates(self))

    @contextmanager
    def stages(self) -> Iterator[GroupAlgorithm]:
        """The agent, whose policy is the trainer's model meanwhile."""
        reference = Reference(self) if self.beta else None
        with swapped(self.agent, policy=Policy(self), reference=reference):
            yield self.agent

    # -- a batch -----------------------------------------------------------------------------------

    def collect(self) -> TokenBatch:
        """A batch of replies with advantages and weights, the same in all processes."""
        with self.stages() as agent:
            done, steps = self.state.global_step, max(self.state.max_steps, 1)
            agent._update_current_progress_remaining(done, steps)
            rollouts = agent.gather()
            batch = rollouts.batch
            correction = self.correct_sampling(batch)
            agent.assess(batch)
            if correction is not None:
                own = 1.0 if batch.weights is None else batch.weights
                batch.weights = correction * own
            agent.note(skipped=float(agent.nothing_to_learn(batch)))
        self.show(rollouts)
        return batch

    def correct_sampling(self, batch: TokenBatch) -> torch.Tensor | None:
        """Weights [N, T] for replies of vLLM, whose probabilities are not quite the model's; the
        model's take their place as `old_log_probs`. None where the model has written itself."""
        if not (self.use_vllm and self.vllm_importance_sampling_correction):
            return None
        assert batch.old_log_probs is not None
        sampled, batch.old_log_probs = batch.old_log_probs, self.scores(self.model, batch)
        ratio = ratios(batch.old_log_probs, sampled)
        return ratio.clamp(max=self.vllm_importance_sampling_clip_max)

    def show(self, rollouts: Rollouts) -> None:
        """Keep what `log_completions` prints."""
        batch = rollouts.batch
        assert batch.rewards is not None and batch.advantages is not None
        means = (batch.advantages * batch.mask).sum(dim=1) / batch.lengths
        self._logs["prompt"].extend(task.prompt for task in rollouts.tasks)
        self._logs["completion"].extend(rollouts.texts)
        self._logs["rewards"]["environment"].extend(batch.rewards.tolist())
        self._logs["advantages"].extend(means.tolist())

    def divide(self, batch: TokenBatch) -> list[list[torch.Tensor]]:
        """Rows of each slice of each minibatch, for one pass over a batch.

        A minibatch has a slice for each process and step of gradient accumulation.
        """
        accumulated = self.args.gradient_accumulation_steps
        count = self.args.steps_per_generation // accumulated
        minibatches = [torch.arange(len(batch), device=batch.mask.device)]
        if count > 1:
            batch.extra["row"] = minibatches.pop()
            parts = batch.minibatches(
                -(-len(batch) // count), self.agent.shuffle, self.agent.whole_groups
            )
            minibatches = [part.extra["row"] for part in parts]
            rows = batch.extra.pop("row")
            minibatches += [rows[:0]] * (count - len(minibatches))
        slices = accumulated * self.accelerator.num_processes
        if not self.agent.whole_groups:
            return [list(rows.tensor_split(slices)) for rows in minibatches]
        assert batch.groups is not None
        found = []
        for rows in minibatches:
            groups = batch.groups[rows]
            parts_of = groups.unique().tensor_split(slices)
            found.append([rows[torch.isin(groups, names)] for names in parts_of])
        return found

    def share(self, whole: torch.Tensor, part: torch.Tensor) -> float:
        """How much the aggregated loss of a part of a minibatch counts in that of the whole.

        `aggregate` is linear in the losses: with losses of 1 in the part and 0 elsewhere it says
        how much of its weight the part has.

        Args:
            whole, part: rows of the batch, int [m] and int [k].
        """
        assert self.batch is not None
        if len(part) in (0, len(whole)):
            return float(len(part) > 0)
        mask = self.batch.mask[whole]
        inside = torch.isin(whole, part)
        with self.stages() as agent:
            of_whole = agent.aggregate(inside[:, None] * mask.float(), mask)
            return float(of_whole / agent.aggregate(mask[inside].float(), mask[inside]))

    def _get_train_sampler(self, dataset: Any = None) -> Passes:
        """See `Passes`."""
        reads = self.args.steps_per_generation * self.num_iterations
        rows = self.args.generation_batch_size * reads
        return Passes(len(self.train_dataset), self.agent.prompts, rows)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Rows of the batch for the next slice of a minibatch, and their share in its loss.

        Which tasks there are is for the agent's `select` to say, not for the rows that are given.
        """
        in_epoch = self.args.steps_per_generation
        at = self._step % (in_epoch * self.num_iterations)
        if at == 0 or self.batch is None:
            self.batch, self.slices = self.collect(), []
        if at % in_epoch == 0 or not self.slices:
            self.slices = self.divide(self.batch)
        minibatch, step = divmod(at % in_epoch, self.args.gradient_accumulation_steps)
        slices = self.slices[minibatch]
        own = slices[step * self.accelerator.num_processes + self.accelerator.process_index]
        return {"rows": own, "share": self.share(torch.cat(slices), own)}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The agent's loss of a slice, scaled so that slices and processes add up."""
        assert self.batch is not None
        rows = inputs["rows"]
        if len(rows) == 0:  # a gradient of 0, but of every parameter: processes wait for each other
            rows = torch.zeros(1, dtype=torch.int64, device=rows.device)
        part = self.batch.select(rows).to(self.accelerator.device)
        part.log_probs, part.entropies = self.forward(model, part, entropy=True)
        assert part.old_log_probs is not None and part.entropies is not None
        with self.stages() as agent:
            loss = agent.loss(part)
            moved = kl_k3(part.old_log_probs, part.log_probs.detach())
            agent.note(
                loss=loss,
                entropy=token_mean(part.entropies.detach(), part.mask),
                kl=token_mean(moved, part.mask),
            )
        # Gradients are summed over slices and averaged over processes.
        return loss * (inputs["share"] * self.accelerator.num_processes)

    def look_back(self) -> None:
        """After the last step on a batch: remember, and log."""
        if self.batch is None or self._step % (
            self.args.steps_per_generation * self.num_iterations
        ):
            return
        with self.stages() as agent:
            agent.track(self.batch)
        for name, value in self.agent._summary(self.batch).items():
            self._metrics["train"][name].append(value)

    # -- what the model says -----------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Ids of the prompts, as a `TextPolicy` reads them."""
        return [self.text.prompt_ids(prompt) for prompt in prompts], None, {}

    def write(self, questions: Sequence[str]) -> tuple[list[list[int]], list[list[float]] | None]:
        """Ids of a reply to each of N questions, and the log-probabilities with which they were
        drawn where vLLM has said them (NaN where it has not); the same in all processes.

        Each process writes its part.
        """
        found = self._generate([questions[row] for row in self.mine(len(questions)).tolist()])
        replies = gathering.gather_object(found[1])[: len(questions)]
        if found[4] is None:
            return replies, None
        drawn = gathering.gather_object(found[4])[: len(questions)]
        return replies, [[float("nan") if p is None else p for p in row] for row in drawn]

    def mine(self, n: int) -> torch.Tensor:
        """Which of n rows this process works on, int [k]; k is the same in all processes, and the
        last row stands in where there are too few."""
        k = -(-n // self.accelerator.num_processes)
        first = k * self.accelerator.process_index
        return torch.arange(first, first + k).clamp(max=n - 1)

    def forward(
        self, model: Any, batch: TokenBatch, entropy: bool = False, size: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and entropies [n, T] of the tokens by a model, 0 where they are masked.

        Args:
            model: as the trainer has it.
            batch: n replies, on the device of the model.
            entropy: whether entropies are wanted, else None.
            size: rows that are read at once; None: all.
        """
        log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            *inputs_of(batch),
            batch.tokens.shape[1],
            batch_size=size,
            compute_entropy=entropy,
        )
        found = log_probs.float() * batch.mask
        return found, None if entropies is None else entropies.float() * batch.mask

    @torch.no_grad()
    def scores(self, model: Any, batch: TokenBatch) -> torch.Tensor:
        """Log-probabilities [N, T] of a batch by a model, without gradients, on the agent's device;
        each process computes its part."""
        rows = self.mine(len(batch)).to(batch.mask.device)
        part = TokenBatch(
            batch.prompts[rows], batch.prompt_mask[rows], batch.tokens[rows], batch.mask[rows]
        ).to(self.accelerator.device)
        off = models.disable_gradient_checkpointing
        with off(self.model, self.args.gradient_checkpointing_kwargs):
            found, _ = self.forward(model, part, size=self.args.per_device_train_batch_size)
        every: torch.Tensor = self.accelerator.gather(found)[: len(batch)]
        return every.to(batch.mask.device)

    def reference_scores(self, batch: TokenBatch) -> torch.Tensor:
        """Log-probabilities [N, T] by the model before training."""
        if self.ref_model is not None:
            return self.scores(self.ref_model, batch)
        # Adapters are trained: without them the model is what it was.
        inner = self.accelerator.unwrap_model(self.model)
        with adapters.use_adapter(inner, "ref" if "ref" in inner.peft_config else None):
            return self.scores(self.model, batch)


class Reference(Elsewhere):
    """The trainer's model before training."""

    def __init__(self, trainer: GroupTrainer) -> None:
        self._trainer = trainer

    def _check(self, temperature: float | None) -> None:
        own = self._trainer.temperature
        if temperature not in (None, own):
            raise ValueError(f"the trainer's temperature is {own}, got {temperature}: it has one")

    def log_probs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """As `TextPolicy.log_probs`, without gradients.

        Raises:
            ValueError: the temperature is not the trainer's.
        """
        self._check(temperature)
        return self._trainer.reference_scores(batch)


class Policy(Reference):
    """The trainer's model, as the stages of an agent may ask it.

    Attributes:
        max_tokens, temperature, top_p: of the replies.
        device: of the arrays.
        tokenizer: of the model.
    """

    def __init__(self, trainer: GroupTrainer) -> None:
        super().__init__(trainer)
        self.max_tokens: int = trainer.max_completion_length
        self.temperature: float = trainer.temperature
        self.top_p: float = trainer.top_p
        self.device = trainer.agent.device
        self.tokenizer = trainer.text

    def log_probs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """As `TextPolicy.log_probs`, without gradients.

        Raises:
            ValueError: the temperature is not the trainer's.
        """
        self._check(temperature)
        return self._trainer.scores(self._trainer.model, batch)

    def generate(
        self, prompts: str | Sequence[str], n: int = 1, *, temperature: float | None = None
    ) -> Generation:
        """As `TextPolicy.generate`; the other settings are the trainer's.

        Raises:
            ValueError: the temperature is not the trainer's.
        """
        self._check(temperature)
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        questions = [prompt for prompt in asked for _ in range(n)]
        replies, drawn = self._trainer.write(questions)
        arrays = (*self.tokenizer.encode(asked), *padded(replies, self.tokenizer.pad, left=False))
        ids, read, tokens, mask = (array.to(self.device) for array in arrays)
        ids, read = ids.repeat_interleave(n, dim=0), read.repeat_interleave(n, dim=0)
        log_probs = torch.full(mask.shape, torch.nan, device=self.device)
        if drawn is not None:
            flat = torch.tensor([p for row in drawn for p in row], device=self.device)
            log_probs = log_probs.masked_scatter(mask, flat).masked_fill(~mask, 0.0)
        if bool(log_probs.isnan().any()):
            own = self.log_probs(TokenBatch(ids, read, tokens, mask), self.temperature)
            log_probs = torch.where(log_probs.isnan(), own, log_probs)
        stops = self.tokenizer.implied_stops
        texts = [cut(text, stops) for text in self.tokenizer.decode(tokens, mask)]
        ended = [
            row[-1] in self.tokenizer.ends or any(stop in text for stop in stops)
            for row, text in zip(replies, texts, strict=True)
        ]
        groups = torch.arange(len(texts), device=self.device) // n
        flags = torch.tensor(ended, device=self.device)
        return Generation(questions, texts, ids, read, tokens, mask, log_probs, flags, groups)


def unused_reward(**_: Any) -> list[float]:
    """TRL insists on a function of rewards; the agent's `reward` is what counts."""
    raise AssertionError("rewards are the agent's")
