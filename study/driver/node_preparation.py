"""Brings a study's inputs to every node before its runs begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from study.cluster.node_check import Question, examine_nodes, is_one_machine, node_problems, unseen_inputs
from study.remote.input_upload import ship
from study.storage.layout import Storage
from trainables.config.fields import EMBEDDED
from trainables.data.path_map import folder_of
from trainables.errors import UserError

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec


def prepared_nodes(
    spec: StudySpec, storage: Storage, driver_id: str, say: Callable[[str], None]
) -> dict[str, str]:
    """Makes sure that every node of the joined cluster can work on the study, shipping what some lack.

    Returns:
        Named folder -> where it lies in the storage: a path, or for a URL the key under it.

    Raises:
        UserError: Nodes that cannot use the storage or have other versions; inputs too large to be shipped.
    """
    if is_one_machine():
        return {}  # one machine, one disk; a node that comes later looks for itself
    names = tuple(inputs_of(spec))
    question = Question(
        folder="" if storage.url else str(storage.folder),
        driver_id=driver_id,
        url=storage.url or "",
        study=storage.study,
        inputs=names,
    )
    reports = examine_nodes(question)
    if problems := node_problems(reports, storage):
        raise UserError(*problems)
    return ship(unseen_inputs(reports, names), storage, spec.storage.ship_limit_gb, say)


def inputs_of(spec: StudySpec) -> list[str]:
    """Returns the folders that a study names, of subjects and models; hub ids are fetched by each node itself."""
    subjects = [name for subject in spec.subjects for name in subject.folders.values()]
    models = [spec.model.path, spec.model.config, spec.evaluation.image_encoder, spec.evaluation.clip]
    classes = [spec.downstream.prepared] if spec.downstream is not None and spec.downstream.prepared else []
    named = [*subjects, *classes, *(name for name in models if name and name != EMBEDDED)]
    return list(dict.fromkeys(name for name in named if folder_of(name).is_dir()))
