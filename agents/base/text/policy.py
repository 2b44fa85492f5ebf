"""A causal language model and its tokenizer as a policy: replies to prompts, and what learners ask
of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from torch import nn

from .. import checkpoint as files
from .generation import Generation, answered, built, characters_of, check_sampling, cut, request
from .hugging_face import HuggingFaceModel
from .parameters import keep_parameters_once
from .sampling import Sampled, sample
from .scoring import Scores, spread, states, token_scores
from .supervised import warm_start
from .tiny import TinyTransformer
from .token_batch import TokenBatch
from .tokenizer import CharTokenizer, HuggingFaceTokenizer, Tokenizer

KIND = "text_policy"


class TextPolicy(BasePolicy):
    """A causal language model with its tokenizer, in SB3's form.

    Args:
        observation_space, action_space: of the environment, or None. Where both are `Text`, their
            characters, sorted, are the default alphabet.
        model: "tiny", the embedded character transformer, or the directory of a Hugging Face model.
        model_kwargs: of `TinyTransformer` (layers, width, heads, context) or `HuggingFaceModel`
            (dtype, lora, gradient_checkpointing).
        alphabet: characters of the embedded model; a Hugging Face model has its own vocabulary.
        stop: text that ends every reply and is part of it; see `Tokenizer`.
        chat: give prompts to a Hugging Face model in its chat template.
        max_tokens: default of `generate`; None: the most characters of an action, or 64.
        temperature, top_p: defaults of `generate` and `predict`.
        value_head: have `values`.
        labels: outputs of `classify`; 0: there is no such head.
        most_logits: logits that are held at once when log-probabilities are computed.
        seed: of the policy's own generator, from which replies are drawn; None: drawn from torch's.

    Raises:
        ValueError: an argument is not one of the above, or the model cannot be read.
        ImportError: a Hugging Face model is asked for and the extra "llm" is not installed.
    """

    def __init__(
        self,
        observation_space: gym.Space | None = None,
        action_space: gym.Space | None = None,
        *,
        model: str = "tiny",
        model_kwargs: Mapping[str, Any] | None = None,
        alphabet: str | None = None,
        stop: str = "",
        chat: bool = False,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        value_head: bool = False,
        labels: int = 0,
        most_logits: int = 2**22,
        seed: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        if alphabet is None:
            alphabet = characters_of(observation_space, action_space)
        if max_tokens is None:
            max_tokens = action_space.max_length if isinstance(action_space, spaces.Text) else 64
        if labels < 0 or most_logits < 1:
            raise ValueError(
                f"labels is at least 0 and most_logits at least 1, got {labels}, {most_logits}"
            )
        check_sampling(temperature, top_p)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        self.arguments: dict[str, Any] = {
            "model": str(model),
            "model_kwargs": dict(model_kwargs or {}),
            "alphabet": alphabet,
            "stop": stop,
            "chat": chat,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "value_head": value_head,
            "labels": labels,
            "most_logits": most_logits,
            "seed": seed,
        }
        self.max_tokens, self.most_logits = max_tokens, most_logits
        self.temperature, self.top_p = temperature, top_p
        self.tokenizer: Tokenizer
        self.model: TinyTransformer | HuggingFaceModel
        elsewhere: set[str] = set()
        if model == "tiny":
            if chat:
                raise ValueError("the embedded model has no chat template (chat=True)")
            self.tokenizer = characters = CharTokenizer(alphabet, stop)
            self.model = built(
                TinyTransformer, (characters.tokens, characters.outputs), model_kwargs
            )
        else:
            self.model = built(HuggingFaceModel, (model,), model_kwargs)
            self.tokenizer = HuggingFaceTokenizer(model, stop, chat, self.model.ends)
            if self.model.adapted:
                own = self.model.named_parameters(prefix="model", remove_duplicate=False)
                elsewhere = {name for name, parameter in own if not parameter.requires_grad}
        self.value_head = nn.Linear(self.model.width, 1) if value_head else None
        self.label_head = nn.Linear(self.model.width, labels) if labels else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        keep_parameters_once(self, elsewhere)
        self._seed = seed
        self._generator: torch.Generator | None = None
        self.set_training_mode(False)

    # -- generation --------------------------------------------------------------------------------

    @property
    def generator(self) -> torch.Generator:
        """The source of replies, on the device of the model. Its state is not in `state_dict`: who
        resumes a run exactly keeps `generator.get_state()`."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device).manual_seed(self._seed)
        return self._generator

    def set_seed(self, seed: int) -> None:
        """Start the policy's own generator anew."""
        self._seed, self._generator = seed, None

    @torch.no_grad()
    def generate(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | Sequence[int] | None = None,
        stops: Sequence[str] = (),
        prefixes: str | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Write replies, and the log-probabilities of their tokens in the same pass.

        Each prompt is read once for its n replies.

        Args:
            prompts: B of them, or one.
            n: replies per prompt.
            temperature: divides the logits; 0 takes the most likely token. None: the policy's.
            top_p: probability of the nucleus from which tokens are drawn. None: the policy's.
            max_tokens: tokens of a reply at most: one number, one per prompt, or one per reply.
                None: the policy's.
            stops: strings that end a reply, beside the end token and the policy's stop. The reply
                ends with the string; a token that goes beyond it stays whole.
            prefixes: what replies begin with: one text, one per prompt, or one per reply. To the
                model they are a part of the prompt: they are not in `tokens` and cost no budget.
            generator: None: the policy's own. The same state and call give the same replies.

        Returns:
            Log-probabilities are at this temperature (1 for 0) and over all tokens, whatever
            `top_p`: they equal `log_probs` at the same temperature.

        Raises:
            ValueError: an argument is out of range, a text cannot be encoded, or prompt and reply
                are longer than the model can read.
        """
        temperature = self.temperature if temperature is None else temperature
        top_p = self.top_p if top_p is None else top_p
        check_sampling(temperature, top_p)
        self.tokenizer.check_stops(stops)
        asked = request(prompts, n, self.max_tokens if max_tokens is None else max_tokens, prefixes)
        ids, mask = (x.to(self.device) for x in self.tokenizer.encode(*asked.read))
        every_stop = (*stops, *self.tokenizer.implied_stops)
        was_training = self.model.training
        if was_training:  # else a walk through all modules is saved
            self.model.train(False)
        # Leaner than no_grad; a Hugging Face model may keep what it makes here, and train with it.
        lean = isinstance(self.model, TinyTransformer)
        without_gradients = torch.inference_mode() if lean else torch.no_grad()
        try:
            with without_gradients:
                found = sample(
                    self.model,
                    self.tokenizer,
                    ids,
                    mask,
                    repeats=asked.repeats,
                    budgets=torch.tensor(asked.budgets, device=self.device),
                    temperature=temperature,
                    top_p=top_p,
                    stops=every_stop,
                    generator=self.generator if generator is None else generator,
                )
        finally:
            if was_training:
                self.model.train()
        found = Sampled(*(each.clone() for each in found))  # may be learned from
        texts = [cut(t, every_stop) for t in self.tokenizer.decode(found.tokens, found.mask)]
        if asked.prefixes is not None:
            texts = [first + text for first, text in zip(asked.prefixes, texts, strict=True)]
        rows = torch.arange(len(texts), device=self.device)
        return Generation(
            asked.questions,
            texts,
            ids.repeat_interleave(asked.repeats, dim=0),
            mask.repeat_interleave(asked.repeats, dim=0),
            *found,
            groups=rows // n,
        )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, None]:
        """The reply to one prompt (a text), or to several (a list of texts; an object array [n]
        where the prompts are an array).

        Args:
            observation: a text, or a list, tuple or array of texts.
            state, episode_start: not used; SB3's signature.
            deterministic: the most likely token everywhere, else a sample.

        Raises:
            ValueError: `observation` is not text, or cannot be encoded.
        """
        temperature = 0.0 if deterministic else None

        def answer(prompts: list[str]) -> list[str]:
            return self.generate(prompts, temperature=temperature).texts

        return answered(observation, answer), None

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        """Tokens [N, T] of the replies to N prompts, padded on the right."""
        return self.generate(observation, temperature=0.0 if deterministic else None).tokens

    # -- what learners ask -------------------------------------------------------------------------

    def batch(self, prompts: Sequence[str], replies: Sequence[str]) -> TokenBatch:
        """Given replies to prompts, one each, as arrays.

        Raises:
            ValueError: their numbers differ, or a text cannot be encoded.
        """
        if len(prompts) != len(replies):
            raise ValueError(f"got {len(prompts)} prompts and {len(replies)} replies")
        arrays = (*self.tokenizer.encode(prompts), *self.tokenizer.encode_replies(replies))
        return TokenBatch(*arrays).to(self.device)

    def forward(
        self,
        batch: TokenBatch,
        temperature: float = 1.0,
        entropy: bool = False,
        values: bool = False,
    ) -> Scores:
        """Log-probabilities of the tokens and, if asked for, entropies and values, in one pass.

        Gradients flow through all three. Above `most_logits` logits the work is done in chunks over
        the tokens, so that [N, T, vocabulary] never exists.

        Args:
            batch: N replies.
            temperature: that of sampling, above 0.
            entropy: of the next-token distributions, at this temperature.
            values: of the states before the tokens; needs `value_head`.

        Raises:
            ValueError: the temperature is not positive, or there is no value head.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if values and self.value_head is None:
            raise ValueError("this policy has no value head: build it with value_head=True")
        hidden = states(self.model, batch)
        chosen, entropies = token_scores(
            self.model,
            hidden,
            batch.tokens[batch.mask],
            temperature=temperature,
            entropy=entropy,
            most_logits=self.most_logits,
        )
        found = None
        if values and self.value_head is not None:
            found = spread(self.value_head(hidden.float())[:, 0], batch.mask)
        return Scores(
            spread(chosen, batch.mask),
            None if entropies is None else spread(entropies, batch.mask),
            found,
        )

    def log_probs(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """Log-probabilities of the tokens [N, T], 0 where the mask is False; see `forward`."""
        return self.forward(batch, temperature).log_probs

    def entropy(self, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
        """Entropies [N, T] in nats, 0 where the mask is False; see `forward`."""
        entropies = self.forward(batch, temperature, entropy=True).entropies
        assert entropies is not None
        return entropies

    def values(self, batch: TokenBatch) -> torch.Tensor:
        """Values [N, T] of the states before the tokens, 0 where the mask is False."""
        if self.value_head is None:
            raise ValueError("this policy has no value head: build it with value_head=True")
        hidden = states(self.model, batch)
        return spread(self.value_head(hidden.float())[:, 0], batch.mask)

    def classify(self, batch: TokenBatch) -> torch.Tensor:
        """Outputs [N, labels] of the classification head for prompts with their replies.

        They are read at the last token under the mask.

        Raises:
            ValueError: there is no such head.
        """
        if self.label_head is None:
            raise ValueError(
                "this policy has no classification head: build it with labels=1 or more"
            )
        hidden = states(self.model, batch, last=True)
        found: torch.Tensor = self.label_head(hidden.float())
        return found

    def make_optimizer(self, learning_rate: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
        """AdamW for what is to be trained, in one kernel."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)

    def warm_start(
        self, pairs: Sequence[tuple[str, str]], steps: int, **arguments: Any
    ) -> list[float]:
        """Supervised fine-tuning; see `supervised.warm_start`."""
        return warm_start(self, pairs, steps, **arguments)

    def frozen_copy(self) -> TextPolicy:
        """A copy that does not learn, for a reference; what is frozen here already is shared."""
        frozen = {id(p): p for p in self.parameters() if not p.requires_grad}
        twin = copy.deepcopy(self, frozen)
        twin.requires_grad_(False)
        twin.set_training_mode(False)
        return twin

    # -- files -------------------------------------------------------------------------------------

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(self.arguments)

    def save(self, path: str | Path) -> None:
        """Write the policy as a zip of JSON and safetensors, atomically.

        Of a Hugging Face model the parameters are written (with LoRA, those of the adapters); its
        directory stays the source of the rest.

        Raises:
            ValueError: an argument cannot be written without pickle.
        """
        own = (self.observation_space, self.action_space)
        kept = [None if space is None else files.encode_space(space) for space in own]
        config = {"kind": KIND, "arguments": files.encode(self.arguments), "spaces": kept}
        files.write(path, config, self.state_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "auto") -> Self:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds something else.
        """
        config, tensors = files.read(path)
        if config.get("kind") != KIND:
            raise ValueError(f"{path}: not a text policy")
        kept = [None if space is None else files.decode_space(space) for space in config["spaces"]]
        policy = cls(*kept, **files.decode(config["arguments"]))
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise ValueError(f"{path}: the parameters do not fit: {text}") from error
        return policy.to(get_device(device))
