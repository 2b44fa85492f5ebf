"""One row per surveyed system, with a state computed from what is in the package.

    missing          no class, or no worked-example test
    implemented      a class whose `paper` names the slug, and a test named test_worked_example*
    reproduced       implemented, and the stored result of its claim holds
    not reproduced   implemented, and the stored result does not hold

A system's class is the first one in agents/<family>/<slug>.py whose body says `paper = Paper(...)`
with the slug as a literal. That is read from the source, so counting states imports nothing. An
installed wheel has no tests folder: there the class alone makes a system implemented.
"""

from __future__ import annotations

import ast
import csv
import functools
import hashlib
import importlib
import json
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGE = __name__.split(".")[0]
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "lab" / "results"
STATES = ("missing", "implemented", "reproduced", "not reproduced")


@dataclass(frozen=True)
class System:
    """A surveyed system, as `lab/systems.csv` lists it."""

    row: int
    slug: str
    family: str
    title: str


@dataclass(frozen=True)
class Row(System):
    """A system and what the package has of it.

    Attributes:
        state: one of `STATES`.
        stale: the system's source or a base of it changed since the stored result.
        class_path: import path of the class, or None.
        environments: ids that the class names in `environments`, else the one of its example.
        claim: the text of its claim, or None.
        evidence: path of the stored result, relative to the package, or None.
    """

    state: str
    stale: bool
    class_path: str | None
    environments: tuple[str, ...]
    claim: str | None
    evidence: str | None

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; `class_path` is called `class`."""
        fields = asdict(self)
        fields["class"] = fields.pop("class_path")
        fields["environments"] = list(self.environments)
        return fields


@functools.cache
def systems() -> tuple[System, ...]:
    """The surveyed systems, in the order of the table."""
    with (ROOT / "lab" / "systems.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            System(int(line["row"]), line["slug"], line["family"], line["title"])
            for line in csv.DictReader(file)
        )


def system(slug: str) -> System:
    """The system called `slug`; ValueError where there is none."""
    for candidate in systems():
        if candidate.slug == slug:
            return candidate
    raise ValueError(f"no system is called {slug!r}; `palaestra list` shows the {len(systems())}")


def find_class(slug: str) -> type[Any]:
    """The class that implements `slug`; ValueError where there is none."""
    entry = system(slug)
    name = _class_name(entry)
    if name is None:
        raise ValueError(f"{slug} is not implemented: no class with its paper in {_source(entry)}")
    found: type[Any] = getattr(importlib.import_module(_module_name(entry)), name)
    return found


def rows() -> list[Row]:
    """One row per surveyed system. Imports the modules of the systems that exist, no others."""
    return [_row(entry) for entry in systems()]


def summary() -> dict[str, dict[str, int]]:
    """family -> state -> number of systems, plus "total"; imports no system."""
    counts: dict[str, Counter[str]] = {}
    for entry in systems():
        counts.setdefault(entry.family, Counter())[_state(entry)] += 1
    return {
        family: {**{state: count[state] for state in STATES}, "total": count.total()}
        for family, count in counts.items()
    }


def environments() -> list[dict[str, Any]]:
    """One object per registered environment: id, domain, faces, class (an import path)."""
    from ..envs.registry import ENTRIES

    return [
        {
            "id": entry.id,
            "domain": entry.domain,
            "faces": list(entry.faces),
            "class": entry.import_path,
        }
        for entry in ENTRIES
    ]


def source_hash(cls: type[Any]) -> str:
    """sha256 over the sources of `cls`, of its bases inside the package and of what its claim names
    beside, sorted by module name."""
    names = {base.__module__ for base in cls.__mro__}
    inside = {n for n in names if n == cls.__module__ or n.split(".")[0] == PACKAGE}
    claim = getattr(cls, "claim", None)
    inside |= {f"{PACKAGE}.{name}" for name in claim.modules} if claim else set()
    digest = hashlib.sha256()
    for name in sorted(inside):
        file = (sys.modules.get(name) or importlib.import_module(name)).__file__
        if file is None:
            raise ValueError(f"module {name} has no source file to hash")
        digest.update(name.encode() + b"\0" + Path(file).read_bytes() + b"\0")
    return digest.hexdigest()


def result_path(slug: str) -> Path:
    """Where the stored result of `slug` is, or would be."""
    return RESULTS / f"{slug}.json"


def stored_result(slug: str) -> dict[str, Any] | None:
    """The stored result of a claim, None where it was never run; ValueError for a damaged file."""
    path = result_path(slug)
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if result["state"] not in ("reproduced", "not reproduced"):
            raise ValueError(f"state is {result['state']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of the runner: {error!r}") from error
    return result


def _row(entry: System) -> Row:
    name = _class_name(entry)
    state = _state(entry)
    base = (entry.row, entry.slug, entry.family, entry.title, state)
    if name is None:
        return Row(*base, False, None, (), None, None)
    cls = find_class(entry.slug)
    result = stored_result(entry.slug)
    claim = getattr(cls, "claim", None)
    example = getattr(cls, "example", None)
    return Row(
        *base,
        stale=result is not None and result.get("hash") != source_hash(cls),
        class_path=f"{_module_name(entry)}.{name}",
        environments=tuple(getattr(cls, "environments", (example.env,) if example else ())),
        claim=claim.text if claim else None,
        evidence=result_path(entry.slug).relative_to(ROOT).as_posix() if result else None,
    )


def _state(entry: System) -> str:
    if _class_name(entry) is None or not _has_worked_example(entry):
        return "missing"
    result = stored_result(entry.slug)
    return "implemented" if result is None else str(result["state"])


def _source(entry: System) -> str:
    return f"agents/{entry.family}/{entry.slug}.py"


def _module_name(entry: System) -> str:
    return f"{PACKAGE}.agents.{entry.family}.{entry.slug}"


def _has_worked_example(entry: System) -> bool:
    tests = ROOT / "tests"
    if not tests.is_dir():
        return True
    file = tests / "agents" / entry.family / f"test_{entry.slug}.py"
    return file.exists() and bool(
        re.search(r"^\s*def test_worked_example", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


def _class_name(entry: System) -> str | None:
    file = ROOT / _source(entry)
    if not file.exists():
        return None
    for node in ast.parse(file.read_text(encoding="utf-8"), filename=str(file)).body:
        if isinstance(node, ast.ClassDef) and _declares(node, entry.slug):
            return node.name
    return None


def _declares(node: ast.ClassDef, slug: str) -> bool:
    """Whether the class body assigns `paper` a call with `slug` as its first or slug= argument."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        named = any(isinstance(target, ast.Name) and target.id == "paper" for target in targets)
        if not named or not isinstance(statement.value, ast.Call):
            continue
        given = statement.value.args[:1] + [
            keyword.value for keyword in statement.value.keywords if keyword.arg == "slug"
        ]
        if any(isinstance(value, ast.Constant) and value.value == slug for value in given):
            return True
    return False
