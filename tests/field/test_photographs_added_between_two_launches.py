"""Photographs, captions and models that change while a study or a run is interrupted, or lie elsewhere afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.tiny_models import make_tiny_clip, make_tiny_model, make_tiny_vit
from study.driver.claim import claimed
from study.driver.launch import launch
from study.spec.loading import read_contents
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.worker.attempt import Attempt
from study.worker.order import Order
from study.worker.workspace import WorkspaceError
from tests.helpers.photographs import photograph, photographs
from trainables.data.subjects import hold_out
from trainables.errors import InputsChanged, UserError
from trainables.run import contents
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig

NAMES = [f"{number:02d}.png" for number in range(5)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_tiny_model(folder / "model", resolution=16, width=16)
    make_tiny_clip(folder / "clip", resolution=16)
    make_tiny_vit(folder / "vit", resolution=16)
    return folder


@pytest.fixture
def inputs(made: Path, tmp_path: Path) -> Path:
    """Models, and photographs with captions, that a test may change."""
    folder = tmp_path / "inputs"
    shutil.copytree(made, folder)
    photographs(folder / "photos", NAMES)
    for name in NAMES:
        (folder / "photos" / name).with_suffix(".txt").write_text(f"a sks dog {name}")
    return folder


def study(inputs: Path, captions: str = "files") -> StudySpec:
    subject = {"name": "dog", "instance_prompt": "a sks dog", "class_prompt": "a dog"}
    return StudySpec.model_validate(
        {
            "name": "photographs",
            "model": str(inputs / "model"),
            "subjects": [subject | {"images": str(inputs / "photos")}],
            "arms": {"lora": {"method": "lora", "r": 2, "search_space": "fixed"}},
            "training": {"captions": captions, "checkpointing_steps": 2},
            "budget": {"max_train_steps": 4},
            "confirm": {"subjects": ["dog"], "seeds": [1]},
            "evaluation": {
                "image_encoder": str(inputs / "vit"),
                "clip": str(inputs / "clip"),
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 1,
                "anchor_images": 2,
                "num_class_images": 2,
            },
        }
    )


def begin(spec: StudySpec, storage: Storage) -> StudySpec:
    """What every launch does before Ray is asked."""
    with claimed(spec.with_contents(read_contents(spec)), storage) as claimed_spec:
        return claimed_spec


def config_of(spec: StudySpec, storage: Storage) -> RunConfig:
    return begin(spec, storage).run_config(RunKey("confirm", "lora", 0, "dog", 1), {}, storage)


def begin_the_run(config: RunConfig) -> None:
    """Trains two of its four steps, as a launch that is interrupted."""
    events = execute(config)
    for event in events:
        if event.kind == "checkpoint":
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())


def add(inputs: Path) -> None:
    photograph(inputs / "photos" / "99.png", seed=99)


def exchange(inputs: Path) -> None:
    """Other pixels under the same name, of the same size and time."""
    path = inputs / "photos" / "01.png"
    before = path.stat()
    photograph(path, seed=77)
    content = path.read_bytes()
    path.write_bytes(content[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def remove(inputs: Path) -> None:
    (inputs / "photos" / "02.png").unlink()


def write_another_caption(inputs: Path) -> None:
    (inputs / "photos" / "01.txt").write_text("a sks dog in the snow")


def train_the_model(inputs: Path) -> None:
    path = next((inputs / "model" / "unet").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def take_another_encoder(inputs: Path) -> None:
    (inputs / "vit" / "preprocessor_config.json").write_text(
        (inputs / "vit" / "preprocessor_config.json").read_text() + "\n"
    )


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (add, r"subjects\.dog\.images: added 99\.png"),
    (exchange, r"subjects\.dog\.images: changed 01\.png"),
    (remove, r"subjects\.dog\.images: removed 02\.png"),
    (write_another_caption, r"subjects\.dog\.captions: changed 01"),
    (train_the_model, r"model: changed unet/diffusion_pytorch_model\.safetensors"),
    (take_another_encoder, r"evaluation\.image_encoder: changed preprocessor_config\.json"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_what_changed_between_two_launches_is_named_and_refused(
    change: Callable[[Path], None], told: str, inputs: Path, fast_path: Path
) -> None:
    spec, storage = study(inputs), Storage(fast_path, "photographs")
    config = config_of(spec, storage)
    begin_the_run(config)
    before = (storage.folder / "study.json").read_bytes()
    change(inputs)
    with pytest.raises(UserError, match=rf"has changed since it was begun(.|\n)*  {told}") as refused:
        launch(spec, storage)
    assert str(refused.value).count("\n  ") == 1 + (change is remove), (
        "a line a folder; with a photograph goes its caption"
    )
    assert (storage.folder / "study.json").read_bytes() == before

    # A run that is handed out all the same, by a driver that began before the change, looks for itself.
    with pytest.raises(InputsChanged, match=told.partition(r"\.")[2].partition(": ")[2] or "changed"):
        list(execute(config))
    assert not (Path(config.output_dir) / "result.json").exists()
    with pytest.raises(WorkspaceError, match="does not hold what this run was begun with"):
        Attempt(order_of(config)).advance()
    assert not (Path(config.output_dir) / "result.json").exists(), "the run is not to blame"


def order_of(config: RunConfig) -> Order:
    return Order(
        key="confirm/lora/0000-dog-s1",
        phase="confirm",
        group="",
        config=config.model_dump_json(),
        driver_id="here",
        runner="trainables.run.execute:execute",
        resident="",
        cpus=1,
        gpus=0,
        study="photographs",
        attempt="0001-here",
    )


def test_captions_that_nobody_reads_may_change(inputs: Path, fast_path: Path) -> None:
    spec, storage = study(inputs, captions="instance_prompt"), Storage(fast_path, "photographs")
    begin_the_run(config_of(spec, storage))
    write_another_caption(inputs)
    (inputs / "photos" / "notes.md").write_text("from the garden")
    list(execute(config_of(spec, storage)))


def test_the_same_files_under_another_path_go_on(inputs: Path, fast_path: Path, tmp_path: Path) -> None:
    spec, storage = study(inputs), Storage(fast_path, "photographs")
    first = config_of(spec, storage)
    begin_the_run(first)
    moved = tmp_path / "moved"
    shutil.move(inputs, moved)
    there = config_of(study(moved), storage)
    assert there.digest() == first.digest()
    assert there.subject.images != first.subject.images
    events = list(execute(there))
    assert events[-1].data["state"] == "COMPLETE"
    assert next(event for event in events if event.kind == "started").data["resumed_step"] == 2

    whole = there.model_copy(update={"output_dir": str(tmp_path / "whole")})
    list(execute(whole))
    weights = "weights/pytorch_lora_weights.safetensors"
    assert (Path(there.output_dir) / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_run_without_a_study_says_which_files_changed(inputs: Path, tmp_path: Path) -> None:
    """``python -m trainables run.yaml``: its configuration says nothing of contents, its folder does."""
    config = study(inputs).run_config(RunKey("confirm", "lora", 0, "dog", 1), {}, Storage(tmp_path, "x"))
    assert config.contents == {}
    begin_the_run(config)
    recorded: dict[str, Any] = json.loads((Path(config.output_dir) / "run.json").read_text())
    assert set(recorded["contents"]) == {
        "subject.images", "subject.captions", "model", "evaluation.image_encoder", "evaluation.clip"
    }  # fmt: skip
    add(inputs)
    with pytest.raises(
        InputsChanged, match=r"photos' does not hold what this run was begun with: added 99\.png"
    ):
        list(execute(config))
    (inputs / "photos" / "99.png").unlink()
    assert list(execute(config))[-1].data["state"] == "COMPLETE"


def test_a_warm_process_sees_that_a_model_was_exchanged(inputs: Path, tmp_path: Path) -> None:
    """A notebook: the second run, a new one, trains the model that lies there now, not the one in memory."""
    spec, resident = study(inputs), Resident()

    def run(name: str, resident: Resident) -> bytes:
        key = RunKey("confirm", "lora", 0, "dog", 1)
        config = spec.run_config(key, {}, Storage(tmp_path, "x")).model_copy(
            update={"output_dir": str(tmp_path / name)}
        )
        assert list(execute(config, resident))[-1].data["state"] == "COMPLETE"
        return (tmp_path / name / "weights" / "pytorch_lora_weights.safetensors").read_bytes()

    first = run("first", resident)
    make_tiny_model(inputs / "model", resolution=16, width=16, seed=5)
    second = run("second", resident)
    assert second != first
    assert second == run("fresh", Resident())


def test_a_folder_called_snapshots_is_no_cache_of_a_hub(inputs: Path, fast_path: Path) -> None:
    (inputs / "snapshots").mkdir()
    shutil.move(inputs / "model", inputs / "snapshots" / "m")
    content = study(inputs).model_dump(mode="json")
    spec = StudySpec.model_validate(content | {"model": str(inputs / "snapshots" / "m")})
    storage = Storage(fast_path, "photographs")
    begin(spec, storage)
    make_tiny_model(inputs / "snapshots" / "m", resolution=16, width=16, seed=5)
    with pytest.raises(UserError, match=r"model: changed .*unet/diffusion_pytorch_model\.safetensors"):
        begin(spec, storage)


def test_what_no_run_reads_may_come_and_go(inputs: Path, fast_path: Path) -> None:
    spec, storage = study(inputs), Storage(fast_path, "photographs")
    begin_the_run(config_of(spec, storage))
    held_out = hold_out(NAMES, 2).pop()
    (inputs / "photos" / held_out).with_suffix(".txt").unlink()  # the caption of a reference
    photo = next(name for name in NAMES if name not in hold_out(NAMES, 2))
    shutil.copy(
        (inputs / "photos" / photo).with_suffix(".txt"), (inputs / "photos" / photo).with_suffix(".caption")
    )
    for path in (
        "photos/._01.png",
        "model/unet/._config.json",
        "model/unet/LICENSE.txt",
        "clip/.cache/x.json",
    ):
        (inputs / path).parent.mkdir(exist_ok=True)
        (inputs / path).write_text("{}")
    assert list(execute(config_of(spec, storage)))[-1].data["state"] == "COMPLETE"


def test_a_metric_model_that_was_fetched_after_the_first_launch_is_no_change(
    inputs: Path, fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub id: nothing was known of it when study and run began; another id is a change all the same."""
    content = study(inputs).model_dump(mode="json")
    content["evaluation"]["image_encoder"] = "me/vit"
    spec, storage = StudySpec.model_validate(content), Storage(fast_path, "photographs")
    first = config_of(spec, storage)
    assert "evaluation.image_encoder" not in first.contents
    snapshot = inputs / "hub" / "snapshots" / ("a" * 40)
    monkeypatch.setattr(contents, "_cached", lambda name: snapshot if name == "me/vit" else None)
    again = config_of(spec, storage)
    assert again.digest() == first.digest()
    content["evaluation"]["image_encoder"] = "me/another"
    with pytest.raises(UserError, match=r'evaluation\.image_encoder: "me/vit" -> "me/another"'):
        begin(StudySpec.model_validate(content), storage)

    known = Storage(fast_path / "known", "photographs")
    assert config_of(spec, known).contents["evaluation.image_encoder"] == f"revision:{'a' * 40}"
    snapshot = inputs / "hub" / "snapshots" / ("b" * 40)
    with pytest.raises(UserError, match=r"evaluation\.image_encoder: revision a{40} -> b{40}"):
        begin(spec, known)


def test_a_photograph_called_revision_is_a_photograph(inputs: Path, fast_path: Path) -> None:
    """And no commit of a hub, which would stand for all other files."""
    photograph(inputs / "photos" / "revision", seed=50)
    spec, storage = study(inputs, captions="instance_prompt"), Storage(fast_path, "photographs")
    begin(spec, storage)
    exchange(inputs)
    with pytest.raises(UserError, match=r"subjects\.dog\.images: changed 01\.png"):
        begin(spec, storage)
