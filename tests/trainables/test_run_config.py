"""What a run's recorded configuration says, also in words of earlier versions."""

from __future__ import annotations

from trainables.run_config import RunConfig, config_digest

RUN = {"method": "base", "subject": {"name": "dog-1"}, "output_dir": "out", "cache_dir": "cache"}


def test_the_path_map_is_read_by_its_name_before_and_written_by_its_own() -> None:
    now, before = ({**RUN, name: {"a": "/b"}} for name in ("path_map", "located"))
    assert config_digest(now) == config_digest(before) == config_digest(RUN)
    assert RunConfig.model_validate(now) == RunConfig.model_validate(before)
    content = RunConfig.model_validate(before).model_dump(mode="json")
    assert content["path_map"] == {"a": "/b"}
    assert "located" not in content
    assert RunConfig.model_validate(content) == RunConfig.model_validate(before)
