"""Supply networks as YAML files: a graph in, a graph out, with the line of every attribute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx

from .network import Edge, Places


def read_graph(path: str | Path) -> tuple[nx.DiGraph, Places]:
    """The graph of a YAML file, and where each node, edge and attribute stands in it.

    Raises:
        ValueError: the file is not YAML, or not of the form described in `SupplyNetwork.from_yaml`.
        OSError: the file cannot be read.
    """
    import yaml

    path = Path(path)
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        try:
            return _Document(path, loader, loader.get_single_node()).graph()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from None


def write_graph(graph: nx.DiGraph, path: str | Path) -> None:
    """Write a graph with plain attributes in the form that `read_graph` reads."""
    import yaml

    nodes = {node: dict(attributes) for node, attributes in graph.nodes(data=True)}
    edges = [{"from": u, "to": v, **attributes} for u, v, attributes in graph.edges(data=True)]
    content = {"nodes": nodes, "edges": edges} if edges else {"nodes": nodes}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


class _Document:
    """One parsed file; nodes of the YAML tree are kept because they know their lines."""

    def __init__(self, path: Path, loader: Any, root: Any) -> None:
        self.path, self.loader, self.root = path, loader, root

    def graph(self) -> tuple[nx.DiGraph, Places]:
        if self.root is None:
            raise ValueError(f"{self.path}: the file is empty, allowed: the keys nodes and edges")
        parts = self.mapping(self.root, "the file")
        for key, (_, line) in parts.items():
            if key not in ("nodes", "edges"):
                raise self.error(line, f"unknown key {key!r}, allowed: nodes, edges")
        if "nodes" not in parts:
            raise self.error(self.root, "the key nodes is missing")
        graph: nx.DiGraph = nx.DiGraph()
        places: dict[tuple[Any, str | None], str] = {}
        for name, (tree, line) in self.mapping(parts["nodes"][0], "nodes").items():
            attributes = self.attributes(tree, f"node {name!r}")
            graph.add_node(name, **{key: value for key, (value, _) in attributes.items()})
            places[name, None] = self.place(line)
            places |= {(name, key): self.place(at) for key, (_, at) in attributes.items()}
        for tree in self.sequence(parts["edges"][0]) if "edges" in parts else []:
            attributes = self.attributes(tree, "an edge")
            ends = []
            for end in ("from", "to"):
                if end not in attributes:
                    raise self.error(tree, f"an edge without {end!r}, allowed: from, to, lead, ...")
                name, line = attributes.pop(end)
                name = str(name)
                if name not in graph:
                    raise self.error(line, f"{end} names {name!r}, allowed: a name under nodes")
                ends.append(name)
            edge = Edge(ends)
            if graph.has_edge(*edge):
                raise self.error(tree, f"the edge {ends[0]!r} -> {ends[1]!r} is given twice")
            graph.add_edge(*edge, **{key: value for key, (value, _) in attributes.items()})
            places[edge, None] = self.place(tree)
            places |= {(edge, key): self.place(at) for key, (_, at) in attributes.items()}
        return graph, places

    def place(self, tree: Any) -> str:
        return f"{self.path}, line {tree.start_mark.line + 1}"

    def error(self, tree: Any, message: str) -> ValueError:
        return ValueError(f"{self.place(tree)}: {message}")

    def mapping(self, tree: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """key -> (tree of the value, tree of the key)."""
        if tree.id != "mapping":
            raise self.error(tree, f"{what} is a {tree.id}, allowed: a mapping")
        self.loader.flatten_mapping(tree)
        found: dict[str, tuple[Any, Any]] = {}
        for key, value in tree.value:
            if key.id != "scalar":
                raise self.error(key, f"a key of {what} is a {key.id}, allowed: a name")
            if key.value in found:
                raise self.error(key, f"{key.value!r} is given twice in {what}")
            found[key.value] = (value, key)
        return found

    def attributes(self, tree: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """key -> (plain value, tree of the key)."""
        found = {}
        for key, (value, line) in self.mapping(tree, what).items():
            if value.id != "scalar":
                raise self.error(value, f"{key} of {what} is a {value.id}, allowed: one value")
            # Names stay as written: `from: 1` means the node 1 of `nodes`.
            plain = value.value if key in ("from", "to") else self.loader.construct_object(value)
            found[key] = (plain, line)
        return found

    def sequence(self, tree: Any) -> list[Any]:
        if tree.id == "scalar" and tree.value in ("", "null", "~"):
            return []
        if tree.id != "sequence":
            raise self.error(tree, f"edges is a {tree.id}, allowed: a list")
        return list(tree.value)
