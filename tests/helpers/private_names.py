"""Which private names of other packages a source file uses, and whether an installed package has them."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

OWN = ("study", "trainables", "search_spaces")


def private_names(path: Path) -> dict[str, int]:
    """Returns the names with a leading underscore that a file takes from elsewhere, each with its first line.

    Left out are names that the file itself defines, at its top or on ``self``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        for name in _taken(node):
            if name.startswith("_") and not name.startswith("__"):
                found.setdefault(name, getattr(node, "lineno", 0))
    return {name: line for name, line in found.items() if name not in _defined(tree)}


def has(where: str) -> bool:
    """Whether there is ``module:Class.attribute``; an attribute that instances get counts if the class assigns it."""
    module_name, _, dotted = where.partition(":")
    found: object = importlib.import_module(module_name)
    for name in filter(None, dotted.split(".")):
        if hasattr(found, name):
            found = getattr(found, name)
            continue
        return inspect.isclass(found) and f"self.{name}" in inspect.getsource(found)
    return True


def _taken(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in alias.name.split(".")]
    if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(OWN):
        return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
        name = node.args[1]
        return [name.value] if isinstance(name, ast.Constant) and isinstance(name.value, str) else []
    return []


def _defined(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            if not isinstance(node, ast.ClassDef):
                names |= {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return names
