"""`palaestra bench`: how fast environments and training are, and how near the optimum HDPO comes.

A benchmark is a small declared object. It compares sides in one run: they take turns, round by
round (A B A B), so that a machine that slows down slows both, and a ratio is the median over the
rounds.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import __version__

Say = Callable[[str], None]
TIMES = "{:.2f} x"  # form of a ratio
INTRODUCTION = """# Benchmarks

This page is generated: `palaestra bench --out docs/benchmarks.md` measures everything again and
`palaestra bench NAME --out docs/benchmarks.md` one section. Sides that are compared took turns in
one run, on one thread where nothing else is said; speeds and ratios are medians over the rounds."""
VERSIONS = ("torch", "numpy", "gymnasium", "stable-baselines3")


@dataclass(frozen=True)
class Result:
    """One measured quantity.

    Attributes:
        quantity: what was measured.
        value: None where it could not be measured; `note` says why.
        form: of the value, for `format`.
        target: what the value should at least be (at most, with `at_most`); None: no target.
    """

    quantity: str
    value: float | None
    form: str = "{:,.0f}"
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def shown(self) -> str:
        """The value as text."""
        return "not measured" if self.value is None else self.form.format(self.value)

    @property
    def wanted(self) -> str:
        """The target as text."""
        if self.target is None:
            return ""
        return ("at most " if self.at_most else "at least ") + self.form.format(self.target)

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return ""
        if self.value is None:
            return "not measured"
        met = self.value <= self.target if self.at_most else self.value >= self.target
        return "met" if met else "not met"


@dataclass(frozen=True)
class Benchmark:
    """Something to measure.

    Attributes:
        measures: what, and how, for the reader of the table.
        run: (quick, say) -> results; `say` prints a line of progress.
    """

    name: str
    measures: str
    run: Callable[[bool, Say], list[Result]]


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every side returns in each of the rounds; the sides take turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratio of two sides."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main(
    names: Sequence[str], quick: bool = False, out: Path | None = None
) -> dict[str, list[Result]]:
    """Run benchmarks, print their table and write it as a page.

    Args:
        names: of the benchmarks; all where there are none.
        quick: small sizes and single rounds: a trial of the code, not a measurement.
        out: Markdown page to write; its sections on other benchmarks are kept.

    Raises:
        ValueError: there is no benchmark of this name.
    """
    from .benchmarks import BENCHMARKS

    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    for name in names:
        if name not in known:
            raise ValueError(f"no benchmark is called {name!r}; there are {', '.join(known)}")
    chosen = [known[name] for name in names or known]
    console = Console()
    found: dict[str, list[Result]] = {}
    with one_thread():
        for benchmark in chosen:

            def say(line: str, name: str = benchmark.name) -> None:
                console.print(escape(f"{name}: {line}"), style="dim", highlight=False)

            found[benchmark.name] = benchmark.run(quick, say)
    print_table(found, quick, console)
    if out is not None:
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        earlier = out.read_text(encoding="utf-8") if out.exists() else ""
        out.write_text(page(list(known.values()), found, quick, earlier), encoding="utf-8")
        console.print(f"written: {out}", highlight=False, soft_wrap=True)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def print_table(found: Mapping[str, Sequence[Result]], quick: bool, console: Console) -> None:
    """The table on the terminal."""
    title = "a quick trial, not a measurement" if quick else None
    table = Table("benchmark", "quantity", "value", "target", "", title=title)
    for name, results in found.items():
        for index, result in enumerate(results):
            table.add_row(
                "" if index else name,
                escape(result.quantity),
                result.shown,
                result.wanted,
                result.verdict,
                end_section=result is results[-1],
            )
    console.print(table)
    for note in dict.fromkeys(r.note for results in found.values() for r in results if r.note):
        console.print(escape(note), highlight=False)


def machine() -> str:
    """Processor, cores, memory and system of this machine."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    parts = [processor, f"{os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{memory / 2**30:.0f} GiB of memory")
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])


def page(
    benchmarks: Sequence[Benchmark],
    found: Mapping[str, Sequence[Result]],
    quick: bool = False,
    earlier: str = "",
) -> str:
    """The page of the documentation, Markdown.

    Args:
        benchmarks: in the order of the page.
        found: results by name; a benchmark without any keeps its section of the page before.
        quick: whether this was a trial.
        earlier: the page before.
    """
    kept = dict(section.split("\n", 1) for section in earlier.split("\n## ")[1:])
    parts = [INTRODUCTION]
    for benchmark in benchmarks:
        if benchmark.name in found:
            body = section_of(benchmark, found[benchmark.name], quick)
        elif benchmark.name in kept:
            body = kept[benchmark.name].strip()
        else:
            continue
        parts.append(f"## {benchmark.name}\n\n{body}")
    return "\n\n".join(parts) + "\n"


def section_of(benchmark: Benchmark, results: Sequence[Result], quick: bool) -> str:
    """What was measured, where, and what came out."""
    versions = [f"palaestra {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in VERSIONS]
    lines = [benchmark.measures, ""]
    if quick:
        lines += ["**A quick trial with small sizes, not a measurement.**", ""]
    lines += ["| quantity | value | target | |", "|---|---:|---:|---|"]
    for result in results:
        cells = (result.quantity, result.shown, result.wanted, result.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    for note in dict.fromkeys(result.note for result in results if result.note):
        lines += ["", note]
    date = datetime.date.today().isoformat()
    return "\n".join([*lines, "", f"Measured {date}: {machine()}; {', '.join(versions)}."])
