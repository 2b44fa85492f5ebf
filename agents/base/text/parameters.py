"""Which parameters of a policy belong into a file: each once, and none that another file holds."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn


def keep_parameters_once(module: nn.Module, elsewhere: set[str]) -> None:
    """Make `state_dict` name each tensor once and leave out those that come from elsewhere.

    An output layer that is tied to the embedding is one tensor with two names; safetensors would
    store it twice. The frozen model under adapters is in its own directory. `load_state_dict` takes
    the shorter dictionary, still strictly, and a full one too.

    Args:
        module: whose dictionaries change; its copies' do too.
        elsewhere: names of parameters that construction brings.
    """
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        original = first.setdefault(id(parameter), name)
        if original != name:
            shared[name] = original

    def shorten(
        module: nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str, _: Any
    ) -> None:
        for name in (*shared, *elsewhere):
            state.pop(prefix + name, None)

    def lengthen(
        module: nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str, *_: Any
    ) -> None:
        for name in elsewhere:
            state.setdefault(prefix + name, module.get_parameter(name))
        for name, original in shared.items():
            if prefix + original in state:
                state.setdefault(prefix + name, state[prefix + original])

    module.register_state_dict_post_hook(shorten)
    module.register_load_state_dict_pre_hook(lengthen)
