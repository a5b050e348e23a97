"""A driver of its own, to be killed.

``python -m tests.helpers.launch_study FOLDER_OR_URL SPEC.json [RUNNER RESIDENT]``
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from study.driver.launch import Workers, launch
from study.spec.study_spec import StudySpec
from study.storage.layout import storage_at
from tests.helpers.small_studies import RESIDENT, RUNNER


def main(
    folder: str, spec_file: str, runner: str = RUNNER, resident: str = RESIDENT, address: str | None = None
) -> None:
    """Runs a study, on the cluster at `address` if there is one, and prints its outcome as the last line."""
    spec = StudySpec.model_validate_json(Path(spec_file).read_text())
    storage = storage_at(folder, spec.name)
    outcome = launch(spec, storage, address=address, workers=Workers(runner, resident))
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])
