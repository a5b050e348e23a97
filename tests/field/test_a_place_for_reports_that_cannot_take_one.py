"""``--reports`` names a place where no report can or may be written: said before the training, not after it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from study.api import launch_study, report_study
from study.report.report_folder import reports_folder
from study.storage.layout import Storage
from tests.helpers.small_studies import small_study
from trainables.errors import UserError

SHIPPED = Path(__file__).resolve().parents[2] / "reports" / "quickstart"


def refusal(folder: Path, reports: str | Path | None, **options: bool) -> str:
    """Launches a study that would train, from its file, and returns why it is not begun."""
    file = folder / "study.yaml"
    file.write_text(small_study(resources={"cpus_per_run": 10_000}).to_yaml())  # else it would begin
    with pytest.raises(UserError) as error:
        launch_study(file, root=folder / "storage", reports=reports, **options)
    assert not (folder / "storage").exists()
    return "\n".join(problem for problem in error.value.problems if "CPUs" not in problem)


def test_foreign_files_under_the_studys_name(tmp_path: Path) -> None:
    thesis = tmp_path / "out" / "small" / "chapter.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    assert "holds files that are not a report" in refusal(tmp_path, tmp_path / "out")
    assert thesis.read_text() == "years of work"
    assert refusal(tmp_path, tmp_path / "out", report=False) == ""


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    assert "is not a folder" in refusal(tmp_path, tmp_path / "out")
    assert "is not a folder" in refusal(tmp_path, tmp_path / "out" / "below")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "small").symlink_to(tmp_path / "nowhere")
    assert "is not a folder" in refusal(tmp_path, tmp_path / "there")


def test_a_place_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be written" in refusal(tmp_path, "/proc/out")
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o555)
        assert "cannot be written" in refusal(tmp_path, tmp_path / "locked")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert "a report needs about 268 MB in" in refusal(tmp_path, tmp_path / "out")


def test_a_url_and_the_storages_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is a URL" in refusal(tmp_path, "s3://bucket/reports")
    assert "which the storage itself uses" in refusal(tmp_path, "storage")
    assert "which the storage itself uses" in refusal(tmp_path, "storage/mlartifacts")
    assert refusal(tmp_path, "storage/reports") == ""
    assert refusal(tmp_path, None) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_without_the_option_reports_lie_in_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reports_folder(Storage(tmp_path / "s", "small")) == tmp_path / "s" / "reports"
    at_url = Storage(tmp_path / "copy", "small", "s3://bucket/x")
    assert reports_folder(at_url) == tmp_path / "reports"
    assert reports_folder(at_url, "out") == tmp_path / "out"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "diffusion-study"\n')
    assert reports_folder(at_url) == tmp_path / "storage" / "reports", (
        "reports/ of a checkout are those it ships"
    )


def test_what_somebody_has_put_into_a_report_stays(tmp_path: Path) -> None:
    out = tmp_path / "out" / "quickstart"
    shutil.copytree(SHIPPED, out)
    (out / "figures" / "mine.png").write_bytes(b"mine")
    (out / "notes.md").write_text("looked at it")
    (out / "figures" / "old.svg").write_text("<svg/>")
    storage = Storage(tmp_path / "storage", "quickstart")
    report_study(storage, tmp_path / "out", csv_folder=SHIPPED)
    assert (out / "notes.md").read_text() == "looked at it"
    assert (out / "figures" / "mine.png").read_bytes() == b"mine"
    assert (out / "report.html").stat().st_mtime > (out / "notes.md").stat().st_mtime
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quickstart"]
