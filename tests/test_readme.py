"""README.md agrees with the tree and with the committed report."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_generated_parts_are_up_to_date() -> None:
    if subprocess.run(["git", "ls-files"], capture_output=True, cwd=ROOT, check=False).returncode:
        pytest.skip("not a git checkout, so the tree cannot be listed")
    done = subprocess.run(
        [sys.executable, "docs/readme.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere() -> None:
    import re

    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


REPORTS = sorted(path.parent.name for path in (ROOT / "reports").glob("*/manifest.json"))


def test_reports_are_shipped_and_small() -> None:
    """At most 4 MB each."""
    assert {"quickstart", "lora-vs-dreambooth", "methods", "adapters"} <= set(REPORTS)
    for study in REPORTS:
        size = sum(path.stat().st_size for path in (ROOT / "reports" / study).rglob("*") if path.is_file())
        assert size <= 4e6, f"{study}: {size:,} bytes"


@pytest.mark.parametrize("study", REPORTS)
def test_committed_reports_are_whole(study: str) -> None:
    """Every file that the manifest names is there with the hash that it states."""
    import hashlib
    import json

    folder = ROOT / "reports" / study
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert {"report.html", "report.md"} <= set(manifest["files"])
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_the_committed_report_can_be_rebuilt_from_its_data(tmp_path: Path) -> None:
    from study.report import build_report
    from study.results.csv_files import read_csv

    committed = ROOT / "reports" / "quickstart"
    rebuilt = build_report(read_csv(committed / "data"), tmp_path / "quickstart").folder
    for path in sorted(
        [*committed.glob("tables/*"), committed / "report.md", committed / "data" / "runs.csv"]
    ):
        assert (rebuilt / path.relative_to(committed)).read_bytes() == path.read_bytes(), path.name
