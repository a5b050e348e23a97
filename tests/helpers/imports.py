"""Who imports whom, read from the sources: imports at the top of a file, inside functions and for types alone."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Import:
    """That a file imports a module, by its dotted name, at a line."""

    path: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"

    def is_of(self, *packages: str) -> bool:
        """Whether the module is one of these packages, or lies in one of them."""
        return any(self.module == package or self.module.startswith(package + ".") for package in packages)


def sources(*folders: str) -> list[Path]:
    """Returns the Python files of folders and of single files, named from the root of the project."""
    found = [ROOT / folder for folder in folders]
    return sorted(path for each in found for path in ([each] if each.suffix else each.rglob("*.py")))


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Returns the imports of a file; of ``from package import name``, the module of that name if there is one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(path, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found += [Import(path, node.lineno, name if file_of(name) else base) for name in names]
    return tuple(sorted(set(found), key=str))


@functools.cache
def file_of(module: str) -> Path | None:
    """Returns the file of one of this project's modules, None for others."""
    path = ROOT / module.replace(".", "/")
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    package = path / "__init__.py"
    return package if package.is_file() else None


def room_of(path: Path) -> str:
    """Returns the folder or the loose file of its package that a file belongs to: ``storage``, ``api``."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of nodes that reach each other."""
    reached = {node: _reached(graph, node) for node in graph}
    groups = {
        frozenset({other for other in reached[node] if node in reached.get(other, ())}) for node in graph
    }
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, *filter(None, [node.module])])
