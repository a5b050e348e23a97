"""A look from every node of a joined cluster: does it see the study's storage and inputs, and which versions has it.

Ray's workers would otherwise train into folders of their own, which nobody ever reads.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.remote.inputs import files_of
from study.remote.object_store import ObjectStore, StoreError
from study.storage.layout import STUDY_FILE, Storage
from study.storage.shared_marker import VISIBLE_SECONDS, is_visible
from trainables.data.path_map import folder_of
from trainables.models.folders import file_digest
from trainables.util.packages import versions_of
from trainables.util.text import name_bytes

ANSWER_SECONDS = 120.0
READ_BYTES = 64 * 2**20  # photographs and their like; the weights of a model are larger
_STRANGE = "it cannot run this project"


@dataclass(frozen=True)
class Question:
    """What every node is asked.

    Attributes:
        folder: The study's, on a path that should be the same everywhere; empty for a storage at a URL.
        driver_id: The mark that the driver left there.
        url: Of the storage, or empty; `study` names what must be readable there.
        inputs: Named folders.
        patience: Seconds within which a node must see the mark.
    """

    folder: str
    driver_id: str
    url: str = ""
    study: str = ""
    inputs: tuple[str, ...] = ()
    patience: float = VISIBLE_SECONDS


@dataclass(frozen=True)
class NodeReport:
    """What a node answered.

    Attributes:
        node: Its address and the beginning of Ray's id.
        versions: Of Python, Ray and this project.
        problem: Why it cannot work on the study's storage, or None.
        inputs: Named folder -> its fingerprint (see `fingerprint`), None where it is not there.
    """

    node: str
    versions: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    inputs: Mapping[str, str | None] = field(default_factory=dict)


def is_one_machine() -> bool:
    """Whether all that the connected cluster computes on is this machine.

    A head without CPUs, which waits for an autoscaler's nodes, is not: those lie elsewhere.
    """
    import ray

    own = ray.util.get_node_ip_address()
    nodes = [node for node in ray.nodes() if node["Alive"] and node.get("Resources", {}).get("CPU")]
    return bool(nodes) and all(node["NodeManagerAddress"] == own for node in nodes)


def examine_nodes(question: Question, *, seconds: float = ANSWER_SECONDS) -> list[NodeReport]:
    """Asks every node that is alive and has CPUs; Ray must be connected.

    Returns:
        A report for each, also for those that did not answer in time or lack this project.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node.get("Resources", {}).get("CPU")]
    task = ray.remote(num_cpus=0, max_retries=1)(answer)
    asked: dict[Any, str] = {}
    for node in nodes:
        name = f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}"
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[task.options(scheduling_strategy=strategy).remote(question, name)] = name
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
    reports = [_taken(ray, reference, asked[reference]) for reference in done]
    for reference in late:
        ray.cancel(reference, force=True)
        reports.append(NodeReport(asked[reference], problem=f"it did not answer within {seconds:g} seconds"))
    return sorted(reports, key=lambda report: report.node)


def answer(question: Question, node: str) -> NodeReport:
    """What a node says of itself; runs there."""
    return NodeReport(
        node=f"{socket.gethostname()} ({node})",
        versions=versions(),
        problem=_problem(question),
        inputs={name: fingerprint(name) for name in question.inputs},
    )


def node_problems(reports: Sequence[NodeReport], storage: Storage) -> list[str]:
    """Returns messages for the user about nodes that cannot take part; empty if all can."""
    problems = []
    strange = [report for report in reports if str(report.problem).startswith(_STRANGE)]
    if strange:
        listed = "\n".join(f"  {report.node}: {report.problem}" for report in strange)
        problems.append(
            f"{len(strange)} of {len(reports)} nodes cannot run this project:\n{listed}\n"
            "install it there (cluster.yaml's setup_commands, the image of deploy/Dockerfile), or hand the study over "
            "with `study submit`, which takes the code along"
        )
    bad = [report for report in reports if report.problem is not None and report not in strange]
    if bad:
        listed = "\n".join(f"  {report.node}: {report.problem}" for report in bad)
        remedy = (
            "give every node credentials (an instance role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its "
            "environment) and a way to the store"
            if storage.url
            else "put --storage on a file system that every node mounts at the same path (NFS, EFS, FSx), or give "
            "a URL such as --storage s3://bucket/prefix"
        )
        problems.append(
            f"{len(bad)} of {len(reports)} nodes cannot use the storage {storage.uri}:\n{listed}\n{remedy}"
        )
    ours = versions()
    for report in reports:
        differing = {
            name: theirs for name, theirs in report.versions.items() if ours.get(name, theirs) != theirs
        }
        if differing:
            told = ", ".join(f"{name} {theirs} (here {ours[name]})" for name, theirs in differing.items())
            problems.append(
                f"node {report.node} has other versions: {told}; use the same image or environment there"
            )
    return problems


def unseen_inputs(reports: Sequence[NodeReport], names: Iterable[str]) -> list[str]:
    """Returns the named folders that some node lacks or has with other content; all of them if no node was asked."""
    found = []
    for name in names:
        here = fingerprint(name)
        if not reports or any(report.inputs.get(name) != here for report in reports):
            found.append(name)
    return found


def fingerprint(name: str) -> str | None:
    """Tells two folders apart by names, sizes and content of their files; None if there is none.

    Files above `READ_BYTES` count by name and size alone, so that an answer takes seconds: each run looks at them too
    before it begins (`trainables.run.contents.sealed`).
    """
    folder = folder_of(name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in files_of(folder):
        size = path.stat().st_size
        content = file_digest(path) if size <= READ_BYTES else ""
        digest.update(name_bytes(f"{path.relative_to(folder)}\0{size}\0{content}\0"))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions that must be the same on all nodes."""
    packages = {"Ray": "ray", "diffusion-study": "diffusion-study", "torch": "torch"}
    found = versions_of(packages.values())
    shown = {name: found.get(package, "missing") for name, package in packages.items()}
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **shown}


def _problem(question: Question) -> str | None:
    if question.url:
        try:
            content = ObjectStore(question.url, patience=question.patience).get(
                f"{question.study}/{STUDY_FILE}"
            )
        except (StoreError, OSError, ValueError) as error:
            return str(error)
        return None if content is not None else f"it finds nothing at {question.url}"
    if question.folder and not is_visible(Path(question.folder), question.driver_id, question.patience):
        return f"it does not see the driver's folder {question.folder}"
    return None


def _taken(ray: Any, reference: Any, name: str) -> NodeReport:
    try:
        report: NodeReport = ray.get(reference)
    except Exception as error:  # whatever a node's worker dies of; most often it lacks this project
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return NodeReport(name, problem=f"{_STRANGE}: {lines[-1]}")
    return report
