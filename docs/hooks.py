"""MkDocs hook: the pages that are written by the code itself.

Nothing generated is stored. Each build reads the environment registry, the table of agents, the
catalogue of systems and the package's folders, and hands MkDocs one page per environment, per
implemented system, per other agent and per module, with an index of each kind. mkdocstrings fills
in the docstrings.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import palaestra
from palaestra.envs.registry import ENTRIES
from palaestra.lab import catalog

ROOT = Path(__file__).resolve().parents[1]
MODULE_FOLDERS = ("envs", "agents/base", "wrappers", "lab")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    rows = catalog.rows()
    pages = environment_pages() | system_pages(rows) | agent_pages(rows) | module_pages()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show where a source file is, not the folder of links through which it was read."""
    return html.replace(".cache/named/", "")


def environment_pages() -> dict[str, str]:
    pages = {}
    lines = []
    for entry in ENTRIES:
        module, name = entry.core.split(":")
        summary = _first_line(ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py"), name)
        lines.append(
            f"| [{entry.id}]({entry.id}.md) | {entry.domain} | {_faces(entry)} | {summary} |"
        )
        native = "vector" in entry.faces
        mode = "vector_entry_point" if native else "async"
        made = f'"{entry.id}", {entry.needs}' if entry.needs else f'"{entry.id}"'
        needs = f"    {entry.needs},\n" if entry.needs else ""
        pages[f"environments/{entry.id}.md"] = f"""# {entry.id}

```python
import gymnasium as gym
import palaestra

env = gym.make({made})
envs = gym.make_vec(
    "{entry.id}",
    num_envs={64 if native else 8},
    vectorization_mode="{mode}",
{needs})
```

Faces: {_faces(entry)}. {"Core" if native else "Class"}: `{entry.import_path}`.

{_object(entry.import_path, members=False)}
"""
    pages["environments/index.md"] = f"""# Environments

`import palaestra` registers every one of them with Gymnasium.

| id | domain | faces | what the agent does |
|---|---|---|---|
{_join(lines)}
"""
    return pages


def system_pages(rows: Iterable[catalog.Row]) -> dict[str, str]:
    pages = {}
    lines = []
    for row in rows:
        title = _cell(row.title)
        if row.class_path is None:
            lines.append(f"| {row.row} | `{row.slug}` | {row.family} | {title} | {row.state} |")
            continue
        state = row.state + (" (stale)" if row.stale else "")
        link = f"[`{row.slug}`]({row.slug}.md)"
        lines.append(f"| {row.row} | {link} | {row.family} | {title} | **{state}** |")
        pages[f"systems/{row.slug}.md"] = _system_page(row, state)
    pages["systems/index.md"] = f"""# Systems

One row per surveyed system. *Implemented*: a class and a test with a worked example. *Reproduced*
or *not reproduced*: the paper's claim in miniature was run, and its stored result says so. *Stale*:
the source has changed since.

| row | system | family | paper | state |
|---|---|---|---|---|
{_join(lines)}
"""
    return pages


def agent_pages(rows: Iterable[catalog.Row]) -> dict[str, str]:
    """Every agent in the index; a page for those that do not have one as a system."""
    systems = {row.class_path: row for row in rows if row.class_path}
    pages = {}
    lines = []
    for name in sorted(palaestra.agents.names()):
        cls = getattr(palaestra.agents, name)
        path = f"{cls.__module__}.{cls.__qualname__}"
        page = f"../systems/{systems[path].slug}.md" if path in systems else f"{name}.md"
        summary = _cell((cls.__doc__ or "").strip().split("\n\n")[0])
        lines.append(f"| [{name}]({page}) | {cls.__module__.split('.')[2]} | {summary} |")
        if path not in systems:
            pages[f"agents/{name}.md"] = f"# {name}\n\n{_object(path, inherited=False)}\n"
    pages["agents/index.md"] = f"""# Agents

Each keeps the contract of Stable-Baselines3's `BaseAlgorithm` and loads on first use:
`palaestra.agents.NAME(policy, env, seed=0).learn(steps)`.

| agent | family | what it is |
|---|---|---|
{_join(lines)}
"""
    return pages


def module_pages() -> dict[str, str]:
    """One page per module of the shared machinery; environments and systems have theirs."""
    cores = {entry.core.split(":")[0] for entry in ENTRIES}
    pages = {}
    lines = []
    for folder in MODULE_FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            module = ".".join(("palaestra", *parts))
            if file.stem.startswith("_") or module in cores:
                continue
            lines.append(f"| [`{module}`]({module}.md) | {_first_line(file)} |")
            pages[f"reference/{module}.md"] = f"# {module}\n\n{_object(module)}\n"
    pages["reference/index.md"] = f"""# Reference

| module | what it holds |
|---|---|
{_join(lines)}
"""
    return pages


def _system_page(row: catalog.Row, state: str) -> str:
    cls = catalog.find_class(row.slug)
    paper, claim = cls.paper, getattr(cls, "claim", None)
    links = [f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"] if paper.arxiv else []
    links += [f"[the authors' code]({paper.code})"] if paper.code else []
    environments = ", ".join(
        f"[{name}](../environments/{name}.md)"
        if any(entry.id == name for entry in ENTRIES)
        else f"`{name}`"
        for name in row.environments
    )
    page = f"""# {row.slug}: {cls.__name__}

*{row.title}*. {paper.authors}, {paper.year}. {", ".join(links)}

Family {row.family}, environments {environments or "none"}. State: **{state}**.
"""
    if claim:
        arms = ", ".join(f"`{arm}`" for arm in claim.arms)
        page += f"""
## Claim

{claim.text}

`palaestra reproduce {row.slug}` runs it: arms {arms}, {claim.seeds} paired seeds, about
{claim.core_minutes:g} minutes on one core.

{_criteria(row.slug, claim)}
"""
    module = row.class_path.rpartition(".")[0] if row.class_path else ""
    return f"{page}\n## The file\n\n{_object(module)}\n"


def _criteria(slug: str, claim: Any) -> str:
    """What the claim must show, with the stored verdicts where there are any."""
    result = catalog.stored_result(slug)
    stored = result["criteria"] if result else []
    lines = []
    for i, criterion in enumerate(claim.criteria):
        against = getattr(criterion, "baseline", None) or f"{criterion.value:g}"
        verdict = "not run"
        if i < len(stored) and stored[i]["metric"] == criterion.metric:
            verdict = "holds" if stored[i]["holds"] else "does not hold"
        kind = type(criterion).__name__
        lines.append(f"| {kind} | `{criterion.metric}` | {criterion.arm} | {against} | {verdict} |")
    return (
        "| criterion | metric | arm | against | stored result |\n|---|---|---|---|---|\n"
        + _join(lines)
    )


def _object(path: str, *, members: bool = True, inherited: bool = False) -> str:
    options = [f"      members: {str(members).lower()}"] if not members else []
    options += [f"      inherited_members: {str(inherited).lower()}"]
    return f"::: {path}\n    options:\n" + "\n".join(options)


def _first_line(file: Path, name: str | None = None) -> str:
    """First sentence of a module's docstring, or of its class `name`."""
    tree: Any = ast.parse(file.read_text(encoding="utf-8"))
    if name is not None:
        tree = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return _cell((ast.get_docstring(tree) or "").split("\n\n")[0])


def _faces(entry: Any) -> str:
    return ", ".join(entry.faces)


def _cell(text: str) -> str:
    """Text that fits into one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _join(lines: list[str]) -> str:
    return "\n".join(lines)
