"""What a submitted job runs on the cluster, in the folder that was sent: ``python -m study.cli.submitted``."""

from __future__ import annotations

import sys
from pathlib import Path

from study.cli.main import main
from study.submit.package import STUDY_FILE, unpack
from trainables.errors import UserError
from trainables.util.process import prepare_command


def run(arguments: list[str]) -> None:
    """Puts what came along to its lasting place, then launches the study with `arguments`; exits as launch does."""
    try:
        prepare_command()
        unpack(Path.cwd())
    except UserError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        sys.exit(2)
    main(["launch", STUDY_FILE, *arguments])


if __name__ == "__main__":
    run(sys.argv[1:])
