"""What the commands share: options KEY=VALUE, and agents that are built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

EnvOptions = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="Argument of the environment; repeatable."),
]
AgentOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Argument of the agent; repeatable."),
]


class _Values(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everywhere outside YAML 1.1."""


_Values.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Values.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def key_values(option: str, pairs: Sequence[str] | None) -> dict[str, Any]:
    """The arguments that `option` was given, values read as YAML; ValueError for another form."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{option} needs KEY=VALUE, got {pair!r}")
        if key in found:
            raise ValueError(f"{option} gives {key} twice")
        try:
            found[key] = yaml.load(value, Loader=_Values)
        except yaml.YAMLError as error:
            raise ValueError(f"{option} {key}: {value!r} is not YAML: {error}") from error
    return found


def construct(
    cls: type[Any], policy: str | None, env: Any, seed: int, arguments: Mapping[str, Any]
) -> Any:
    """An agent; without `policy` with that of its example."""
    example = getattr(cls, "example", None)
    chosen = policy or (example.policy if example else "MlpPolicy")
    try:
        return cls(chosen, env, **{"seed": seed, **arguments})
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
