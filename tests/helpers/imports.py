"""Who imports whom, read from the sources.

Imports at the top of a file, inside functions and for types alone count, and modules that are named in a text:
``importlib.import_module("torch")``, ``pytest_plugins = ["tests.x"]``.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Functions that import what their first argument names.
BY_TEXT = {"import_module", "__import__", "run_module", "importorskip"}


@dataclass(frozen=True)
class Import:
    """That a file imports a module, by its dotted name, at a line.

    Attributes:
        at_once: Whether it does so when it is imported itself.
    """

    path: Path
    line: int
    module: str
    at_once: bool = False

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
    found = set()
    for node, at_once in _walk(ast.parse(path.read_text(encoding="utf-8")), True):
        modules = named_modules(node)
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            names = [f"{base}.{alias.name}" for alias in node.names]
            modules = [name if file_of(name) else base for name in names]
        found |= {Import(path, getattr(node, "lineno", 0), module, at_once) for module in modules}
    return tuple(sorted(found, key=lambda each: (each.line, each.module)))


def named_modules(node: ast.AST) -> list[str]:
    """Returns the modules that a call or an assignment imports by their names in texts.

    Of a name that begins with a fixed text, the package that is fixed: of ``f"benchmarks.{name}"`` ``benchmarks``.
    """
    if isinstance(node, ast.Call) and node.args and called(node) in BY_TEXT:
        texts: list[ast.expr] = [node.args[0]]
    elif isinstance(node, ast.Assign) and "pytest_plugins" in [
        getattr(each, "id", "") for each in node.targets
    ]:
        texts = list(node.value.elts) if isinstance(node.value, (ast.List, ast.Tuple)) else [node.value]
    else:
        return []
    found = []
    for each in texts:
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found.append(each.value)
        elif isinstance(each, ast.JoinedStr) and isinstance(first := each.values[0], ast.Constant):
            found.append(str(first.value).rpartition(".")[0])
    return [module for module in found if module]


def called(node: ast.Call) -> str:
    """Returns the last part of the name of what is called; empty if that is no name."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def _walk(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yields a node and all below it, each with whether it is executed when the file is imported."""
    yield node, at_once
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _walk(child, False)
        children: list[ast.AST] = [*node.orelse]
    else:
        children = [*ast.iter_child_nodes(node)]
    later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in children:
        yield from _walk(child, at_once and not later)


def loaded_with(path: Path) -> set[Path]:
    """Returns the files of this project that are executed when a file is imported, with itself.

    Importing a module imports the packages that it lies in.
    """
    found = {path}
    waiting = [path]
    while waiting:
        for each in imports(waiting.pop()):
            parts = each.module.split(".") if each.at_once else []
            for target in (file_of(".".join(parts[: k + 1])) for k in range(len(parts))):
                if target is not None and target not in found:
                    found.add(target)
                    waiting.append(target)
    return found


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
