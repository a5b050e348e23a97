"""What a report says of generated images, on studies of which the truth is known."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from study.report.build import build_report
from study.report.comparisons import Settings
from study.report.content import Report, Section
from study.report.downstream_analysis import Findings, analyse_downstream, confusion_of
from study.report.downstream_data import phase_of, whole_grid
from study.report.prepared import prepare
from study.report.sections import compose
from study.results.csv_files import read_csv
from study.results.frames import Results
from study.results.from_folders import local_results
from study.spec.downstream import DownstreamSpec
from tests.helpers.downstream_runs import CLASSES, GENERATORS, world_of, write_study
from tests.helpers.made_reports import cells, table
from tests.helpers.synthetic_results import Study, make_results
from trainables.events import PREDICTIONS

QUICK = Settings(resamples=300)
SMALL = {"seeds": (0, 1, 2), "trials": 1, "generated_only": False, "claims": {}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return local_results(write_study(tmp_path_factory.mktemp("storage"), world_of()))


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return compose(results, QUICK)


def section_of(report: Report) -> Section:
    return next(one for one in report.sections if one.key == "downstream")


def made(folder: Path, **fields: object) -> Report:
    stated = {**SMALL, **fields}
    generators = stated.pop("generators", ("copies",))
    return compose(local_results(write_study(folder, world_of(generators, **stated))), QUICK)  # type: ignore[arg-type]


# ------------------------------------------------------------------ known answers


def test_copies_help_noise_does_not_and_wrong_classes_harm(report: Report) -> None:
    gains = table(report, "downstream-gains")
    for score in ("accuracy", "balanced_accuracy"):
        verdicts = dict(zip(cells(gains, "source"), cells(gains, f"{score}_verdict"), strict=True))
        assert verdicts["copies-x10"] == "better"
        assert verdicts["noise-x10"] in ("equivalent", "not enough")
        assert verdicts["wrong-x10"] == "worse"
        assert verdicts["wrong-only"] == "worse"
    assert "better in 1 of 3 cases, worse in 1 and not decided in 1" in report.verdict.headline
    assert "better than real images alone with copies-x10" in report.verdict.points[0]


def test_claims_are_judged_by_what_was_found(report: Report) -> None:
    claims = table(report, "downstream-claims")
    told = zip(cells(claims, "name"), cells(claims, "ruling"), cells(claims, "expected"), strict=True)
    assert list(told) == [
        ("copies-beat-wrong", "supported", "better than wrong-x10 in accuracy"),
        ("more-is-better", "supported", "better than real in accuracy"),
        ("no-use", "refuted: better with copies-x10", "equivalent to real in accuracy"),
        ("wrong-never-helps", "supported", "not better than real in accuracy"),
    ]
    assert any("3 supported and 1 refuted" in words for words in section_of(report).paragraphs)


def test_a_claim_on_what_has_no_runs_is_not_measured(tmp_path: Path) -> None:
    claim = {"says": "It helps", "predicts": "better", "sources": ("copies-x10", "copies-x1")}
    none = frozenset(
        f"downstream/copies-x1.resnet18/0001-g{g}-s{s}" for g in (100, 101, 102) for s in (0, 1, 2)
    )
    alone = {**claim, "sources": ("copies-x1",)}
    claims = {"both": claim, "one": alone}
    found = table(made(tmp_path, ratios=(1.0, 10.0), left_out=none, claims=claims), "downstream-claims")
    assert cells(found, "ruling")[1] == "not measured: no runs of copies-x1"
    assert cells(found, "ruling")[0] == "not decided; without copies-x1"  # what is missing might refute it


def test_numbers_are_those_of_the_runs(results: Results, report: Report) -> None:
    assert results.downstream is not None
    final = results.downstream.runs.query("phase == 'downstream'")
    means = final.groupby("source")["accuracy"].mean().to_dict()
    real, copies = means["real"], means["copies-x10"]
    found = table(report, "downstream")
    place = [column.key for column in found.columns].index("accuracy")
    values = {row[0].text: row[place] for row in found.rows}
    assert values["real"].value == pytest.approx(real)
    assert values["copies-x10"].value == pytest.approx(copies)
    assert values["copies-x10"].text == f"{100 * copies:.1f}"
    gains = table(report, "downstream-gains")
    place = [column.key for column in gains.columns].index("accuracy_difference")
    first = gains.rows[0][place]
    assert first.value == pytest.approx(copies - real)
    assert first.low is not None
    assert first.high is not None
    assert first.low < copies - real < first.high


def test_confusions_are_sums_over_seeds(results: Results) -> None:
    phase = phase_of(prepare(results))
    assert phase is not None
    real = next(source for source in phase.sources if source.name == "real")
    matrix = confusion_of(phase, real)
    assert matrix is not None
    assert matrix.sum(1).tolist() == [5 * 60, 5 * 50, 5 * 40]
    found = analyse_downstream(phase, QUICK)
    assert isinstance(found, Findings)
    recall = found.mean_table(real, "recall:2")
    assert recall is not None
    assert recall.values[0].mean() == pytest.approx(matrix[2, 2] / 200)


def test_generators_stand_beside_what_their_images_teach(report: Report) -> None:
    found = table(report, "downstream-generators")
    assert cells(found, "generator") == list(GENERATORS)
    assert cells(found, "vendi") == ["3.50"] * 3
    assert cells(found, "memorisation") == ["25.0"] * 3
    assert cells(found, "images") == ["72"] * 3
    assert cells(found, "near_held_out") == ["25.0", "0.0", "--"]  # the last: not looked for
    assert "whichever it is asked for, comes to 33.3 %" in found.notes[1]


def test_costs_are_of_all_classes_and_a_point_costs_what_was_added(results: Results, report: Report) -> None:
    confirm = results.frame.query("arm == 'copies'")
    tuned = float(confirm.groupby("seed")["train_seconds"].sum().mean())
    found = table(report, "downstream-costs")
    row = next(row for row in found.rows if row[0].text == "copies-x10")
    by_key = {column.key: cell.value for column, cell in zip(found.columns, row, strict=True)}
    assert by_key["tuned_seconds"] == pytest.approx(tuned)
    assert by_key["drawn_seconds"] == pytest.approx(12)  # 3 classes of 4 s; all images are taken
    gains = table(report, "downstream-gains")
    place = [column.key for column in gains.columns].index("accuracy_difference")
    points = 100 * float(gains.rows[0][place].value or 0)
    assert by_key["point_seconds"] == pytest.approx((tuned + 12) / points)
    worse = next(row for row in found.rows if row[0].text == "wrong-x10")
    assert worse[[column.key for column in found.columns].index("point_seconds")].text == "--"


def test_the_test_set_says_what_it_can_show(report: Report) -> None:
    words = next(
        words for words in section_of(report).paragraphs if words.startswith("150 test images resolve")
    )
    assert "points of accuracy between two trained classifiers on the same images" in words
    assert "points if each classifier had such a number of test images of its own" in words


def test_the_study_s_own_intervals_are_told_beside_it(results: Results, report: Report) -> None:
    phase = phase_of(prepare(results))
    assert phase is not None
    found = analyse_downstream(phase, QUICK)
    assert found is not None
    own = [gain for source in found.generated if (gain := found.gain(source, "accuracy"))]
    halves = [50 * (gain.estimate.high - gain.estimate.low) for gain in own]  # type: ignore[operator]
    shares = [100 * (1 - gain.found.of_images / gain.found.error**2) for gain in own]
    (words,) = (words for words in section_of(report).paragraphs if words.startswith("The intervals here"))
    assert f"are ±{min(halves):.1f} to ±{max(halves):.1f} points wide" in words
    assert f"of the variance {min(shares):.0f} to {max(shares):.0f} % is of the seeds" in words


def test_a_learning_curve_tells_gains_as_real_images(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        real_shares=(0.5, 2.0),
        seeds=(0, 1, 2, 3),
        classifiers=("resnet18", "vit"),
        ratios=(1.0, 10.0),
    )
    worth = table(found, "downstream-worth")
    assert cells(worth, "source") == ["copies-x1", "copies-x10"]
    assert "from −6 to 12 images more" in worth.notes[0]
    assert "the chance of that choice is not in the interval" in worth.notes[0]
    figures = {figure.key for figure in found.figures}
    assert {"downstream-worth", "downstream-ratios", "downstream-gains", "downstream-confusion"} <= figures
    assert "half for their means" in " ".join(table(found, "downstream-gains").notes)
    by_classifier = table(found, "downstream-gains-by-classifier")
    assert cells(by_classifier, "classifier")[:2] == ["resnet18", "vit"]


# ------------------------------------------------------------------ what is amiss


def test_records_prove_equal_lengths(report: Report) -> None:
    assert any(
        "all 95 final runs had alike: 60 optimizer steps, 480 images drawn and a search of the same 2 different "
        "configurations" in words
        for words in section_of(report).paragraphs
    )
    assert not any("Classifiers were not trained alike" in warning for warning in report.verdict.warnings)


def test_unequal_lengths_in_the_records_are_a_warning(tmp_path: Path) -> None:
    found = made(tmp_path, steps={"copies-x10.resnet18": 90})
    said = "Classifiers were not trained alike: optimizer steps differ: 60 (real.resnet18) and 90 (copies-x10.resnet18)"
    assert any(said in warning for warning in found.verdict.warnings)
    assert any(words.startswith("Beware:") and said in words for words in section_of(found).paragraphs)
    assert any(
        "images drawn differ: 480 (real.resnet18) and 720" in warning for warning in found.verdict.warnings
    )


@pytest.mark.parametrize(
    ("tried", "said", "counts"),
    [
        (
            (0.001, 0.001),
            "unlike numbers of different configurations: 1 (copies-x10.resnet18) and 2",
            ["2", "1"],
        ),
        (
            (0.001, 0.01),
            "2 different configurations a cell, but not the same ones: of 3 in all, 1 was tried",
            ["2", "2"],
        ),
    ],
)
def test_searches_are_counted_by_the_different_configurations_that_they_tried(
    tmp_path: Path, tried: tuple[float, ...], said: str, counts: list[str]
) -> None:
    found = made(tmp_path, trials=2, tried={"copies-x10.resnet18": tried})
    (warning,) = (warning for warning in found.verdict.warnings if "Searches of classifiers" in warning)
    assert said in warning
    assert warning.endswith("What differs between these cells may be the better search.")
    assert cells(table(found, "downstream-chosen"), "configurations") == counts


def test_failed_and_missing_runs_are_told_and_seeds_stay_crossed(tmp_path: Path) -> None:
    failed = "downstream/copies-x10.resnet18/0001-g100-s1"
    absent = "downstream/copies-x10.resnet18/0001-g101-s1"
    found = made(tmp_path, failed=frozenset({failed}), left_out=frozenset({absent}), seeds=(0, 1, 2, 3))
    warnings = " ".join(found.verdict.warnings)
    assert f"1 run of classifiers did not complete and is missing: {failed}" in warnings
    assert "1 run of classifiers of 16 has not ended yet" in warnings
    assert "1 complete run of classifiers is left out" in warnings  # of seed 1, with the third generator seed
    assert cells(table(found, "downstream-failures"), "run_key") == [failed]
    assert cells(table(found, "downstream"), "n") == ["4", "9 (3 × 3)"]


def test_few_seeds_have_values_and_no_intervals(tmp_path: Path) -> None:
    found = table(made(tmp_path, seeds=(0, 1), generator_seeds=(100, 101)), "downstream-gains")
    place = [column.key for column in found.columns].index("accuracy_difference")
    assert found.rows[0][place].value is not None
    assert found.rows[0][place].detail == ""
    assert cells(found, "accuracy_verdict") == ["not enough"]


def test_a_study_that_has_just_begun_says_how_many_runs_are_missing(tmp_path: Path) -> None:
    world = world_of(("copies",), **SMALL)
    storage = write_study(tmp_path, world)
    shutil.rmtree(storage.runs / "downstream")
    found = compose(local_results(storage), QUICK)
    words = " ".join(section_of(found).paragraphs)
    assert "No classifier has been judged on test images yet" in words
    assert "12 runs of classifiers of 12 have not ended yet" in words


def test_runs_about_other_test_images_are_left_out_by_name(tmp_path: Path) -> None:
    storage = write_study(tmp_path, world_of(("copies",), **SMALL))
    odd = "downstream/real.resnet18/0001-real-s2"
    path = storage.runs / odd / PREDICTIONS
    path.write_text(path.read_text().replace("test/score-1/00000.png", "test/score-1/other.png"))
    found = compose(local_results(storage), QUICK)
    assert any(
        "left no predictions on the same test images" in w and odd in w for w in found.verdict.warnings
    )
    assert cells(table(found, "downstream"), "n") == ["2", "9 (3 × 3)"]


def test_groups_are_told_of(tmp_path: Path) -> None:
    found = made(tmp_path, groups=5)
    assert any("They are of 30 groups" in words for words in section_of(found).paragraphs)


@pytest.mark.parametrize(
    ("there", "grid"),
    [
        ({(None, 0), (None, 3)}, ((None,), (0, 3))),
        ({(g, s) for g in (1, 2, 3) for s in (0, 1, 2)} - {(1, 1)}, ((1, 2, 3), (0, 2))),
        (
            {(g, s) for g in (1, 2, 3) for s in range(5)} - {(2, s) for s in range(1, 5)},
            ((1, 3), (0, 1, 2, 3, 4)),
        ),
        (set(), ((), ())),
    ],
)
def test_the_whole_grid_leaves_out_seeds_with_gaps(
    there: set[tuple[int | None, int]], grid: tuple[tuple[int | None, ...], tuple[int, ...]]
) -> None:
    assert whole_grid(there) == grid


# ------------------------------------------------------------------ pictures and files


def test_grids_of_classes_are_in_the_section_and_not_in_the_gallery(report: Report) -> None:
    keys = [figure.key for figure in report.figures]
    assert [key for key in keys if key.startswith("downstream-samples")] == [
        f"downstream-samples-{k}" for k in (1, 2, 3)
    ]
    assert len(report.class_shots) == len(GENERATORS) * len(CLASSES)
    assert not any(shot.key.startswith("generated/") for _, shot in report.gallery.kept())
    assert all(key.endswith("-s100") for key, _ in report.class_shots)


def test_a_report_is_rebuilt_from_its_own_data_byte_by_byte(results: Results, tmp_path: Path) -> None:
    one = build_report(results, tmp_path / "one" / "worth").folder
    two = build_report(read_csv(one), tmp_path / "two" / "worth").folder
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(one, two, [str(name) for name in files], shallow=False)[1:] == ([], [])
    page = (one / "report.html").read_text()
    assert 'id="downstream"' in page
    assert "What generated images are worth to a classifier" in (one / "report.md").read_text()
    assert (one / "tables" / "downstream.csv").read_text().count("\n") == 8
    if shutil.which("pdflatex"):
        command = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", "draft.tex")
        done = subprocess.run(command, cwd=one / "paper", capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_study_without_classifiers_says_nothing_of_them() -> None:
    found = compose(make_results(Study(subjects=("dog-1",), seeds=(100,))), QUICK)
    assert not any(section.key == "downstream" for section in found.sections)
    assert not any(name == "Classifiers" for name, _ in found.summary)


def test_a_study_file_of_another_version_is_done_without(results: Results) -> None:
    spec = {**results.meta["spec"], "downstream": {"dataset": 3, "another": "field"}}
    found = compose(replace(results, meta={**results.meta, "spec": spec}), QUICK)
    verdicts = cells(table(found, "downstream-gains"), "accuracy_verdict")
    assert len(verdicts) == 6
    assert found.verdict.headline
    assert (
        f"within ±{100 * DownstreamSpec.model_fields['margin'].default:g} points" in found.verdict.points[0]
    )
