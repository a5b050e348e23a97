"""`study export` of a run of the embedded model: files, metadata, model card; and what is refused before it begins."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from study.cli.main import main
from study.export.files import export_run
from study.generate import draw_images
from study.storage.layout import Storage
from tests.helpers.short_runs import config_of
from trainables.config.fields import ModelConfig
from trainables.evaluation.metrics_table import METRICS
from trainables.events import read_events
from trainables.models.loading import load_backbone
from trainables.models.solvers import make_solver
from trainables.run.execute import execute

RUN = "confirm/lora-x/0000-cat-1-s1"
PROMPT = "{subject} in the snow"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A LoRA that has learnt enough in two steps to change images."""
    found = Storage(tmp_path_factory.mktemp("export") / "storage", "mine")
    config = config_of(found.runs / RUN, learning_rate=0.3, lora_alpha=3, train_text_encoder=True)
    list(execute(config))
    assert json.loads((found.runs / RUN / "result.json").read_text())["state"] == "COMPLETE"
    (found.folder / "study.json").write_text("{}")
    return found


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["export", *arguments])
    printed = capsys.readouterr()
    return int(exit_.value.code or 0), printed.out, printed.err


def drawn(pipeline: Any) -> np.ndarray[Any, Any]:
    """As `study generate` draws one image with seed 0 and a step."""
    import torch

    backbone = load_backbone(ModelConfig())
    pipeline.scheduler = make_solver(backbone)
    pipeline.set_progress_bar_config(disable=True)
    side, prompt = backbone.resolution, PROMPT.format(subject="a sks cat")
    image = pipeline([prompt], generator=[torch.Generator("cpu").manual_seed(0)], height=side, width=side,
                     num_inference_steps=1, guidance_scale=3.0).images[0]  # fmt: skip
    return np.asarray(image).astype(int)


def test_the_command_writes_a_file_that_draws_what_generate_draws(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [
        "--storage",
        str(storage.root),
        "--out",
        str(out),
        "--license",
        "cc-by-4.0",
        "--author",
        "A. Person",
    ]
    code, printed, errors = cli(capsys, "mine", "lora-x", "--format", "kohya", *options)
    assert (code, errors) == (0, "")
    name = "mine-lora-x-0000-cat-1-s1.safetensors"
    written = printed.splitlines()
    assert [str(Path(path).relative_to(out)) for path in written if "images/" not in path] == [
        "README.md",
        name,
    ]
    with safe_open(out / name, "pt") as opened:
        about = opened.metadata()
    assert about["study.run"] == RUN
    assert about["modelspec.license"] == "cc-by-4.0"
    assert about["modelspec.author"] == "A. Person"
    assert about["modelspec.trigger_phrase"] == "a sks cat"
    assert json.loads(about["study.training"])["r"] == 2
    assert about["ss_output_name"] == name.removesuffix(".safetensors")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["modelspec.date"])

    (path,) = draw_images(storage, RUN, [PROMPT], tmp_path / "generated", count=1)
    generated = np.asarray(Image.open(path)).astype(int)
    pipeline = load_backbone(ModelConfig()).pipeline()
    base = drawn(pipeline)
    pipeline.load_lora_weights(str(out), weight_name=name)
    again = drawn(pipeline)
    assert np.abs(again - generated).max() <= 1  # of 255: the scale is multiplied in another place
    assert np.abs(again - base).max() > 20


def test_the_merged_pipeline_draws_what_generate_draws(storage: Storage, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    done = export_run(storage, RUN, "merged", tmp_path / "out")
    assert "no licence is stated" in done.notes[-1]
    (path,) = draw_images(storage, RUN, [PROMPT], tmp_path / "generated", count=1)
    merged = StableDiffusionPipeline.from_pretrained(
        str(tmp_path / "out"), local_files_only=True, safety_checker=None
    )
    assert np.abs(drawn(merged) - np.asarray(Image.open(path)).astype(int)).max() <= 1


def test_the_card_has_the_fields_of_a_hub_and_no_photograph(storage: Storage, tmp_path: Path) -> None:
    export_run(storage, RUN, "diffusers", tmp_path / "out", license="My own: [terms]")
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["license"] == "other"
    assert fields["license_name"] == "My own: [terms]"
    assert fields["instance_prompt"] == "a sks cat"
    assert fields["tags"] == ["text-to-image", "lora", "format:diffusers"]
    assert "base_model" not in fields  # the embedded model is none of the hub
    assert "load_lora_weights" in body
    result = json.loads((storage.runs / RUN / "result.json").read_text())["evaluation"]
    measured = {name: value for name, value in result.items() if value is not None}
    assert 3 < len(measured) < len(result)
    for name, value in result.items():
        row = f"| {METRICS[name].title} | {0.0 if value is None else value:.4g} |"
        assert (row in body) == (value is not None), name
    assert "| learning_rate | 0.3 |" in body
    shown = re.findall(r"\]\((images/[^)]+)\)", body)
    assert len(shown) == 1  # one prompt was judged; the grid shows held-out references and stays
    with Image.open(tmp_path / "out" / shown[0]) as image:
        assert image.height >= 64
    assert str(storage.root.parent) not in text


def test_a_second_export_has_the_same_bytes(storage: Storage, tmp_path: Path) -> None:
    first = export_run(storage, RUN, "comfyui", tmp_path / "a" / "out")
    second = export_run(storage, RUN, "comfyui", tmp_path / "b" / "out")
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


@pytest.fixture
def copied(storage: Storage, tmp_path: Path) -> Storage:
    """The same storage again, to be spoilt."""
    shutil.copytree(storage.root, tmp_path / "storage")
    return Storage(tmp_path / "storage", "mine")


def test_images_that_lie_outside_of_the_run_are_passed_over(copied: Storage, tmp_path: Path) -> None:
    folder = copied.runs / RUN
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "linked.png").symlink_to(secret)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    image = next(event for event in events if event["kind"] == "image" and event["data"]["key"][:2].isdigit())
    with (folder / "events.jsonl").open("a") as file:
        for number, path in enumerate((str(secret), "../../../../../../secret.png", "linked.png")):
            data = {**image["data"], "key": f"9{number} a prompt", "path": path}
            file.write(json.dumps({**image, "data": data}) + "\n")
    assert (folder / "../../../../../../secret.png").exists()
    assert sum(event.data.get("key", "").startswith("9") for event in read_events(folder)) == 3
    export_run(copied, RUN, "diffusers", tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    assert "a prompt" not in (tmp_path / "out" / "README.md").read_text()


def test_a_card_shows_the_last_evaluation_alone(copied: Storage, tmp_path: Path) -> None:
    """Those on the way may be of other prompts, and are of other weights."""
    file = copied.runs / RUN / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    begun = next(place for place, event in enumerate(events) if event["data"].get("name") == "evaluate")
    image = next(event for event in events if event["kind"] == "image" and event["data"]["key"][:2].isdigit())
    earlier = [events[begun], {**image, "data": {**image["data"], "key": "07 what chose the step"}}]
    events[begun:begun] = earlier
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    export_run(copied, RUN, "diffusers", tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    assert "what chose the step" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("depth", [0, 1])
def test_a_run_that_is_a_link_to_the_outside_is_not_published(
    depth: int, copied: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = [copied.runs / RUN, *(copied.runs / RUN).parents][depth]
    shutil.move(folder, tmp_path / folder.name)
    folder.symlink_to(tmp_path / folder.name)
    code, _, errors = cli(capsys, "mine", RUN, "-f", "diffusers", "-o", str(tmp_path / "out"), "--storage",
                          str(copied.root))  # fmt: skip
    assert code == 2
    assert "leads out of the study's folder" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["pytorch_lora_weights.safetensors", "more/theirs.txt"])
def test_weights_that_lead_out_of_the_run_are_not_published(
    below: str, copied: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").mkdir()
    link = copied.runs / RUN / "weights" / below
    if link.exists():
        shutil.move(link, tmp_path / "outside" / "theirs.txt")
        link.symlink_to(tmp_path / "outside" / "theirs.txt")
    else:
        (tmp_path / "outside" / "theirs.txt").write_text("theirs")
        link.parent.symlink_to(tmp_path / "outside")
    code, _, errors = cli(capsys, "mine", "lora-x", "-f", "diffusers", "-o", str(tmp_path / "out"), "--storage",
                          str(copied.root))  # fmt: skip
    assert code == 2
    assert "leads out of the weights" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "lora-x", "--format", "onnx"], "onnx"),
        (["mine", "other", "--format", "kohya"], "arms with runs: lora-x"),
        (["theirs", "lora-x", "--format", "kohya"], "no study called 'theirs'"),
        (["mine", "lora-x", "--format", "kohya", "--out", "FULL"], "holds something already"),
    ],
)
def test_a_users_mistake_is_told_and_nothing_is_written(
    arguments: list[str], said: str, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "theirs.txt").write_text("theirs")
    given = [str(full) if argument == "FULL" else argument for argument in arguments]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    code, printed, errors = cli(capsys, *given, *out, "--storage", str(storage.root))
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors
    assert printed == ""
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["full", "full/theirs.txt"]


@pytest.mark.parametrize("place", ["below a file", "link", "dangling", "full disk", "no rights"])
def test_a_place_that_cannot_be_written_is_told_with_its_path(
    place: str,
    storage: Storage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    out = tmp_path / {"below a file": "file/out", "link": "link", "dangling": "dangling"}.get(
        place, "new/out"
    )

    def refuse(*_: object, **__: object) -> str:
        error = errno.ENOSPC if place == "full disk" else errno.EACCES
        raise OSError(error, os.strerror(error), str(out))

    if place == "full disk":  # after all files have been written: at the last step
        monkeypatch.setattr("study.export.files.write_card", refuse)
    if place == "no rights":  # whoever runs this may be root, whom modes do not hold
        monkeypatch.setattr("study.export.files.tempfile.mkdtemp", refuse)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code, printed, errors = cli(capsys, "mine", "lora-x", "-f", "diffusers", "-o", str(out), "--storage",
                                str(storage.root))  # fmt: skip
    assert code == 2
    assert str(out) in errors
    assert "Traceback" not in errors
    assert printed == ""
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_images_have_no_place_below_a_file(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "mine", "lora-x", "-p", "x", "-n", "1", "-o", str(tmp_path / "file/out"), "--storage",
              str(storage.root)])  # fmt: skip
    assert exit_.value.code == 2
    assert f"--out {tmp_path / 'file/out'} cannot be made" in capsys.readouterr().err


def test_a_misspelt_placeholder_is_a_users_mistake(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "mine", "lora-x", "-p", "a {subjct}", "-o", str(tmp_path / "out"), "--storage",
              str(storage.root)])  # fmt: skip
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert "did you mean {subject}?" in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a [b](c) d", r"a \[b](c) d", r"x \| y | z", r"\`code`", r"ends with \\"])
def test_text_in_a_card_is_nothing_but_text(text: str) -> None:
    """Undoing the escapes gives the text again, and no sign of markup is left bare."""
    from study.export.card import _plain

    escaped = _plain(text)
    assert re.sub(r"\\(.)", r"\1", escaped) == text
    assert not re.search(r"[|`<>\[\]]", re.sub(r"\\.", "", escaped))


def test_a_format_that_cannot_hold_it_is_refused(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = storage.runs / "confirm/base/0000-cat-1-s1"
    shutil.copytree(storage.runs / RUN, other)
    config = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**config, "method": "base", "training": {}}))
    code, _, errors = cli(
        capsys, "mine", "base", "-f", "merged", "-o", str(tmp_path / "out"), "--storage", str(storage.root)
    )
    shutil.rmtree(other)
    assert code == 2
    assert "trains nothing" in errors
    assert not (tmp_path / "out").exists()
