"""What a classifier's run reads is part of it, wherever it lies; records of both kinds of runs are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.remote.inputs import named_folders
from study.storage.run_result import mend_result
from study.worker.workspace import WorkspaceError, check_inputs
from tests.helpers.classifier_runs import config_of, prepared, result_of
from trainables.__main__ import main
from trainables.classifier_run_config import parse_run_config
from trainables.data.path_map import set_path_map
from trainables.downstream.contents import contents_of_classifier, sealed_classifier, sealed_run
from trainables.downstream.execute import execute
from trainables.evaluation.prepared_classes import PreparedClasses
from trainables.run.contents import digests
from trainables.run_config import RunConfig


@pytest.fixture
def data(tmp_path: Path) -> PreparedClasses:
    return prepared(tmp_path / "data", (8, 8, 8))


def test_records_of_both_kinds_are_read(tmp_path: Path, data: PreparedClasses) -> None:
    classifier = config_of(tmp_path, data)
    other = RunConfig.model_validate(
        {"method": "lora", "subject": {"name": "corgi"}, "output_dir": "x", "cache_dir": "y"}
    )
    for config in (classifier, other):
        again = parse_run_config(config.model_dump_json())
        assert again == config
        assert again.training.stated_steps == config.training.stated_steps
    with pytest.raises(ValueError, match="method"):
        parse_run_config('{"method": "nothing"}')


def test_a_run_has_the_digest_of_its_data_wherever_it_lies(tmp_path: Path, data: PreparedClasses) -> None:
    config = sealed_classifier(config_of(tmp_path, data))
    assert config.contents == digests(contents_of_classifier(str(data.folder)))
    moved = data.folder.rename(tmp_path / "moved")
    there = config.model_copy(update={"path_map": {config.data: str(moved)}})
    set_path_map(there.path_map)
    try:
        assert sealed_run(there).digest() == config.digest()
    finally:
        set_path_map({})
    by_name = config.model_copy(update={"data": str(moved)})
    assert by_name.digest() == config.digest()


def test_a_run_goes_where_its_path_map_says(tmp_path: Path, data: PreparedClasses) -> None:
    moved = data.folder.rename(tmp_path / "moved")
    config = config_of(tmp_path, data, path_map={str(data.folder): str(moved)})
    try:
        list(execute(config))
    finally:
        set_path_map({})
    assert result_of(config)["state"] == "COMPLETE"


def test_a_node_without_the_data_says_so(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data, training={"weights": "microsoft/resnet-18", "network": "resnet18"})
    assert named_folders(config) == [str(data.folder)]
    check_inputs(config)
    data.folder.rename(tmp_path / "moved")
    with pytest.raises(WorkspaceError, match="lacks the folder"):
        check_inputs(config)


def test_a_result_that_is_gone_is_written_anew(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data)
    list(execute(config))
    before = result_of(config)
    (Path(config.output_dir) / "result.json").unlink()
    mended = mend_result(Path(config.output_dir))
    assert mended is not None
    assert mended.config_digest == before["config_digest"]
    assert result_of(config) == before


def test_the_command_line_trains_a_classifier(
    tmp_path: Path, data: PreparedClasses, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, data)
    file = tmp_path / "run.yaml"
    file.write_text(config.model_dump_json())
    assert main([str(file)]) == 0
    shown = capsys.readouterr().out
    assert "small_cnn on real, seed 0" in shown
    assert "step 6/6" in shown
    assert "COMPLETE after 1 attempt" in shown
    assert main([str(file)]) == 0
    file.write_text(file.read_text().replace('"resolution":16', '"resolution":"big"'))
    assert main([str(file)]) == 2
    assert "resolution" in capsys.readouterr().err
