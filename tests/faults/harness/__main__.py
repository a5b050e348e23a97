"""Injects faults into small real studies and prints what became of them: ``python -m benchmarks.faults``.

Every fault and every checked study is appended to a file as it happens, so that a long session may be cut and gone on
with (``--append``). One study of it is repeated by its seed and number: ``--seed S --only N``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.harness.injectors import KINDS, SETTINGS
from tests.faults.harness.session import Session, plans, table
from tests.faults.harness.settings import close_servers, impossible


def main() -> int:
    """Returns 1 if anything was lost, doubled or hung."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="faults to inject")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments")
    parser.add_argument("--kinds", help=f"some of: {', '.join(KINDS)}")
    parser.add_argument("--only", type=int, help="only the study with this number")
    parser.add_argument("--out", type=Path, help="JSON lines: a fault or a checked study each")
    parser.add_argument("--append", action="store_true", help="go on where the file ends")
    parser.add_argument(
        "--folder", type=Path, help="where studies with problems are kept; default: a temporary one"
    )
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    options = parser.parse_args()
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"unknown kinds {', '.join(unknown)}; there are {', '.join(KINDS)}")

    cannot = {} if options.table else impossible()
    for place, reason in cannot.items():
        print(f"without the faults of {place}: {reason}", file=sys.stderr)
    kinds = [kind for kind in kinds if not any(kind in SETTINGS[place] for place in cannot)]
    if not kinds:
        parser.error("none of these kinds can be injected here")
    records: list[dict[str, Any]] = []
    if options.out and options.out.exists() and (options.append or options.table):
        records = [json.loads(line) for line in options.out.read_text().splitlines()]
    if not options.table:
        _inject(options, kinds, records)
    rows, well = table(records)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) if not column else text.rjust(width)
                        for column, (text, width) in enumerate(zip(row, widths, strict=True))))  # fmt: skip
    return 0 if well else 1


def _inject(options: argparse.Namespace, kinds: list[str], records: list[dict[str, Any]]) -> None:
    def record(line: dict[str, Any]) -> None:
        records.append({**line, "time": round(time.time(), 1)})
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")

    memory = Path("/dev/shm")
    root = options.folder or Path(tempfile.mkdtemp(prefix="faults-", dir=memory if memory.is_dir() else None))
    root.mkdir(parents=True, exist_ok=True)
    if options.out and not options.append:
        options.out.unlink(missing_ok=True)
    done = {line["study"] for line in records if line["record"] == "study"}
    injected = sum(len(line["kinds"]) for line in records if line["record"] == "study")
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    session = Session(root.absolute(), record, say)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        session.prepare()
        for plan in plans(options.seed, kinds):
            if options.only is not None and plan.number != options.only:
                continue
            if f"faults-{plan.seed}-{plan.number}" in done:
                continue
            if injected >= options.count:
                break
            say(f"study {plan.number} ({plan.setting}): {', '.join(plan.kinds)}")
            injected += session.run(plan)
            if options.only is not None:
                break
    finally:
        close_servers()
        if not (root / "kept").exists():
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
