"""Lints of deployment files: clusters of `ray up`, and KubeRay's RayJob and RayCluster; all at once, offline."""

from __future__ import annotations

import itertools
from pathlib import Path

from study.lint.findings import Fault, placeholders, secrets
from study.lint.kuberay import KINDS, lint_manifest
from study.lint.ray_up import lint_cluster
from trainables.config.yaml_reader import Document, load_document, parse_document
from trainables.util.text import decoded

__all__ = ["Fault", "lint_file"]


def lint_file(path: Path) -> list[tuple[Fault, str]] | None:
    """Returns what is wrong with a deployment file, or None if the file is something else (a study, say).

    Each fault comes with its place, such as ``cluster.yaml:12 docker.image``.

    Raises:
        UserError: The file cannot be read or is not YAML.
    """
    found: list[tuple[Fault, str]] = []
    known = False
    for document in _documents(path):
        data = document.data
        if not isinstance(data, dict):
            continue
        if data.get("kind") in KINDS:
            known = True
            found += [(fault, document.position(fault.loc)) for fault in lint_manifest(document)]
        elif "cluster_name" in data or ("provider" in data and "arms" not in data):
            known = True
            found += [(fault, document.position(fault.loc)) for fault in lint_cluster(document)]
        elif "apiVersion" in data and "kind" in data:
            known = True  # another object of a manifest, such as a volume claim
            faults = (*secrets(document), *placeholders(document))
            found += [(fault, document.position(fault.loc)) for fault in faults]
    return found if known else None


def _documents(path: Path) -> list[Document]:
    """The documents of a file; each knows its lines in the whole file."""
    try:
        text = decoded(path.read_bytes())
    except (OSError, ValueError):
        return [load_document(path)]  # which says what is wrong with it
    lines = text.split("\n")
    starts = [index for index, line in enumerate(lines) if line.rstrip() == "---"]
    if not starts:
        return [load_document(path)]
    bounds = [*dict.fromkeys([0, *(start + 1 for start in starts)]), len(lines) + 1]
    parts = ["\n" * begin + "\n".join(lines[begin : end - 1]) for begin, end in itertools.pairwise(bounds)]
    return [parse_document(part, path) for part in parts if part.strip()]
