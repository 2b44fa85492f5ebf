"""A causal language model of Hugging Face with the interface of `TinyTransformer`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....extras import require

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HuggingFaceCache:
    """The key-value cache of a Hugging Face model and what it needs to go on.

    Attributes:
        inner: transformers' `DynamicCache`.
        mask: int [n, places], 0 at left padding, or None where there is none; the first `length`
            columns are in use.
        lengths: int [n], tokens of each row in the cache.
        length: places that are filled.
    """

    def __init__(
        self, inner: Any, mask: torch.Tensor | None, lengths: torch.Tensor, length: int
    ) -> None:
        self.inner, self.mask, self.lengths, self.length = inner, mask, lengths, length

    def select(self, rows: torch.Tensor) -> HuggingFaceCache:
        """The cache of the given rows, int [m]; this one is used up."""
        self.inner.batch_select_indices(rows)
        mask = None if self.mask is None else self.mask[rows]
        return HuggingFaceCache(self.inner, mask, self.lengths[rows], self.length)


class HuggingFaceModel(nn.Module):
    """A causal language model from a local directory; code in the directory is never run.

    Dropout is switched off: with it, log-probabilities of the same tokens would differ between the
    rollout and the loss.

    Args:
        path: directory with `config.json` and safetensors.
        dtype: "float32", "bfloat16", "float16", or "auto": as stored.
        lora: arguments of `peft.LoraConfig`; only the adapters are trained then, and "all-linear"
            layers have one unless `target_modules` says otherwise. None: all parameters are
            trained.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        ValueError: there is no such directory, no such model in it, or one whose logits are more
            than its output layer says.
        ImportError: the extra "llm" is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: str = "float32",
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in (*DTYPES, "auto"):
            raise ValueError(f"dtype must be one of {[*DTYPES, 'auto']}, got {dtype!r}")
        if not Path(path).is_dir():
            raise ValueError(
                f"{path}: no such directory; a Hugging Face model is read from a local directory, "
                "nothing is downloaded"
            )
        self._cache_class = require("transformers", extra="llm").DynamicCache
        self.inner: Any = read_model(path, DTYPES.get(dtype, "auto"))
        if lora is not None:
            peft = require("peft", extra="llm")
            config = peft.LoraConfig(
                **{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
            )
            self.inner = peft.inject_adapter_in_model(config, self.inner)
            for name, parameter in self.inner.named_parameters():
                parameter.requires_grad_("lora_" in name)
        if gradient_checkpointing:
            name = "activation_checkpointing_enable"  # before transformers 5: gradient_...
            enable = getattr(self.inner, name, self.inner.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        self.adapted, self.gradient_checkpointing = lora is not None, gradient_checkpointing
        text = self.inner.config.get_text_config()
        self.width, self.outputs = text.hidden_size, text.vocab_size
        self.softcap = getattr(text, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self.scale = getattr(text, "logit_scale", None) or 1 / getattr(text, "logits_scaling", 1)
        accepted = inspect.signature(type(self.inner.base_model).forward).parameters
        self.places = "position_ids" in accepted
        ends = self.inner.generation_config.eos_token_id
        self.ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self.context = getattr(text, "max_position_embeddings", None)
        self.check_logits()

    def check_logits(self) -> None:
        """ValueError unless `logits` agrees with the model's own."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.inner.device)
        self.inner.eval()
        with torch.no_grad():
            own = self.inner(input_ids=ids, use_cache=False).logits
            found = self.logits(self(ids))
        if own.shape != found.shape or not torch.allclose(own, found, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{type(self.inner).__name__} does something to its logits that palaestra does not "
                "know, so log-probabilities would be wrong"
            )

    def check_length(self, length: int) -> None:
        """ValueError where that many tokens are more than the model can read."""
        if self.context is not None and length > self.context:
            raise ValueError(
                f"prompt and reply may have {self.context} tokens together in this model, "
                f"got {length}"
            )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, w, width] of ids [n, w], each of all tokens up to its own."""
        self.check_length(ids.shape[1])
        # Nothing looks to the right, so padding there needs no mask.
        output: torch.Tensor = self.inner.base_model(
            input_ids=ids, use_cache=False
        ).last_hidden_state
        return output

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., vocabulary] of the token after each hidden state [..., width]."""
        found: torch.Tensor = self.inner.get_output_embeddings()(hidden)
        if self.scale != 1:
            found = found * self.scale
        if self.softcap is not None:
            found = self.softcap * torch.tanh(found / self.softcap)
        return found

    def start(
        self, ids: torch.Tensor, mask: torch.Tensor, repeats: int, budget: int
    ) -> tuple[torch.Tensor, HuggingFaceCache]:
        """As `TinyTransformer.start`."""
        self.check_length(ids.shape[1] + budget)
        lengths = mask.sum(dim=1)
        places = None  # of tokens; where nothing is padding, transformers needs no mask
        if not mask.all():
            reply = mask.new_ones(len(mask), budget)
            places = torch.cat([mask, reply], dim=1).long()
        inner = self._cache_class(config=self.inner.config)
        cache = HuggingFaceCache(inner, places, lengths, 0)
        hidden = self._read(ids, (mask.cumsum(dim=1) - 1).clamp(min=0), cache)
        if repeats > 1:
            inner.batch_repeat_interleave(repeats)
            cache.lengths = lengths.repeat_interleave(repeats)
            cache.mask = None if places is None else places.repeat_interleave(repeats, dim=0)
        return hidden[:, -1].repeat_interleave(repeats, dim=0), cache

    def step(self, ids: torch.Tensor, cache: HuggingFaceCache) -> torch.Tensor:
        """As `TinyTransformer.step`."""
        hidden = self._read(ids[:, None], cache.lengths[:, None], cache)
        cache.lengths = cache.lengths + 1
        return hidden[:, 0]

    def _read(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: HuggingFaceCache
    ) -> torch.Tensor:
        """Hidden states [n, w, width] of ids [n, w] after what is in the cache, which grows."""
        cache.length += ids.shape[1]
        output: torch.Tensor = self.inner.base_model(
            input_ids=ids,
            attention_mask=None if cache.mask is None else cache.mask[:, : cache.length],
            past_key_values=cache.inner,
            use_cache=True,
            **({"position_ids": positions} if self.places else {}),
        ).last_hidden_state
        return output


def read_model(path: str | Path, dtype: torch.dtype | str) -> Any:
    """The model of a directory, without dropout.

    Raises:
        ValueError: there is none in it that transformers knows without running foreign code.
    """
    transformers = require("transformers", extra="llm")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(str(path), **local)
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
        return transformers.AutoModelForCausalLM.from_pretrained(
            str(path), config=config, dtype=dtype, use_safetensors=True, **local
        )
    except Exception as error:  # transformers raises a different class for every defect
        raise ValueError(f"{path}: no language model could be read: {error}") from error
