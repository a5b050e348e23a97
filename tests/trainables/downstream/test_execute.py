"""The life of a run that trains a classifier: what it leaves, how it ends, how it goes on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.helpers.classifier_runs import (
    CLASSES,
    config_of,
    drawn,
    entries,
    predictions_of,
    prepared,
    record_of,
    result_of,
)
from trainables.classifier_run_config import ClassifierRunConfig, parse_run_config
from trainables.classifiers.scores import score
from trainables.data.cache import Cache
from trainables.data.generated_images import read_entry
from trainables.downstream.execute import execute
from trainables.errors import InputsChanged, UserError
from trainables.evaluation.prepared_classes import PreparedClasses, read_prepared
from trainables.events import read_events


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedClasses:
    return prepared(tmp_path_factory.mktemp("data"), (20, 20, 20))


def with_generated(
    folder: Path, data: PreparedClasses, name: str = "run", **fields: Any
) -> ClassifierRunConfig:
    pictures = fields.pop("pictures", None) or drawn((10, 10, 10))
    usual: dict[str, Any] = {
        "source": "lora-x1",
        "generator": "lora",
        "generator_seed": 0,
        "ratio": 1.0,
        "proportional": True,
        "generated": entries(folder / "cache", pictures),
    }
    return config_of(folder, data, name, **{**usual, **fields})


def failure(config: ClassifierRunConfig) -> str:
    events = list(execute(config))
    assert events[-1].data["state"] == "FAIL"
    assert result_of(config)["reason"] == "user_error"
    return str(events[-1].data["message"])


def test_a_run_leaves_events_predictions_a_record_and_a_result(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data)
    yielded = list(execute(config))
    assert yielded == read_events(Path(config.output_dir))
    assert yielded[0].data["steps"] == 6
    assert yielded[-1].data["state"] == "COMPLETE"
    assert [event.step for event in yielded if event.kind == "progress"] == [2, 4, 6]
    files = {event.data["role"]: event.data["path"] for event in yielded if event.kind == "artifact"}
    assert files == {"predictions": "predictions.csv", "record": "record.json"}
    result, record = result_of(config), record_of(config)
    assert (
        result["config_digest"]
        == parse_run_config((Path(config.output_dir) / "run.json").read_text()).digest()
    )
    assert result["cost"]["train_steps"] == record["training"]["steps"] == 6
    assert result["cost"]["train_flops"] == record["training"]["train_flops"] > 0
    assert result["cost"]["train_seconds"] > 0
    assert result["cost"]["trainable_parameters"] == record["training"]["parameters"]
    assert record["real_images"] == dict.fromkeys(CLASSES, 10)
    assert record["generated_images"] == record["filtered_out"] == dict.fromkeys(CLASSES, 0)
    assert record["counts"]["test"] == dict.fromkeys(CLASSES, 5)
    assert record["data"] == data.digest
    assert sum(record["training"]["real"].values()) == 6 * 8
    assert not (Path(config.output_dir) / "checkpoint").exists()
    assert list(execute(config)) == []


def test_scores_are_those_of_the_predictions(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data)
    list(execute(config))
    found = result_of(config)["evaluation"]
    lines = predictions_of(config)
    split = read_prepared(data)
    assert [line["image"] for line in lines] == [image.name for image in (*split.validation, *split.test)]
    for part, begin in (("validation", "validation_"), ("test", "")):
        inside = [line for line in lines if line["part"] == part]
        again = score(
            [[float(line[f"p{n}"]) for n in range(3)] for line in inside],
            [int(line["label"]) for line in inside],
            CLASSES,
        )
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"):
            assert found[f"{begin}{name}"] == pytest.approx(getattr(again, name), abs=1e-4)
        if part == "test":
            recalls = {label: found[f"recall/{label}"] for label in CLASSES}
            assert recalls == pytest.approx(again.recall)


def test_runs_of_a_search_look_at_no_test_image(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data, judged=False)
    list(execute(config))
    assert {line["part"] for line in predictions_of(config)} == {"validation"}
    assert all(name.startswith("validation_") for name in result_of(config)["evaluation"])


def test_a_repeated_run_is_the_same_and_so_is_one_that_was_broken_off(
    tmp_path: Path, data: PreparedClasses
) -> None:
    whole, broken = (with_generated(tmp_path, data, name, seed=3) for name in ("whole", "broken"))
    list(execute(whole))
    events = execute(broken)
    for event in events:
        if event.kind == "progress" and event.step == 4:
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert not (Path(broken.output_dir) / "result.json").exists()
    more = list(execute(broken))
    assert more[0].data["resumed_step"] == 4
    assert [event.step for event in read_events(Path(broken.output_dir)) if event.kind == "progress"] == [
        2,
        4,
        6,
    ]
    one, other = (Path(each.output_dir) / "predictions.csv" for each in (whole, broken))
    assert one.read_bytes() == other.read_bytes()
    assert result_of(whole)["evaluation"] == result_of(broken)["evaluation"]
    ours, theirs = record_of(whole), record_of(broken)
    for record in (ours, theirs):
        for name in ("train_seconds", "validation_seconds"):
            record["training"].pop(name)
    assert ours == theirs
    assert result_of(broken)["cost"]["train_flops"] == result_of(whole)["cost"]["train_flops"]


def test_a_run_whose_generator_is_closed_is_pruned(tmp_path: Path, data: PreparedClasses) -> None:
    config = config_of(tmp_path, data)
    events = execute(config)
    for event in events:
        if event.kind == "checkpoint":
            break
    events.close()
    result = result_of(config)
    assert (result["state"], result["reason"]) == ("PRUNED", "stopped_early")
    assert result["cost"]["train_steps"] == 2
    assert list(execute(config)) == []


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path, data: PreparedClasses) -> None:
    list(execute(config_of(tmp_path, data)))
    with pytest.raises(UserError, match="another configuration"):
        list(execute(config_of(tmp_path, data, seed=1)))


def test_a_loss_that_is_no_number_is_a_failure(tmp_path: Path, data: PreparedClasses) -> None:
    wild = {"learning_rate": 10.0, "optimizer": "sgd", "momentum": 0.99, "weight_decay": 10.0}
    config = config_of(tmp_path, data, training={**wild, "max_train_steps": 40, "validation_steps": 40})
    assert list(execute(config))[-1].data["reason"] == "nan_loss"
    result = result_of(config)
    assert result["state"] == "FAIL"
    assert result["cost"]["train_flops"] > 0


# What it learns from


def test_the_ratio_says_how_many_generated_images_are_learnt_from(tmp_path: Path) -> None:
    data = prepared(tmp_path, (20, 20, 20), imbalance={"red": 4})
    config = with_generated(tmp_path, data, ratio="balance")
    list(execute(config))
    record = record_of(config)
    assert record["real_images"] == {"red": 4, "green": 10, "blue": 10}
    assert record["generated_images"] == {"red": 6, "green": 0, "blue": 0}
    assert record["training"]["config"]["generated_probability"] == pytest.approx(6 / 30)
    made = record["training"]["generated"]
    assert made["red"] > 0
    assert made["green"] == made["blue"] == 0
    assert sum(record["training"]["real"].values()) + made["red"] == 6 * 8
    half = with_generated(tmp_path, data, "half", ratio=0.5)
    list(execute(half))
    assert record_of(half)["generated_images"] == {"red": 2, "green": 5, "blue": 5}


def test_generated_images_alone(tmp_path: Path, data: PreparedClasses) -> None:
    config = with_generated(tmp_path, data, real_share=0.0)
    list(execute(config))
    record = record_of(config)
    assert record["real_images"] == dict.fromkeys(CLASSES, 0)
    assert sum(record["training"]["real"].values()) == 0
    assert sum(record["training"]["generated"].values()) == 6 * 8


def test_every_generated_image_reaches_the_training_as_it_was_drawn(tmp_path: Path) -> None:
    pictures = drawn((3, 3, 3))
    listed = entries(tmp_path / "cache", pictures, at_once=2)
    back = [
        picture for name in listed[1]["entries"] for picture in read_entry(Cache(tmp_path / "cache"), name)
    ]
    assert [one.tobytes() for one in back] == [one.tobytes() for one in pictures["green"]]


def test_a_share_above_one_takes_what_was_left_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, (20, 20, 20), imbalance={"red": 4})
    config = config_of(tmp_path, data, real_share=2.0)
    list(execute(config))
    assert record_of(config)["real_images"] == {"red": 8, "green": 10, "blue": 10}


def test_a_share_that_no_class_has_is_refused(tmp_path: Path, data: PreparedClasses) -> None:
    assert "real_share 2 asks for more images of every class" in failure(
        config_of(tmp_path, data, real_share=2.0)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"real_share": 0.0}, "nothing to learn from"),
        ({"proportional": True}, "proportional has no effect"),
        ({"filter": "near_copies"}, "a filter has no effect"),
    ],
)
def test_configurations_that_mean_nothing(
    tmp_path: Path, data: PreparedClasses, fields: Any, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(tmp_path, data, **fields)


# Filters


def test_a_filter_by_confidence_drops_what_shows_other_classes(tmp_path: Path, data: PreparedClasses) -> None:
    pictures = drawn((10, 10, 10))
    pictures["red"][:3] = drawn((3, 3, 3), first=2000)["green"]
    long = {"max_train_steps": 60, "validation_steps": 20, "learning_rate": 3e-3}
    kept: dict[str, Any] = {
        "filter": {"kind": "confidence", "threshold": 0.5},
        "pictures": pictures,
        "training": long,
    }
    config = with_generated(tmp_path, data, **kept)
    list(execute(config))
    record = record_of(config)
    assert record["filtered_out"]["red"] == 3
    assert sum(record["filtered_out"].values()) <= 5
    assert record["filter"]["train_flops"] == record["training"]["train_flops"]
    cost = result_of(config)["cost"]
    assert cost["train_flops"] == 2 * record["training"]["train_flops"]  # the filter's classifier is paid for
    assert cost["preparation_seconds"] >= record["filter"]["train_seconds"] > 0
    again = with_generated(tmp_path, data, "again", **kept)
    list(execute(again))  # it is trained once, and paid for by each
    assert record_of(again)["filter"] == record["filter"]
    assert result_of(again)["cost"]["train_flops"] == cost["train_flops"]


def test_a_filter_drops_copies_of_training_images(tmp_path: Path, data: PreparedClasses) -> None:
    pictures = drawn((10, 10, 10))
    pictures["blue"][4] = next(one for one in read_prepared(data).train if one.label == "blue").open()
    config = with_generated(tmp_path, data, pictures=pictures, filter="near_copies")
    list(execute(config))
    record = record_of(config)
    assert record["filtered_out"] == {"red": 0, "green": 0, "blue": 1}
    assert record["generated_images"] == {"red": 10, "green": 10, "blue": 9}
    assert record["training"]["config"]["generated_probability"] == pytest.approx(29 / 59)


def test_a_filter_that_leaves_a_class_without_images_is_a_failure(
    tmp_path: Path, data: PreparedClasses
) -> None:
    train = read_prepared(data).train
    pictures = drawn((10, 10, 10)) | {"red": [one.open() for one in train if one.label == "red"]}
    config = with_generated(tmp_path, data, pictures=pictures, filter="near_copies", real_share=0.0)
    assert "leaves out all generated images of 'red'" in failure(config)


# Leaks and what is gone


def test_a_test_image_that_is_put_among_the_training_images_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    config = config_of(tmp_path, data)
    leaked = read_prepared(data).test[0]
    leaked.open().save(data.folder / "train" / leaked.label / "99999.png")
    with pytest.raises(InputsChanged, match=r"train/\w+/99999.png"):
        list(execute(config))
    assert not Path(config.output_dir).exists()


def test_a_test_image_that_the_list_names_as_a_training_image_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    config = config_of(tmp_path, data, "first")
    list(execute(config))
    seal = json.loads((Path(config.output_dir) / "run.json").read_text())["contents"]
    leaked = read_prepared(data).test[0]
    name = f"train/{leaked.label}/99999.png"
    leaked.open().save(data.folder / name)
    with (data.folder / "metadata.csv").open("a") as file:
        file.write(f"{name},{leaked.label},,train,{leaked.digest}\n")
    with pytest.raises(InputsChanged, match=f"added {name}"):
        list(execute(config_of(tmp_path, data, "second", contents=seal)))
    message = failure(config_of(tmp_path, data, "third"))  # it knows of no other content
    assert f"{leaked.name} (as {name})" in message


def test_a_training_image_whose_pixels_changed_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    split = read_prepared(data)
    split.test[0].open().save(data.folder / split.train[0].name)
    with pytest.raises(InputsChanged, match="other pixels"):
        list(execute(config_of(tmp_path, data)))


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_held_out_image_among_the_generated_ones_is_refused(
    tmp_path: Path, data: PreparedClasses, part: str
) -> None:
    leaked = getattr(read_prepared(data), part)[0]
    pictures = drawn((10, 10, 10))
    pictures[leaked.label][7] = leaked.open()
    message = failure(with_generated(tmp_path, data, pictures=pictures))
    assert f"{leaked.name} (as confirm/lora/0000-{leaked.label}-s0/{leaked.label}/00007)" in message


def test_a_generated_image_that_nearly_shows_a_held_out_one_is_counted(
    tmp_path: Path, data: PreparedClasses
) -> None:
    near = read_prepared(data).test[0]
    brighter = near.open().point([min(255, value + 3) for value in range(256)] * 3)
    pictures = drawn((10, 10, 10))
    pictures[near.label][2] = brighter
    config = with_generated(tmp_path, data, pictures=pictures)
    list(execute(config))
    checked = record_of(config)["leak_checked"]
    assert checked["generated_near_held_out"] == 1
    assert checked["generated_near_held_out_names"][0].endswith("/00002")
    assert (checked["real_images"], checked["generated_images"], checked["held_out_images"]) == (30, 30, 30)


def test_generated_images_that_are_gone_name_the_run_to_repeat(tmp_path: Path, data: PreparedClasses) -> None:
    config = with_generated(tmp_path, data)
    (tmp_path / "cache" / config.generated[1].entries[0]).unlink()
    message = failure(config)
    assert "generated/green-0.safetensors" in message
    assert "repeat run confirm/lora/0000-green-s0" in message


def test_a_generator_that_failed_is_named_with_its_reason(tmp_path: Path, data: PreparedClasses) -> None:
    listed = entries(tmp_path / "cache", drawn((10, 10, 10)))
    listed[2] = {"run": "confirm/lora/0000-blue-s0", "label": "blue", "missing": "nan_loss"}
    message = failure(with_generated(tmp_path, data, generated=listed))
    assert "run confirm/lora/0000-blue-s0 drew no images of class 'blue': nan_loss" in message


def test_too_few_generated_images_are_told(tmp_path: Path, data: PreparedClasses) -> None:
    message = failure(with_generated(tmp_path, data, ratio=1.5))
    assert "drew 10 images of class 'red', and 15 are asked for" in message


def test_other_weights_make_another_run(tmp_path: Path, data: PreparedClasses) -> None:
    from safetensors.torch import save_file

    from trainables.classifiers.small_cnn import SmallCnn

    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(SmallCnn(3).state_dict(), weights / "model.safetensors")
    config = config_of(tmp_path, data, "one", training={"weights": str(weights)})
    list(execute(config))
    seal = json.loads((Path(config.output_dir) / "run.json").read_text())["contents"]
    assert set(seal) == {"data", "weights"}
    torch.manual_seed(5)
    save_file(SmallCnn(3).state_dict(), weights / "model.safetensors")
    with pytest.raises(InputsChanged, match=r"weights .*changed model\.safetensors"):
        list(execute(config_of(tmp_path, data, "two", training={"weights": str(weights)}, contents=seal)))
    moved = tmp_path / "moved"
    weights.rename(moved)
    one, other = (
        config_of(tmp_path, data, training={"weights": str(place)}, contents=seal)
        for place in (weights, moved)
    )
    assert one.digest() == other.digest()
