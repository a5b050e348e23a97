"""Which private names of other packages a source file uses, and whether an installed package has them."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

from tests.helpers.imports import called, named_modules

OWN = ("study", "trainables", "search_spaces")


def private_names(path: Path) -> dict[str, int]:
    """Returns the names with a leading underscore that a file takes from elsewhere, each with its first line.

    Left out are attributes that the file's own classes have, unless they are taken from a module of another package,
    and arguments that its own functions have.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    others, own_names = _bound_by_imports(tree)
    members, arguments = _members(tree), _arguments(tree)
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        own: set[str] = set()
        if isinstance(node, ast.Attribute):
            own = set() if _root(node) in others else members
        elif isinstance(node, ast.Call):
            # What a class of this project is given is its own.
            ours = _root(node) in own_names
            own = {each.arg for each in node.keywords if each.arg} if ours else members | arguments
        for name in _taken(node):
            if name.startswith("_") and not name.startswith("__") and name not in own:
                found.setdefault(name, getattr(node, "lineno", 0))
    return found


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
    if isinstance(node, ast.Call):
        texts = node.args[1:2] if called(node) in ("getattr", "hasattr", "setattr", "delattr") else []
        texts = node.args if called(node) in ("attrgetter", "methodcaller") else texts
        named = [
            each.value for each in texts if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        named += [module for module in named_modules(node) if not module.startswith(OWN)]
        # What pandas' `assign` takes are names of columns.
        keywords = [each.arg for each in node.keywords if each.arg and called(node) != "assign"]
        return [*keywords, *(part for name in named for part in name.split("."))]
    return []


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes and calls begins with; empty if it begins otherwise."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _bound_by_imports(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Returns the names by which a file knows other packages and what is in them, and those of this project's."""
    others: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names = own if alias.name.startswith(OWN) else others
                names.add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names = own if node.level or (node.module or "").startswith(OWN) else others
            names |= {alias.asname or alias.name for alias in node.names}
    return others, own


def _members(tree: ast.AST) -> set[str]:
    """The attributes of a file's classes: methods, fields, and what is assigned to ``self``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    names.add(each.name)
                elif isinstance(each, (ast.Assign, ast.AnnAssign)):
                    names |= {name.id for name in ast.walk(each) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return names


def _arguments(tree: ast.AST) -> set[str]:
    functions = [
        node.args for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return {arg.arg for args in functions for arg in (*args.args, *args.kwonlyargs)}
