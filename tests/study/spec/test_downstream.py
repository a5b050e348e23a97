"""The section `downstream` of a study file: what follows from it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from study.spec.difference import not_taken
from study.spec.downstream import REAL, DownstreamSpec, cells_of
from study.spec.downstream_plan import DownstreamPlan, total_runs
from study.spec.loading import load_study, read_contents
from study.spec.study_spec import RECORDED, StudySpec
from study.storage.layout import Storage
from study.storage.run_key import DOWNSTREAM, DOWNSTREAM_SEARCH, RunKey
from tests.helpers.class_folders import class_folder, flat_folder
from tests.helpers.downstream_studies import downstream_study, study_file
from tests.helpers.image_folders import picture
from tests.helpers.small_studies import small_study
from trainables.classifier_run_config import ClassifierRunConfig
from trainables.errors import UserError
from trainables.evaluation.prepared_classes import prepared_at, read_prepared


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "prepared"))


def problems_of(path: Path) -> list[str]:
    with pytest.raises(UserError) as raised:
        load_study(path)
    return list(raised.value.problems)


def test_classes_are_the_subjects_and_generator_seeds_those_of_fine_tuning(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    assert [subject.name for subject in spec.subjects] == ["cat", "dog", "owl"]
    assert spec.confirm.subjects == ("cat", "dog", "owl")
    assert spec.confirm.seeds == (100, 101)
    cat = spec.subjects[0]
    assert (cat.instance_prompt, cat.class_prompt) == ("photo of sks cat", "photo of cat")
    assert cat.images is not None
    assert cat.images.endswith("/train/cat")
    assert cat.references is not None
    assert cat.references.endswith("/validation/cat")


def test_no_run_that_fine_tunes_is_given_a_test_image_nor_trains_on_a_validation_image(
    tmp_path: Path,
) -> None:
    spec = downstream_study(tmp_path)
    assert spec.downstream is not None
    assert spec.downstream.prepared is not None
    prepared = prepared_at(Path(spec.downstream.prepared))
    data = read_prepared(prepared)
    held_out = {image.digest for image in data.held_out}
    storage = Storage(tmp_path / "storage", spec.name)
    for key in spec.confirm_keys("lora", 0):
        config = spec.run_config(key, {}, storage)
        named = {Path(folder) for folder in config.subject.folders.values()}
        assert named == {
            prepared.folder / "train" / key.subject,
            prepared.folder / "validation" / key.subject,
        }
        assert config.subject.images == str(prepared.folder / "train" / key.subject)
        trained = {image.digest for image in data.train if image.label == key.subject}
        assert trained
        assert not trained & held_out


def test_every_image_of_a_class_that_a_cell_takes_is_drawn(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path, ratios=[0.5, 3, "balance"])
    storage = Storage(tmp_path / "storage", spec.name)
    counts = prepared_at(Path(spec.downstream.prepared)).counts["train"]  # type: ignore[union-attr, arg-type]
    for key in spec.confirm_keys("lora", 0):
        generation = spec.run_config(key, {}, storage).generation
        assert generation is not None
        assert generation.images == {
            key.subject: max(3 * counts[key.subject], max(counts.values()) - counts[key.subject])
        }
        assert generation.prompts == {key.subject: f"photo of sks {key.subject}"}


def test_classes_of_which_nothing_is_generated_are_not_fine_tuned(tmp_path: Path) -> None:
    class_folder(tmp_path / "data", {"cat": 12, "dog": 12, "owl": 6})
    spec = load_study(study_file(tmp_path, tmp_path / "data", ratios=["balance"], generated_only=False))
    assert [subject.name for subject in spec.subjects] == ["owl"]


@pytest.mark.parametrize("grouped", [False, True])
def test_one_model_of_all_classes_learns_captions(tmp_path: Path, grouped: bool) -> None:
    from study.preflight.checks import check_study

    if grouped:
        rows = [[label, f"g{number}"] for label in ("cat", "dog", "owl") for number in range(6)]
        flat_folder(tmp_path / "data", ["class", "group"], rows)
    else:
        class_folder(tmp_path / "data", {"cat": 12, "dog": 12, "owl": 6})
    path = study_file(tmp_path, tmp_path / "data", models="one", ratios=[1])
    path.write_text(path.read_text().replace("method: lora", "method: text_to_image"))
    spec = load_study(path)
    (subject,) = spec.subjects
    assert subject.dataset is not None
    assert subject.dataset.group_column == ("group" if grouped else None)
    assert not [problem for problem in check_study(spec) if "group" in problem or "caption" in problem]
    config = spec.run_config(
        RunKey("confirm", "lora", 0, subject.name, 100), {}, Storage(tmp_path / "s", spec.name)
    )
    assert config.generation is not None
    assert config.generation.prompts == {name: f"photo of {name}" for name in ("cat", "dog", "owl")}


def test_cells_differ_in_what_they_learn_from_alone_and_have_one_search_budget(tmp_path: Path) -> None:
    spec = downstream_study(
        tmp_path,
        classifiers=["small_cnn", "resnet18"],
        losses=["cross_entropy", "focal"],
        filters=["none", "confidence"],
        real_shares=[0.5],
    )
    plan = DownstreamPlan(spec)
    sources = [
        REAL, "augmented", "repeated", "real-50pct", "lora-x1", "lora-x1-confidence", "lora-balance",
        "lora-balance-confidence", "lora-only", "lora-only-confidence",
    ]  # fmt: skip
    assert list(dict.fromkeys(arm.cell.source for arm in plan.arms.values())) == sources
    assert len(plan.arms) == len(sources) * 2 * 2
    storage = Storage(tmp_path / "storage", spec.name)
    for name in plan.arms:
        assert plan.trials_of(name) == 2
        assert plan.space(name) == plan.space(next(iter(plan.arms)))
        (key,) = plan.search_keys(name, 1)
        assert key.phase == DOWNSTREAM_SEARCH
        assert key.seed not in spec.downstream.seeds
        config = plan.run_config(key, {"learning_rate": 0.01}, storage)
        assert not config.judged  # test images choose nothing
        assert (config.training.max_train_steps, config.training.learning_rate) == (4, 0.01)
        finals = plan.confirm_keys(name, 1)
        generators = {key.subject for key in finals}
        expected = {"real"} if plan.arms[name].cell.generator is None else {"g100", "g101"}
        assert generators == expected
        assert len(finals) == 2 * len(expected)
        assert all(plan.run_config(key, {}, storage).judged for key in finals)
    assert total_runs(spec) == spec.number_of_runs() + plan.number_of_runs()
    assert plan.planned()["real.small_cnn.focal", DOWNSTREAM] == 2


def test_what_is_learnt_from_is_in_the_configuration(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path, generated_share=0.5)
    plan, storage = DownstreamPlan(spec), Storage(tmp_path / "storage", spec.name)

    def config(cell: str, subject: str) -> ClassifierRunConfig:
        return plan.run_config(RunKey(DOWNSTREAM, cell, 0, subject, 0), {}, storage)

    real, only = config("real.small_cnn", "real"), config("lora-only.small_cnn", "g100")
    assert (real.training.generated_probability, real.generated, real.ratio) == (0, (), None)
    assert (only.training.generated_probability, only.real_share, only.generator_seed) == (1, 0, 100)
    mixed = config("lora-x1.small_cnn", "g101")
    assert (mixed.training.generated_probability, mixed.proportional, mixed.ratio) == (0.5, False, 1)
    assert all(one.missing for one in mixed.generated)  # nothing has been trained
    assert config("repeated.small_cnn", "real").training.sampling == "balanced"
    assert config("augmented.small_cnn", "real").training.augmentation is not None


def test_identity_is_that_of_the_images_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = downstream_study(tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "other"))
    again = load_study(study_file(tmp_path / "b", tmp_path / "elsewhere"))
    first, again = (one.with_contents(read_contents(one)) for one in (first, again))
    assert first.digest() == again.digest()
    claims = {"none": {"says": "no gain", "predicts": "equivalent"}}
    judged = load_study(study_file(tmp_path / "c", tmp_path / "elsewhere", margin=0.05, claims=claims))
    assert judged.with_contents(read_contents(judged)).digest() == first.digest()  # no run depends on these
    picture(99, (32, 32)).save(tmp_path / "elsewhere" / "cat" / "99.png")
    more = load_study(study_file(tmp_path / "d", tmp_path / "elsewhere"))
    assert more.with_contents(read_contents(more)).digest() != first.digest()


def test_claims_and_the_margin_of_the_first_launch_count_and_a_change_is_told(tmp_path: Path) -> None:
    def stated(folder: str, margin: float, **claims: str) -> StudySpec:
        whole = {name: {"says": "it helps", "predicts": predicts} for name, predicts in claims.items()}
        return load_study(study_file(tmp_path / folder, data, margin=margin, claims=whole))

    downstream_study(tmp_path)
    data = tmp_path / "data"
    record = json.loads(json.dumps(stated("a", 0.02, kept="better", gone="worse").record()))
    assert not_taken(record, stated("b", 0.02, kept="better", gone="worse")) == []
    told = not_taken(record, stated("c", 0.05, kept="worse", new="equivalent"))
    assert [line.partition(" is not taken")[0] for line in told if "claims" not in line] == [
        "downstream.margin: 0.02 -> 0.05"
    ]
    gone, kept, new = (line for line in told if "claims" in line)
    assert kept.startswith('downstream.claims.kept.predicts: "better" -> "worse" is not taken')
    assert gone.startswith('downstream.claims.gone: {"says": "it helps", ')
    assert gone.partition(" is not taken")[0].endswith("-> (absent)")
    assert new.startswith("downstream.claims.new: (absent) -> {")


def test_a_record_reads_back_and_studies_without_the_phase_do_not_name_it(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    record = json.loads(json.dumps(spec.with_contents(read_contents(spec)).record()))
    assert StudySpec.from_record(record).downstream == spec.downstream
    assert StudySpec.model_validate(record["spec"], context=RECORDED).subjects == spec.subjects
    other = small_study()
    assert "downstream" not in other.model_dump(mode="json")
    assert "downstream" not in other.identity()


BAD_DATA: list[tuple[dict[str, int], dict[str, Any], str]] = [
    ({"cat": 9, "dog": 1}, {}, "class 'dog' has 1 image"),
    ({"cat": 9, "dog": 2}, {}, "class 'dog' has 2 images"),
    ({"cat": 9}, {}, "at least two classes are needed"),
]


@pytest.mark.parametrize(("counts", "section", "told"), BAD_DATA)
def test_data_sets_that_cannot_be_split_are_refused_and_nothing_is_written(
    tmp_path: Path, counts: dict[str, int], section: dict[str, Any], told: str
) -> None:
    path = study_file(tmp_path, class_folder(tmp_path / "data", counts), **section)
    problems = problems_of(path)
    (problem,) = problems
    assert told in problem
    assert "downstream.dataset" in problem
    assert not (tmp_path / "prepared").exists()


def test_a_class_missing_in_test_groups_that_span_splits_and_unknown_labels_are_refused(
    tmp_path: Path,
) -> None:
    rows = [["cat", "g", "train"], ["cat", "h", "validation"], ["cat", "i", "test"]]
    rows += [["dog", "g", "validation"], ["dog", "j", "train"], ["dog", "k", "train"]]
    folder = flat_folder(tmp_path / "data", ["class", "group", "split"], rows)
    problems = problems_of(study_file(tmp_path, folder))
    assert any("classes without an image in test: 'dog'" in problem for problem in problems)
    assert any("groups that span several parts" in problem and "'g'" in problem for problem in problems)
    folders = class_folder(tmp_path / "other", {"cat": 9, "dog": 9})
    problems = problems_of(study_file(tmp_path, {"path": str(folders), "classes": ["cat", "cow"]}))
    assert any("'dog'" in problem or "'cow'" in problem for problem in problems), problems
    assert not (tmp_path / "prepared").exists()


BAD_SECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"ratios": [0]}, "downstream.ratios"),
    ({"ratios": [-1]}, "downstream.ratios"),
    ({"ratios": [1, 1]}, "each value once"),
    ({"ratios": [0.01]}, "generates no image of any class"),
    ({"ratios": ["balance"]}, "generates no image of any class"),
    ({"generated_classes": ["cow"]}, "no class 'cow'"),
    ({"filters": []}, "downstream.filters"),
    ({"claims": {"x": {"says": "y", "predicts": "better", "sources": []}}}, "downstream.claims.x.sources"),
    (
        {
            "claims": {
                "x": {"says": "y", "predicts": "better", "sources": ["repeated"], "against": "repeated"}
            }
        },
        "against itself",
    ),
    ({"real_shares": [0.5, 0.5000001]}, "take values that differ by more"),
    ({"ratios": [], "generated_only": False}, "no cell has generated images"),
    ({"classifiers": ["resnet19"]}, "'resnet19' is no classifier"),
    ({"classifiers": ["small_cnn", "small_cnn"]}, "two have one name"),
    ({"classifiers": []}, "downstream.classifiers"),
    ({"trials": 9}, "9 trials of 2 combinations"),
    ({"validation_steps": 9}, "above max_train_steps"),
    ({"real_shares": [1]}, "'real', which every study has"),
    ({"losses": ["hinge"]}, "downstream.losses"),
    ({"filters": [{"kind": "near_copies", "threshold": 0.7}]}, "no effect"),
    ({"seeds": [0, 0]}, "each value once"),
    ({"generated_share": 1.5}, "downstream.generated_share"),
    ({"claims": {"x": {"says": "y", "predicts": "better", "sources": ["lora-x7"]}}}, "'lora-x7'"),
    ({"claims": {"x": {"says": "y", "predicts": "better", "classifiers": ["vit"]}}}, "no classifier 'vit'"),
    ({"claims": {"x": {"says": "y", "predicts": "better", "against": "dreams"}}}, "'dreams'"),
    ({"dataset": "/nowhere/at/all"}, "no such folder"),
    ({"sede": [1]}, "sede"),
]


@pytest.mark.parametrize(("section", "told"), BAD_SECTIONS, ids=[str(bad) for bad, _ in BAD_SECTIONS])
def test_sections_that_cannot_be_meant_are_refused(
    tmp_path: Path, section: dict[str, Any], told: str
) -> None:
    data = class_folder(tmp_path / "data", {"cat": 6, "dog": 6})
    path = study_file(tmp_path, section.pop("dataset", data), **section)
    problems = problems_of(path)
    assert any(told in problem for problem in problems), problems
    assert not any("subjects" in problem.split(":")[1] for problem in problems if ":" in problem), problems


def test_subjects_and_seeds_of_ones_own_are_refused_beside_it(tmp_path: Path) -> None:
    path = study_file(tmp_path, class_folder(tmp_path / "data", {"cat": 6, "dog": 6}))
    path.write_text(path.read_text() + "subjects: [cat-1]\nconfirm: {seeds: [7]}\n")
    problems = problems_of(path)
    assert any("its data set are the subjects" in problem for problem in problems), problems
    assert any("confirm.seeds" in problem and "generator_seeds" in problem for problem in problems), problems


def test_images_of_several_sizes_are_taken_and_told(tmp_path: Path) -> None:
    from study.preflight.notes import study_notes

    data = class_folder(tmp_path / "data", {"cat": 8, "dog": 8})
    picture(50, (48, 40)).save(data / "cat" / "50.png")
    notes = study_notes(load_study(study_file(tmp_path, data)))
    assert any(
        "downstream.dataset: images are of 2 sizes, from 48 x 40 to 64 x 64" in note for note in notes
    ), notes


def test_weights_of_classes_are_no_loss_of_their_own_where_classes_are_drawn_alike(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path, losses=["cross_entropy", "weighted_cross_entropy"])
    names = set(DownstreamPlan(spec).arms)
    assert "repeated.small_cnn.cross_entropy" in names
    assert "repeated.small_cnn.weighted_cross_entropy" not in names
    assert "real.small_cnn.weighted_cross_entropy" in names


def test_a_folder_that_is_not_here_is_told_before_a_launch_where_its_classes_are_stated(
    tmp_path: Path,
) -> None:
    from study.preflight.checks import check_study

    dataset = {"path": str(tmp_path / "gone"), "classes": ["cat", "owl"]}
    spec = load_study(study_file(tmp_path, dataset))
    assert [subject.name for subject in spec.subjects] == ["cat", "owl"]
    assert any("gone/cat: no such folder" in problem for problem in check_study(spec))


def test_what_is_wrong_with_images_is_told_beside_what_is_wrong_with_the_section(tmp_path: Path) -> None:
    data = class_folder(tmp_path / "data", {"cat": 9, "dog": 1})
    problems = problems_of(study_file(tmp_path, data, ratios=[0], classifiers=["resnet19"]))
    assert sum("0 is no ratio" in problem for problem in problems) == 1, problems
    assert any("'resnet19' is no classifier" in problem for problem in problems)
    assert any("class 'dog' has 1 image" in problem for problem in problems)


def test_nothing_is_prepared_for_a_study_that_is_refused(tmp_path: Path) -> None:
    path = study_file(tmp_path, class_folder(tmp_path / "data", {"cat": 6, "dog": 6}))
    path.write_text(path.read_text().replace("method: lora", "method: lara"))
    assert any("unknown method 'lara'" in problem for problem in problems_of(path))
    assert not (tmp_path / "prepared").exists()


def test_captions_are_learnt_by_one_model_of_all_classes_alone(tmp_path: Path) -> None:
    path = study_file(tmp_path, class_folder(tmp_path / "data", {"cat": 6, "dog": 6}))
    path.write_text(path.read_text().replace("method: lora", "method: text_to_image"))
    assert any("set downstream.models: one" in problem for problem in problems_of(path))


def test_a_damaged_prepared_folder_is_replaced(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    assert spec.downstream is not None
    folder = Path(spec.downstream.prepared or "")
    (folder / "classes.json").write_text('{"classes": ')
    again = downstream_study(tmp_path)
    assert again == spec
    assert prepared_at(folder).classes == ("cat", "dog", "owl")


def test_rare_classes_alone_may_be_generated(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path, generated_classes=["owl"])
    assert [subject.name for subject in spec.subjects] == ["owl"]
    storage = Storage(tmp_path / "storage", spec.name)
    config = DownstreamPlan(spec).run_config(
        RunKey(DOWNSTREAM, "lora-x1.small_cnn", 0, "g100", 0), {}, storage
    )
    assert [one.label for one in config.generated] == ["owl"]


def test_filters_of_one_kind_are_told_apart_by_their_thresholds(tmp_path: Path) -> None:
    filters = ["none", "confidence", {"kind": "confidence", "threshold": 0.75}]
    plan = DownstreamPlan(downstream_study(tmp_path, filters=filters))
    assert {"lora-x1-confidence50.small_cnn", "lora-x1-confidence75.small_cnn"} <= set(plan.arms)


def test_two_cells_of_one_name_are_refused(tmp_path: Path) -> None:
    data = class_folder(tmp_path / "data", {"cat": 6, "dog": 6})
    path = study_file(tmp_path, data, ratios=[1], generated_only=True)
    path.write_text(
        path.read_text().replace("  lora:", "  real:").replace("ratios:\n  - 1", "ratios:\n  - 1")
    )
    spec = load_study(path)  # an arm may be called real: its cells have what they take in their names
    assert "real-x1.small_cnn" in DownstreamPlan(spec).arms
    section = DownstreamSpec.model_validate({"dataset": "digits", "classifiers": ["small_cnn"]})
    assert len({cell.name for cell in cells_of(section, ("a", "b"))}) == len(cells_of(section, ("a", "b")))
