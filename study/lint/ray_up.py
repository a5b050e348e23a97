"""The lint of a file for `ray up`: Ray's own validation, and the mistakes which that does not see; offline."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from study.lint.access import ACCESS_RULES
from study.lint.findings import Fault, placeholders, secrets
from study.lint.machines import MACHINE_RULES
from trainables.config.yaml_reader import Document, Loc


def lint_cluster(document: Document) -> list[Fault]:
    """Returns everything that is wrong with a cluster file, in the order of the file.

    Args:
        document: As `trainables.config.yaml_reader.load_document` reads it; its data is a mapping.
    """
    data = document.data
    found = [fault for rule in (*ACCESS_RULES, *MACHINE_RULES) for fault in rule(data)]
    found += [*secrets(document), *placeholders(document)]
    known = {(fault.rule, fault.loc) for fault in found} | {("schema", fault.loc) for fault in found}
    found += [fault for fault in _ray_validation(data) if (fault.rule, fault.loc) not in known]
    found.sort(key=lambda fault: (document.line_of(fault.loc), not fault.fatal))
    once = {(document.line_of(fault.loc), fault.rule, fault.message): fault for fault in reversed(found)}
    return list(once.values())[::-1]  # an anchor's fault is told once, not wherever it is used


def _ray_validation(data: dict[str, Any]) -> Iterator[Fault]:
    """Ray's schema and its validation. They are private functions of Ray: without them the rest of the lint counts."""
    try:
        import json
        from pathlib import Path

        import jsonschema
        import ray.autoscaler
        from ray.autoscaler._private.util import prepare_config, validate_config

        schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    except (ImportError, OSError, ValueError) as error:
        yield Fault(
            "schema",
            (),
            f"Ray's own validation cannot be had here ({error}); install 'ray[default]'",
            fatal=False,
        )
        return
    broken = False
    for problem in jsonschema.Draft7Validator(schema).iter_errors(data):
        broken = True
        yield Fault("schema", _schema_loc(problem, data), f"Ray refuses this: {problem.message[:300]}")
    if broken:
        return
    try:
        validate_config(prepare_config(copy.deepcopy(data)))
    except SystemExit as error:
        yield Fault("schema", (), f"Ray refuses the file: {error}")
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        yield Fault("schema", (), f"Ray refuses the file: {text or type(error).__name__}")


def autoscaler_problem(cluster: dict[str, Any]) -> str | None:
    """What Ray's autoscaler says of the spec of a RayCluster that it cannot read; None if it can, or cannot be asked.

    KubeRay hands the spec to it as it stands, and without an autoscaler no worker starts. The function is Ray's own.
    """
    try:
        from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    except ImportError:
        return None
    try:
        _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "", "namespace": ""}, "spec": cluster})
    except KeyError as error:
        return f"{error.args[0]} is missing"
    except Exception as error:
        return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return None


def _schema_loc(problem: Any, data: dict[str, Any]) -> Loc:
    loc: Loc = tuple(problem.absolute_path)
    if problem.validator == "additionalProperties":
        extra = re.findall(r"'([^']+)'", problem.message)
        place: Any = data
        for part in loc:
            place = place[part]
        if extra and isinstance(place, dict) and extra[0] in place:
            return (*loc, extra[0])
    return loc
