"""The words of a subject in whose place a placeholder stands: how they are told, and what is refused or noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import StableDiffusionPipeline

from benchmarks.support.tiny_models import make_photos
from study.generate import draw_images
from study.preflight.checks import check_prompts
from study.preflight.method_checks import check_methods
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.training_runs import MakeConfig
from trainables.errors import UserError
from trainables.methods.textual_inversion import METHOD, TextualInversionConfig
from trainables.models.backbone import Backbone
from trainables.run.checks import check_run
from trainables.run.execute import execute
from trainables.run.prompt_checks import find_cut_prompts_of_run
from trainables.run_config import RunConfig

NAME = METHOD.name


def settled(instance: str, plain: str, **fields: Any) -> TextualInversionConfig:
    return TextualInversionConfig(**fields).for_subject(instance, plain)


# What is told


@pytest.mark.parametrize(
    ("instance", "plain", "fields", "first"),
    [
        ("a photo of sks dog", "a photo of a dog", {}, "a photo of a <sks>"),
        ("a photo of sks dog", "a photo of dog", {"keep_class_noun": True}, "a photo of a <sks> dog"),
        ("a photo of a sks dog", "a dog", {}, "a photo of a <sks>"),
        ("a photo of <sks> dog", "a photo of a dog", {}, "a photo of a <sks> dog"),
        ("a sks dog on grass", "a dog on grass", {}, "a photo of a <sks> on grass"),
        ("a sks dog", "a dog", {}, "a photo of a <sks>"),
    ],
)
def test_templates_show_what_begins_with_the_placeholder(
    instance: str, plain: str, fields: dict[str, Any], first: str
) -> None:
    prompts = settled(instance, plain, **fields).training_prompts(instance)
    assert prompts[0] == first
    assert len(prompts) == 27
    assert not [prompt for prompt in prompts if "a a " in prompt or prompt.count("photo of") > 1]


@pytest.mark.parametrize(
    ("instance", "plain", "fields", "spoken", "begins"),
    [
        ("a sks dog on grass", "a dog on grass", {}, "a <sks> on grass", "dog"),
        ("a sks dog on grass", "a dog on grass", {"keep_class_noun": True}, "a <sks> dog on grass", "dog"),
        ("a <sks> on grass", "a dog on grass", {}, "a <sks> on grass", "dog"),
        ("sks in the snow", "a dog in the snow", {}, "<sks> in the snow", "dog"),
        ("a photo of sks", "a photo of a dog", {}, "a photo of <sks>", "dog"),
        ("a photo of sks dog.", "a photo of a dog.", {}, "a photo of <sks>.", "dog"),
        ("sks dog, outdoors", "dog, outdoors", {}, "<sks>, outdoors", "dog"),
        ("a sks stuffed animal", "a stuffed animal", {}, "a <sks>", "animal"),
        ("a drawing by <sks>", "a drawing", {}, "a drawing by <sks>", "drawing"),
        ("my <sks> cat by the sea", "one cat at home", {}, "my <sks> cat by the sea", "cat"),
        (
            "a sks drawing of a house",
            "a drawing of a house",
            {"learnable_property": "style"},
            "a drawing in the style of <sks> of a house",
            "drawing",
        ),
    ],
)
def test_the_noun_is_what_follows_or_what_the_class_has_there(
    instance: str, plain: str, fields: dict[str, Any], spoken: str, begins: str
) -> None:
    config = settled(instance, plain, num_vectors=2, **fields)
    assert config.reword(instance) == spoken
    assert config.initial_texts == (begins, begins)


SITTING = ("a sks dog sitting on grass", "a dog sitting on grass")


@pytest.mark.parametrize(
    ("prompts", "fields", "remedy"),
    [
        (SITTING, {}, "keep_class_noun: true and initializer_token"),
        (SITTING, {"initializer_token": "dog"}, "write keep_class_noun: true$"),
        (SITTING, {"keep_class_noun": True}, "write initializer_token"),
        (
            SITTING,
            {"learnable_property": "style", "initializer_token": "dog"},
            "<sks> in the instance prompt$",
        ),
        (("a photo of a cat sks", "a photo of a cat"), {}, "write initializer_token"),
        (("a sks down jacket", "a down jacket"), {}, "write initializer_token"),
    ],
)
def test_a_noun_that_cannot_be_told_is_asked_for(
    prompts: tuple[str, str], fields: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(UserError, match=f"which words name the class cannot be told.*{remedy}"):
        settled(*prompts, **fields)


def test_what_is_asked_for_settles_it() -> None:
    config = settled(*SITTING, keep_class_noun=True, initializer_token="dog")
    assert config.reword(SITTING[0]) == "a <sks> dog sitting on grass"
    assert config.initial_texts == ("dog",)
    assert config.subject_notes == ()
    config = settled("a photo of a cat sks", "a photo of a cat", initializer_token="cat")
    assert config.reword("a photo of a cat sks") == "a photo of a cat <sks>"


def with_prompts(config: RunConfig, instance: str, plain: str) -> RunConfig:
    subject = config.subject.model_copy(update={"instance_prompt": instance, "class_prompt": plain})
    return config.model_copy(update={"subject": subject})


def test_a_noun_of_several_words_is_noted(make_config: MakeConfig) -> None:
    config = with_prompts(make_config(NAME), "a sks stuffed animal", "a stuffed animal")
    (note,) = find_cut_prompts_of_run(config).notes
    assert note.startswith(
        "subject 'cat': 'stuffed animal' is taken for the noun of the class, <sks> takes its"
    )
    assert "begins as 'animal'" in note
    assert find_cut_prompts_of_run(make_config(NAME)).notes == []
    kept = with_prompts(make_config(NAME, keep_class_noun=True), "a sks stuffed animal", "a stuffed animal")
    (note,) = find_cut_prompts_of_run(kept).notes
    assert "takes its place" not in note


# A placeholder within other words


def test_an_added_word_is_found_within_others(backbone: Backbone) -> None:
    """As in every tokenizer of transformers, so that placeholders are refused that occur elsewhere."""
    known = len(backbone.tokenizers[0])
    backbone.add_tokens({"arpet": "cat"})
    for text in ("a carpet", "a CARPET"):
        assert known in backbone.tokenize([text])["input_ids"][0].tolist()


@pytest.mark.parametrize(
    ("placeholder", "fields", "said"),
    [
        ("arpet", {}, "'arpet' is found in class_prompt 'a red carpet'"),
        ("Arpet", {}, "'Arpet' is found in class_prompt 'a red carpet'"),
        ("beac", {}, "'beac' is found in the evaluation prompt '{subject} on a sandy beach"),
        ("lose-up", {}, "'lose-up' is found in the training prompt 'a close-up photo"),
        ("lose-up", {"learnable_property": None}, None),
        ("wit", {"captions": "files"}, "'wit' is found in the training prompt 'a wit with "),
        ("wit", {}, None),
        ("<sks>", {}, None),
    ],
)
def test_a_placeholder_that_occurs_in_another_prompt_is_refused(
    placeholder: str, fields: dict[str, Any], said: str | None, make_config: MakeConfig
) -> None:
    config = make_config(NAME, placeholder_token=placeholder, initializer_token="cat", **fields)
    if "arpet" in placeholder.lower():
        config = with_prompts(config, "a sks red carpet", "a red carpet")
    problems = [problem for problem in check_run(config) if "is found in" in problem]
    if said is None:
        assert problems == []
    else:
        assert said in problems[0]


# What a study is told


def study(folder: Path, *arms: dict[str, Any]) -> StudySpec:
    photos = make_photos(folder / "photos", count=4, size=(80, 80))
    for path in photos.glob("*.png"):
        path.with_suffix(".txt").write_text("a picture of a cat")
    content = {
        "name": "words",
        "subjects": [
            {
                "name": name,
                "images": str(photos),
                "instance_prompt": f"a sks {name}",
                "class_prompt": f"a {name}",
            }
            for name in ("cat", "dog")
        ],
        "arms": {f"arm-{number}": {"search_space": "fixed", **arm} for number, arm in enumerate(arms)},
        "confirm": {"seeds": [1]},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return load_study(folder / "study.yaml")


def test_captions_that_another_arm_reads_need_not_name_the_subject(tmp_path: Path) -> None:
    lora = {"method": "lora", "captions": "files"}

    def problems(*arms: dict[str, Any]) -> list[str]:
        return [problem for found in check_prompts(study(tmp_path, *arms)) for problem in found.problems]

    assert problems(lora, {"method": NAME}) == []
    own = problems(lora, {"method": NAME, "captions": "files"})
    assert own
    assert all("'a picture of a cat' does not hold 'sks'" in problem for problem in own)


def test_too_many_vectors_for_the_templates_are_told_before_a_launch(tmp_path: Path) -> None:
    arm = {"method": NAME, "learnable_property": "object"}
    assert check_methods(study(tmp_path, arm | {"num_vectors": 4})) == []
    one, other = check_methods(study(tmp_path, arm | {"num_vectors": 30}))
    assert "num_vectors: the training prompt 'a photo of a <sks> cat' has" in one
    assert "num_vectors: the training prompt 'a photo of a <sks> dog' has" in other


# Images of a run


def test_generated_images_are_asked_for_in_the_words_of_the_method(
    make_config: MakeConfig,
    resident: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = f"confirm/{NAME}/0000-cat-s1"
    config = make_config(NAME, f"storage/words/runs/{run}", num_vectors=2)
    assert list(execute(config, resident))[-1].data["state"] == "COMPLETE"
    drawn: list[str] = []
    original = StableDiffusionPipeline.__call__

    def call(self: Any, prompt: list[str], **arguments: Any) -> Any:
        drawn.extend(prompt)
        return original(self, prompt, **arguments)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", call)
    capsys.readouterr()
    prompts = ["{subject} in a city", "a sks cat on the moon", "a <sks> at night", "a sks dog"]
    draw_images(Storage(tmp_path / "storage", "words"), run, prompts, tmp_path / "out", count=1, steps=1)
    assert drawn == ["a <sks> in a city", "a <sks> on the moon", "a <sks> at night", "a sks dog"]
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert "nothing that was learnt is in a prompt: 'a sks dog' does not hold 'sks cat'" in note
