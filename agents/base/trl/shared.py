"""What the trainers have in common: TRL itself, an agent whose policy is elsewhere, its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ....extras import require
from .. import checkpoint as files
from ..resumable import check_class, class_path, prefixed, reading
from ..text.token_batch import TokenBatch
from ..text_algorithm import TextAlgorithm

trl = require("trl", extra="trl")
datasets = require("datasets", extra="trl")
TrainerCallback: Any = require("transformers", extra="trl").TrainerCallback

AGENT = "agent.zip"  # in a checkpoint: what the agent remembers
# Parts of an agent that stand for the loop of learning, which is the trainer's here.
LOOP = ("begin", "update", "improve", "step")


# -- configuration ---------------------------------------------------------------------------------


def configured(
    kind: Any,
    agent: TextAlgorithm,
    minibatch: int,
    said: Mapping[str, Any],
    unheard: Sequence[str],
    given: Mapping[str, Any],
) -> Any:
    """A configuration of TRL for an agent.

    Args:
        kind: its class.
        agent: learning rate (that at the start), weight decay, gradient norm and seed are its own,
            unless they are given.
        minibatch: records of a step of the optimizer, in all processes.
        said: what the agent says.
        unheard: what nobody would hear.
        given: by the user. With `per_device_train_batch_size` a process holds so many records at
            once, else its part of a minibatch.

    Raises:
        ValueError: what is given contradicts the agent, or a minibatch cannot be divided so.
    """
    given = dict(given)
    if wrong := sorted(set(given) & set(said)):
        values = ", ".join(f"{name}={said[name]}" for name in wrong)
        raise ValueError(f"the agent says {values}: leave {wrong} out, or change the agent")
    if wrong := sorted(set(given) & set(unheard)):
        raise ValueError(f"{wrong} belong to TRL's own loss, in whose place stands the agent's")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    here = given.pop("per_device_train_batch_size", None) or max(minibatch // processes, 1)
    slices = minibatch // (here * processes)
    asked = given.pop("gradient_accumulation_steps", slices)
    if asked != slices or here * processes * slices != minibatch:
        raise ValueError(
            f"a minibatch of the agent has {minibatch} records: that must be "
            f"per_device_train_batch_size={here} times {processes} processes times "
            f"gradient_accumulation_steps={asked}"
        )
    chosen = {
        "learning_rate": agent.lr_schedule(1),
        "lr_scheduler_type": "constant",
        "weight_decay": agent.weight_decay,
        "max_grad_norm": agent.max_grad_norm,
        **({} if agent.seed is None else {"seed": agent.seed}),
    }
    sizes = {"per_device_train_batch_size": here, "gradient_accumulation_steps": slices}
    return kind(**{**chosen, **given, **said, **sizes, "disable_dropout": True})


def check_agent(agent: TextAlgorithm, base: type[TextAlgorithm], processes: int) -> None:
    """ValueError where a trainer would not do what the agent does.

    Args:
        agent: to be trained.
        base: whose loop of learning the trainer replaces.
        processes: in which the agent is.
    """
    name = type(agent).__name__
    parts = [part for part in LOOP if hasattr(base, part)]
    if own := [part for part in parts if getattr(type(agent), part) is not getattr(base, part)]:
        raise ValueError(f"{name} has its own {own}: that is the trainer's, and would not be heard")
    if processes > 1 and (agent.seed is None or agent.device.type != "cpu"):
        raise ValueError(
            "with several processes the agent needs a seed, so that it draws the same in all of "
            f"them, and device='cpu'; got seed={agent.seed}, device={agent.device}"
        )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """ValueError where a trainer's own data or rewards are given."""
    own = ("train_dataset", "eval_dataset", "reward_funcs", "rollout_func", "environment_factory")
    if wrong := sorted(set(arguments) & {*own, "tools", "args", "data_collator"}):
        raise ValueError(
            f"{wrong} are the agent's; held-out tasks are for `TextAlgorithm.accuracy`, with a "
            "TextPolicy of what the trainer has saved"
        )


# -- the model -------------------------------------------------------------------------------------


def stop_dropout(model: torch.nn.Module) -> None:
    """Set rates of dropout to 0 that layers keep as numbers; TRL's `disable_dropout` knows modules
    only. With dropout, log-probabilities of the same tokens would differ between the rollout and
    the loss."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def inputs_of(batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, int [n, P + T], of prompts with their replies.

    Up to its last token all of a reply is read, also what others have written in between.
    """
    read = batch.mask.flip(1).cumsum(dim=1).flip(1) > 0
    ids = torch.cat([batch.prompts, batch.tokens], dim=1)
    return ids, torch.cat([batch.prompt_mask, read], dim=1).long()


# -- the agent -------------------------------------------------------------------------------------


class Elsewhere:
    """In the place of a policy that a trainer has: what a subclass writes, and nothing else."""

    def __getattr__(self, name: str) -> Any:
        offered = sorted(entry for entry in dir(type(self)) if not entry.startswith("_"))
        raise AttributeError(f"a trainer's model has no {name!r}; it has {offered}")


@contextmanager
def swapped(agent: TextAlgorithm, **attributes: Any) -> Iterator[None]:
    """Other attributes of an agent for a while."""
    own = {name: getattr(agent, name) for name in attributes}
    vars(agent).update(attributes)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(agent, name, value)


class AfterUpdates(TrainerCallback):
    """Calls the trainer's `look_back` after every step of the optimizer."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """After a step of the optimizer."""
        self.trainer.look_back()


class Remembering:
    """A trainer whose checkpoints hold what its `agent` remembers, and that reports to nobody."""

    agent: TextAlgorithm
    args: Any
    state: Any

    def _send_telemetry(self) -> None:
        """Nothing."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL's, with what the agent remembers."""
        trainer: Any = super()
        trainer._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(trainer._get_output_dir(trial=trial))
            save_memory(self.agent, folder / f"checkpoint-{self.state.global_step}" / AGENT)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As TRL's, with what the agent remembers."""
        trainer: Any = super()
        trainer._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_memory(self.agent, Path(checkpoint) / AGENT)


def save_memory(agent: TextAlgorithm, path: Path) -> None:
    """Write what an agent remembers of its tasks, and its generators, but no model."""
    (values, tensors), (learning, drawn) = agent.extra_state(), agent.learning_state()
    config = {
        "class": class_path(type(agent)),
        "num_timesteps": agent.num_timesteps,
        "extra": files.encode(values),
        "learning": files.encode(learning),
    }
    kept = {f"extra.{name}": tensor for name, tensor in tensors.items()}
    files.write(path, config, kept | {f"learning.{name}": x for name, x in drawn.items()})


def load_memory(agent: TextAlgorithm, path: Path) -> None:
    """Read what `save_memory` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another agent.
    """
    config, tensors = files.read(path)
    with reading(path, type(agent)):
        check_class(config, type(agent))
        agent.num_timesteps = config["num_timesteps"]
        agent.restore_extra_state(files.decode(config["extra"]), prefixed(tensors, "extra"))
        learning = files.decode(config["learning"])
        agent.restore_learning_state(learning, prefixed(tensors, "learning"))
