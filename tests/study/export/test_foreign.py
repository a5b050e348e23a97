"""`study evaluate`: files are judged as the study's own runs are, and filed as foreign/NAME."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from study.cli.main import main
from study.export.files import export_run
from study.export.foreign import _resolution, evaluate_files
from study.export.trained import complete_run
from study.report.build import build_report
from study.results.csv_files import read_csv
from study.results.loading import load_results
from study.results.run_rows import rows
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_names import known_runs
from tests.helpers.captioned_images import picture
from tests.helpers.exported_weights import ABOUT, trained
from trainables.config.fields import ModelConfig
from trainables.embedded import GENERATOR
from trainables.errors import UserError
from trainables.evaluation import evaluator
from trainables.methods.exporting import Request
from trainables.methods.registry import get_method
from trainables.models.folders import local_folder
from trainables.models.loading import load_backbone
from trainables.run import run_evaluation
from trainables.run.execute import execute

RUN = "confirm/lora-x/0000-cat-1-s1"
FILED = "foreign/their-lora/0000-cat-1-s1"


def main_ended(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert (exit_.value.code or 0) == code


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A launched study with a confirm run of its own."""
    spec = StudySpec.model_validate(
        {
            "name": "mine",
            "subjects": ["cat-1", "dog-1"],
            "training": {"train_batch_size": 1},
            "budget": {"max_train_steps": 2},
            "arms": {"lora-x": {"method": "lora", "search_space": "fixed", "learning_rate": 0.3, "r": 2}},
            "search": {"subjects": ["dog-1"], "seeds": [0]},
            "confirm": {"subjects": ["cat-1"], "seeds": [1]},
            "evaluation": {"num_prompts": 2, "images_per_prompt": 1, "num_inference_steps": 2, "anchor_images": 4,
                           "num_class_images": 4},
        }
    )  # fmt: skip
    found = Storage(tmp_path_factory.mktemp("foreign") / "storage", "mine")
    list(execute(spec.run_config(RunKey.parse(RUN), {}, found)))
    assert json.loads((found.runs / RUN / "result.json").read_text())["state"] == "COMPLETE"
    (found.folder / "study.json").write_text(json.dumps(spec.record()))
    return found


@pytest.fixture(scope="module")
def file(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's own LoRA, as others would have it."""
    out = tmp_path_factory.mktemp("files") / "out"
    export_run(storage, RUN, "kohya", out)
    return shutil.copy(out / "mine-lora-x-0000-cat-1-s1.safetensors", out / "their lora.safetensors")


def test_a_file_is_judged_as_the_run_that_made_it(
    storage: Storage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["mine", str(file), "--storage", str(storage.root), "--format", "json"]
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *arguments])
    assert not exit_.value.code
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["arm"], row["subject"], row["seed"], row["state"]) == (
        "foreign/their-lora",
        "cat-1",
        1,
        "COMPLETE",
    )
    folder = storage.runs / "foreign/their-lora/0000-cat-1-s1"
    run, own = (json.loads((place / "run.json").read_text()) for place in (folder, storage.runs / RUN))
    assert run["method"] == "foreign"
    assert run["training"]["sha256"].startswith(row["sha256"])
    assert run["training"]["layout"] == "kohya"
    same = ("model", "subject", "evaluation", "seed")
    assert {name: run[name] for name in same} == {name: own[name] for name in same}
    assert run["contents"] == own["contents"]
    theirs, ours = (
        json.loads((place / "result.json").read_text())["evaluation"]
        for place in (folder, storage.runs / RUN)
    )
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        if value is None:
            assert theirs[name] is None
        else:
            assert theirs[name] == pytest.approx(value, abs=2e-2), name  # weights are merged: images round
    assert theirs["subject_fidelity"] != 0
    assert ours["drift"] > 0.01  # the training shows
    assert (folder / "image_scores.csv").exists()
    assert list((folder / "samples").iterdir())


def test_a_second_time_nothing_is_drawn_and_other_words_are_another_arm(storage: Storage, file: Path) -> None:
    (first,) = evaluate_files(storage, [file])
    events = storage.runs / "foreign/their-lora/0000-cat-1-s1/events.jsonl"
    before = events.read_bytes()
    assert evaluate_files(storage, [file], subject="cat-1") == [first]
    assert events.read_bytes() == before
    with pytest.raises(UserError, match="give this one another name by --name"):
        evaluate_files(storage, [file], prompt="a photo of a sks cat")
    (row,) = evaluate_files(storage, [file], prompt="a photo of a sks cat", name="worded")
    assert (row["arm"], row["state"]) == ("foreign/worded", "COMPLETE")
    assert events.read_bytes() == before


def test_the_studys_own_words_written_out_are_the_same_file(storage: Storage, file: Path) -> None:
    (first,) = evaluate_files(storage, [file])
    assert evaluate_files(storage, [file], prompt="a sks cat") == [first]
    (written,) = evaluate_files(storage, [file], prompt="a sks cat", name="written")
    record = storage.runs / "foreign/written/0000-cat-1-s1/run.json"
    content = json.loads(record.read_text())
    assert content["training"]["prompt"] is None
    content["training"]["prompt"] = "a sks cat"  # as records said it before
    record.write_text(json.dumps(content))
    assert evaluate_files(storage, [file], name="written") == [written]
    assert evaluate_files(storage, [file], prompt="a sks cat", name="written") == [written]
    with pytest.raises(UserError, match="the same with another --prompt"):
        evaluate_files(storage, [file], prompt="a cat", name="written")


def test_the_plan_goes_on_as_if_they_were_not_there(storage: Storage, file: Path) -> None:
    evaluate_files(storage, [file])
    first, *theirs = rows(storage)
    assert (first["run_key"], first["phase"]) == (RUN, "confirm")
    assert {(row["phase"], row["method"]) for row in theirs} == {("foreign", "foreign")}
    assert [key.name for key in known_runs(storage)] == [RUN]
    assert complete_run(storage, "lora-x") == storage.runs / RUN
    with pytest.raises(UserError, match=r"arms with runs: lora-x$"):
        complete_run(storage, "their-lora")
    with pytest.raises(UserError, match="was trained elsewhere: its weights are in the file that was judged"):
        complete_run(storage, FILED)


def test_mlflow_and_the_report_have_them(storage: Storage, file: Path, tmp_path: Path) -> None:
    """By the command alone; from folders, MLflow and the report's own data come the same lines."""
    where = ["--storage", str(storage.root)]
    main_ended(["evaluate", "mine", str(file), *where])
    folders, mirrored = load_results(storage), load_results(storage, from_mlflow=True)
    shown = [
        "run_key",
        "phase",
        "arm",
        "method",
        "state",
        "quality",
        "param.file",
        "param.layout",
        "param.sha256",
    ]
    for results in (folders, mirrored):
        assert (results.frame["run_key"] == FILED).sum() == 1
    pd.testing.assert_frame_equal(folders.frame[shown], mirrored.frame[shown])
    reports = [build_report(results, tmp_path / str(k)) for k, results in enumerate((folders, mirrored))]
    reports.append(build_report(read_csv(reports[0].folder), tmp_path / "again"))
    tables = [(report.folder / "tables/foreign.csv").read_text() for report in reports]
    assert tables == [tables[0]] * 3
    assert "cat-1,foreign/their-lora,1," in tables[0]
    assert "cat-1,lora-x,1," in tables[0]


def test_users_mistakes_are_told_before_anything_is_drawn(
    storage: Storage, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "their_lora.safetensors"
    shutil.copy(file, other)
    with pytest.raises(UserError, match="no confirm subject 'dog-1'"):
        evaluate_files(storage, [other], subject="dog-1")
    with pytest.raises(UserError, match="--name is for one file"):
        evaluate_files(storage, [other, file], name="x")
    with pytest.raises(UserError, match="would both be foreign/"):
        evaluate_files(storage, [other, other])
    with pytest.raises(UserError, match="cannot be the name of an arm"):
        evaluate_files(storage, [other], name="a/b")
    with pytest.raises(UserError, match="may hold code"):
        evaluate_files(
            storage, [tmp_path / "run.ckpt" if (tmp_path / "run.ckpt").write_bytes(b"x") else file]
        )
    save_file({"emb_params": torch.ones(1, 7)}, tmp_path / "sks.safetensors")
    for prompt, said in (("", "is empty"), (" , ", "is empty"), ("a {subject} cat", "placeholder {subject}"),
                         ("a {subjct} cat", "placeholder {subjct}")):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(said)):
            evaluate_files(storage, [other], prompt=prompt)
    with pytest.raises(UserError, match=r"'a sks cat, very .* in the place .* instance_prompt has .* tokens"):
        evaluate_files(storage, [other], prompt="a sks cat" + ", very small" * 40)
    for prompt in (None, "a photo of masks"):
        with pytest.raises(UserError, match="where a prompt has its word, 'sks'"):
            evaluate_files(storage, [other, tmp_path / "sks.safetensors"], prompt=prompt)
    assert not (storage.runs / "foreign/their_lora").exists()


def test_a_file_that_does_not_fit_is_refused_and_its_name_stays_free(
    storage: Storage, tmp_path: Path
) -> None:
    wide, other = tmp_path / "wide.safetensors", tmp_path / "other" / "narrow.safetensors"
    other.parent.mkdir()
    save_file({"emb_params": torch.ones(1, 7)}, wide)
    save_file({"lora_unet_nowhere.diff": torch.ones(2, 2)}, other)
    with pytest.raises(UserError, match="vectors of 7 numbers") as caught:
        evaluate_files(storage, [wide, other], prompt="a wide cat")
    assert "lora_unet_nowhere" in str(caught.value)  # of every file at once
    rows = torch.ones(1, embedding_width())
    rows[0, 0] = float("nan")
    save_file({"emb_params": rows}, wide)
    with pytest.raises(UserError, match="not finite"):
        evaluate_files(storage, [wide], prompt="a wide cat")
    assert not (storage.runs / "foreign/wide").exists()
    save_file({"emb_params": torch.ones(1, embedding_width())}, wide)
    (row,) = evaluate_files(storage, [wide], prompt="a wide cat")
    assert row["state"] == "COMPLETE"


def test_how_a_run_ended_is_final(
    storage: Storage, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails while it is judged is on file; the message says how to have another try."""
    mine = shutil.copy(file, tmp_path / "mine.safetensors")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("trainables.run.run_evaluation.evaluate", fail)
        (row,) = evaluate_files(storage, [mine])
    assert row["state"] == "FAIL"
    folder = storage.runs / "foreign/mine"
    assert f"name another arm by --name, or remove {folder}" in row["message"]
    first = (folder / "0000-cat-1-s1/events.jsonl").read_bytes()
    assert evaluate_files(storage, [mine]) == [row]  # the message is true
    assert (folder / "0000-cat-1-s1/events.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("first", "second", "side", "noted"),
    [({"resolution": 32}, {}, None, True), ({"resolution": 32}, {"resolution": 32}, 32, False),
     ({}, {"resolution": 64}, None, False)],
)  # fmt: skip
def test_the_resolution_is_that_of_all_arms_or_the_base_models_own(
    first: dict[str, int], second: dict[str, int], side: int | None, noted: bool, tmp_path: Path
) -> None:
    lora = {"method": "lora", "search_space": "fixed"}
    spec = StudySpec.model_validate(
        {
            "name": "mine",
            "subjects": ["cat-1", "dog-1"],
            "budget": {"max_train_steps": 2},
            "arms": {"base": {"method": "base"}, "a": {**lora, **first}, "b": {**lora, "r": 2, **second}},
            "search": {"subjects": ["dog-1"], "seeds": [0]},
            "confirm": {"subjects": ["cat-1"], "seeds": [1]},
        }
    )
    notes: list[str] = []
    base = local_folder(ModelConfig())
    assert _resolution(spec, Storage(tmp_path, "mine"), "cat-1", base, notes.append) == side
    assert [note.split(";")[0] for note in notes] == [
        "the study's arms have several resolutions (a: 32, b: 64)"
    ] * noted


def test_of_a_data_set_the_prompt_takes_the_place_of_the_trigger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions keep their words, in the images that are drawn and where the held-out loss is taken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file_name,text"]
    for number in range(12):
        picture((64, 64), number).save(folder / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,momo in place {number}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    spec = StudySpec.model_validate(
        {
            "name": "mine",
            "subjects": [{"name": "cast", "dataset": {"path": str(folder), "trigger": "ink style", "holdout": 0.5}}],
            "training": {"train_batch_size": 1},
            "budget": {"max_train_steps": 2},
            "arms": {"a": {"method": "text_to_image", "search_space": "fixed", "r": 2, "learning_rate": 0.3}},
            "search": {"subjects": ["cast"], "seeds": [0], "allow_overlap": True},
            "confirm": {"subjects": ["cast"], "seeds": [1]},
            "evaluation": {"num_prompts": 2, "images_per_prompt": 1, "num_inference_steps": 1, "anchor_images": 2,
                           "num_class_images": 2},
        }
    )  # fmt: skip
    found = Storage(tmp_path / "storage", "mine")
    own = "confirm/a/0000-cast-s1"
    list(execute(spec.run_config(RunKey.parse(own), {}, found)))
    (found.folder / "study.json").write_text(json.dumps(spec.record()))
    export_run(found, own, "kohya", tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.safetensors")

    drawn: list[str] = []
    losses: list[tuple[str, ...]] = []
    draw, prepare = evaluator.generate, run_evaluation.prepare_held_out_loss

    def drawing(backbone: Any, prompts: Any, **options: Any) -> Any:
        drawn.extend(prompts)
        return draw(backbone, prompts, **options)

    def preparing(*arguments: Any, **options: Any) -> Any:
        losses.append((made := prepare(*arguments, **options)).prompts)
        return made

    monkeypatch.setattr(evaluator, "generate", drawing)
    monkeypatch.setattr(run_evaluation, "prepare_held_out_loss", preparing)
    values = {}
    for name, prompt in (("plain", None), ("same", "ink style"), ("other", "red chalk")):
        drawn.clear()
        losses.clear()
        (row,) = evaluate_files(found, [file], name=name, prompt=prompt)
        assert row["state"] == "COMPLETE", row["message"]
        begin = f"{prompt or 'ink style'}, momo in place "
        assert len(losses[0]) == 6
        assert all(text.startswith(begin) for text in losses[0])
        assert len({text for text in drawn if text.startswith(begin)}) == 2
        result = json.loads((found.runs / f"foreign/{name}/0000-cast-s1/result.json").read_text())
        values[name] = result["evaluation"]["held_out_loss"]
    assert values["same"] == values["plain"] != values["other"]


def made(method: str, weights: Path, out: Path, **fields: object) -> Path:
    """Returns a file for A1111 of a method on the embedded model, with random values in what trains."""
    backbone = load_backbone(ModelConfig())
    config = trained(backbone, method, weights, **fields)
    out.mkdir()
    get_method(method).export(  # type: ignore[attr-defined]
        load_backbone(ModelConfig()), config, weights, Request("a1111", method, ABOUT), out
    )
    return out / f"{method}.safetensors"


def test_a_word_inside_a_file_of_adapters_must_be_said(storage: Storage, tmp_path: Path) -> None:
    file = made("pivotal_tuning", tmp_path / "weights", tmp_path / "out", r=2, num_vectors=2)
    with pytest.raises(UserError, match="holds an embedding, which shows where a prompt has its word, 'sks'"):
        evaluate_files(storage, [file])
    (row,) = evaluate_files(storage, [file], prompt="a sks cat")
    assert (row["state"], row["message"]) == ("COMPLETE", None)
    run = json.loads((storage.runs / "foreign/pivotal_tuning/0000-cat-1-s1/run.json").read_text())
    assert (run["training"]["layout"], run["training"]["word"], run["training"]["vectors"]) == (
        "kohya",
        "sks",
        2,
    )


def test_a_whole_model_in_one_file_is_judged(storage: Storage, tmp_path: Path) -> None:
    file = made("dreambooth", tmp_path / "weights", tmp_path / "out")
    (row,) = evaluate_files(storage, [file])
    assert (row["arm"], row["state"], row["message"]) == ("foreign/dreambooth", "COMPLETE", None)
    folder = storage.runs / "foreign/dreambooth/0000-cat-1-s1"
    assert json.loads((folder / "run.json").read_text())["training"]["layout"] == "checkpoint"
    assert json.loads((folder / "result.json").read_text())["evaluation"]["drift"] > 0.01


def embedding_width() -> int:
    """Of the embedded model's text encoder."""
    return int(load_backbone(ModelConfig()).text_encoders[0].get_input_embeddings().embedding_dim)


def test_a_whole_model_is_not_judged_by_a_study_over_quantised_weights(
    storage: Storage, tmp_path: Path
) -> None:
    """It is refused before anything is drawn, beside whatever else is wrong."""
    record = json.loads((storage.folder / "study.json").read_text())
    spec = StudySpec.from_record(record)
    quantised = spec.model_copy(update={"model": ModelConfig(quantization="4bit")})
    other = Storage(tmp_path / "storage", "mine")
    other.folder.mkdir(parents=True)
    (other.folder / "study.json").write_text(json.dumps(quantised.record()))
    rows = {"emb_params": torch.zeros(1, 64)}
    save_file(rows, tmp_path / "word.safetensors")
    with pytest.raises(UserError) as error:
        evaluate_files(other, [Path(GENERATOR), tmp_path / "word.safetensors"])
    told = list(error.value.problems)
    assert len(told) == 2
    assert any("is an embedding" in line for line in told)
    assert any(
        "is a whole model, and the study's base model keeps weights as codes (model.quantization: 4bit)"
        in line
        for line in told
    )
    assert not other.runs.exists()
