"""The best step of a run: which it is, that its weights are restored bit by bit, and that its result is not chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study.storage.run_result import best_words
from study.tracking.event_metrics import latest_metrics
from tests.helpers.image_folders import captioned
from tests.helpers.training_runs import RESOLUTION, MakeConfig
from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject, resolve_subject
from trainables.errors import UserError
from trainables.evaluation import metrics
from trainables.evaluation.choice import best_step, choosing, judging
from trainables.evaluation.evaluator import evaluate
from trainables.evaluation.prompts import evaluation_templates
from trainables.events import Event, read_events
from trainables.models.backbone import Backbone
from trainables.run import execute as execute_module
from trainables.run.best_step import BestStep
from trainables.run.contents import sealed
from trainables.run.execute import execute
from trainables.run.held_out_checks import templates_asked
from trainables.run.resident import Resident
from trainables.run.run_evaluation import RunEvaluation, prepare_run_evaluation
from trainables.run_config import RunConfig, config_digest
from trainables.training.held_out_loss import HeldOutLoss
from trainables.training.meter import Meter, Phase

AT = (1 / 3, 2 / 3)  # steps 2 and 4 of 6
LOSS, QUALITY = "held_out_loss", "quality"


def restoring(config: RunConfig, by: str | None = LOSS, at: tuple[float, ...] = AT) -> RunConfig:
    return config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"restore_best": by, "at": at})}
    )


def result_of(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def weights_of(config: RunConfig) -> list[bytes]:
    found = sorted((Path(config.output_dir) / "weights").rglob("*.safetensors"))
    assert found
    return [path.read_bytes() for path in found]


def kept(config: RunConfig) -> list[str]:
    return sorted(path.name for path in (Path(config.output_dir) / "checkpoint").glob("best-*"))


def until(config: RunConfig, resident: Resident, kind: str, step: int) -> None:
    """Breaks a run off after an event."""
    events = execute(config, resident)
    for event in events:
        if event.kind == kind and event.step == step:
            break
    else:
        raise AssertionError(f"no {kind} at {step}")
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())


@pytest.fixture
def worse_and_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every evaluation worse than the one at step 2, by the number of those that came before it in the run."""

    def fall(self: RunEvaluation, backbone: Backbone, **arguments: Any) -> Any:
        result = original(self, backbone, **arguments)
        moved = sum(float(value.detach().abs().sum()) for value in _trained(backbone))
        return type(result)(**{**vars(result), "metrics": {**result.metrics, LOSS: moved, QUALITY: -moved}})

    def fall_at_the_end(self: RunEvaluation, backbone: Backbone) -> dict[str, float | None]:
        moved = sum(float(value.detach().abs().sum()) for value in _trained(backbone))
        return {LOSS: moved, QUALITY: -moved}

    original = RunEvaluation.measure
    monkeypatch.setattr(RunEvaluation, "measure", fall)
    monkeypatch.setattr(RunEvaluation, "measure_for_choice", fall_at_the_end)


def _trained(backbone: Backbone) -> list[torch.Tensor]:
    """Adapters begin at zero (their upper halves), so that their size tells how far training has come."""
    return [value for name, value in backbone.denoiser.named_parameters() if "lora_B" in name]


LONG = {"max_train_steps": 6, "checkpointing_steps": 3, "lr_scheduler": "constant", "lr_warmup_steps": 0}


@pytest.mark.parametrize("ema", [False, True])
def test_the_weights_are_those_of_a_run_that_ends_at_the_best_step(
    ema: bool, make_config: MakeConfig, resident: Resident, worse_and_worse: None
) -> None:
    fields = LONG | {"use_ema": ema}
    long = restoring(make_config("lora", "long", **fields))
    events = list(execute(long, resident))
    assert events == read_events(Path(long.output_dir))
    short = make_config("lora", "short", **(fields | {"max_train_steps": 2}))
    list(execute(short, resident))
    assert weights_of(long) == weights_of(short)
    result = result_of(long)
    told = [event for event in events if event.kind == "evaluation"]
    assert [(event.step, event.data["final"]) for event in told] == [
        (2, False),
        (4, False),
        (6, False),
        (6, True),
    ]
    line = result["best"]
    assert (line["best_step"], line["metric"], line["restored"], line["evaluations"]) == (2, LOSS, True, 3)
    assert line["value"] == told[0].data[LOSS] < line["end_value"] == told[2].data[LOSS]
    assert result["cost"]["train_steps"] == 6, "what was trained is paid for"
    assert result["cost"]["selection_seconds"] > 0
    assert result["evaluation"]["subject_fidelity"] == told[3].data["subject_fidelity"]
    assert not (Path(long.output_dir) / "checkpoint").exists()


def test_a_run_without_a_value_to_choose_by_says_that_it_has_the_weights_of_its_end(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(self: RunEvaluation, backbone: Backbone, **arguments: Any) -> Any:
        result = measure(self, backbone, **arguments)
        return type(result)(**{**vars(result), "metrics": {**result.metrics, LOSS: None}})

    measure = RunEvaluation.measure
    monkeypatch.setattr(RunEvaluation, "measure", unknown)
    monkeypatch.setattr(RunEvaluation, "measure_for_choice", lambda self, backbone: {LOSS: None})
    config = restoring(make_config("lora", "unknown", **LONG))
    events = list(execute(config, resident))
    monkeypatch.undo()
    plain = make_config("lora", "plain", **LONG)
    list(execute(plain, resident))
    assert weights_of(config) == weights_of(plain)
    result = result_of(config)
    assert result["state"] == "COMPLETE"
    line = {"best_step": None, "value": None, "end_value": None, "metric": LOSS, "evaluations": 0}
    assert result["best"] == line | {"restored": False}
    assert [event.data for event in events if event.kind == "best"] == [result["best"]]
    words = best_words(result["best"], result["cost"])
    assert words is not None
    assert f"none of its evaluations had a value of {LOSS}" in words
    assert words.endswith("the weights of its end")


def test_what_is_told_of_a_choice_of_one_value_or_none_and_of_the_end(tmp_path: Path) -> None:
    for restores, values, told in (
        (LOSS, {1: None, 2: 0.5, 3: None}, (2, 1, True)),
        (LOSS, {1: 0.6, 2: 0.5, 3: 0.5}, (2, 3, True)),
        (LOSS, {1: 0.6, 2: 0.5, 3: 0.4}, (3, 3, False)),  # nothing was put back
        (LOSS, {1: None, 2: None}, (None, 0, False)),
        (None, {1: None, 2: 0.5}, None),
    ):
        best = BestStep(tmp_path, restores, [])
        for step, value in values.items():
            best.note(step, {LOSS: value, QUALITY: value}, final=False)
        line = best.line(3)
        assert (line and (line["best_step"], line["evaluations"], line["restored"])) == told
        assert ("whose weights it has" in (best_words(line, {}) or "")) == bool(told and told[2])
        stopped = best.line(None)
        assert stopped is None or not stopped["restored"], "training has not come to its end"


def test_a_run_that_was_killed_restores_the_same_bits(
    make_config: MakeConfig, resident: Resident, worse_and_worse: None
) -> None:
    """Before and after the best step is known, after the weights were put back; and with its weights damaged."""
    whole = restoring(make_config("lora", "whole", **LONG))
    list(execute(whole, resident))

    def assert_same(broken: RunConfig) -> None:
        assert weights_of(broken) == weights_of(whole)
        for section in ("evaluation", "best"):
            assert result_of(broken)[section] == result_of(whole)[section]

    for kind, step in (("evaluation", 2), ("checkpoint", 3), ("image", 6)):
        broken = restoring(make_config("lora", f"{kind}-{step}", **LONG))
        until(broken, resident, kind, step)
        list(execute(broken, resident))
        assert_same(broken)
    for damage in ("bit", "gone"):
        broken = restoring(make_config("lora", damage, **LONG))
        until(broken, resident, "evaluation", 4)
        assert kept(broken) == ["best-00000002.safetensors"]
        path = Path(broken.output_dir) / "checkpoint" / kept(broken)[0]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.unlink()
        if damage == "bit":
            path.write_bytes(content)
        again = list(execute(broken, resident))
        assert again[0].data["resumed_step"] == 0, "what is lost comes again from the beginning"
        assert_same(broken)


def test_full_fine_tuning_keeps_one_copy_and_only_while_it_is_needed(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([3.0, 2.0, 1.0, 4.0])  # of steps 1, 2, 3 and the end
    monkeypatch.setattr(
        RunEvaluation, "measure_for_choice", lambda self, backbone: {LOSS: next(values), QUALITY: None}
    )
    original = RunEvaluation.measure

    def falling(self: RunEvaluation, backbone: Backbone, *, final: bool, **arguments: Any) -> Any:
        result = original(self, backbone, final=final, **arguments)
        chosen = result.metrics[LOSS] if final else next(values)
        return type(result)(**{**vars(result), "metrics": {**result.metrics, LOSS: chosen}})

    monkeypatch.setattr(RunEvaluation, "measure", falling)
    config = restoring(
        make_config("dreambooth", "long", **(LONG | {"max_train_steps": 4})), at=(0.25, 0.5, 0.75)
    )
    seen = []
    for event in execute(config, resident):
        if event.kind in ("progress", "evaluation"):
            seen.append((event.kind, event.step, kept(config)))
    names = {step: [f"best-{step:08d}.safetensors"] for step in (1, 2, 3)}
    assert ("evaluation", 1, names[1]) in seen
    assert ("progress", 3, names[2]) in seen, "after a step is recorded the one before it is gone"
    assert ("progress", 4, names[3]) in seen
    assert result_of(config)["best"]["best_step"] == 3
    short = make_config("dreambooth", "short", **(LONG | {"max_train_steps": 3}))
    list(execute(short, resident))
    assert weights_of(config) == weights_of(short)
    assert not (Path(config.output_dir) / "checkpoint").exists()


def test_other_runs_tell_their_best_step_and_keep_the_end(
    make_config: MakeConfig, resident: Resident, worse_and_worse: None
) -> None:
    config = make_config("lora", "told", at=AT, **LONG)
    events = list(execute(config, resident))
    told = [event for event in events if event.kind == "evaluation"]
    values = {event.step: event.data[QUALITY] for event in told}
    line = result_of(config)["best"]
    assert line["value"] == max(values.values()) == values[line["best_step"]]
    assert line["best_step"] == 2
    assert (line["end_value"], line["metric"], line["restored"]) == (values[6], QUALITY, False)
    assert "selection_seconds" not in result_of(config)["cost"]
    once = make_config("lora", "once", **LONG)
    assert "best" not in {event.kind for event in execute(once, resident)}
    assert result_of(once)["best"] is None
    assert weights_of(once) == weights_of(config)


def test_a_run_that_is_stopped_early_tells_the_best_so_far_and_the_base_model_has_none(
    make_config: MakeConfig, resident: Resident, worse_and_worse: None
) -> None:
    config = restoring(make_config("lora", "stopped", **LONG))
    events = execute(config, resident)
    for event in events:
        if event.kind == "evaluation" and event.step == 4:
            break
    events.close()
    result = result_of(config)
    assert (result["state"], result["weights"]) == ("PRUNED", None)
    line = result["best"]
    assert (line["best_step"], line["end_value"], line["restored"]) == (2, None, False)
    told = [event.data for event in read_events(Path(config.output_dir)) if event.kind == "evaluation"]
    result = result["evaluation"]
    assert LOSS in result
    assert result[LOSS] is None, "it is of the half of the held-out images that chooses"
    assert result["subject_fidelity"] == told[-1]["subject_fidelity"] is not None, "of that which judges"
    assert not (Path(config.output_dir) / "checkpoint").exists()
    base = restoring(make_config("base", "base"))
    list(execute(base, resident))
    assert result_of(base)["state"] == "COMPLETE"
    assert result_of(base)["best"] is None


@pytest.mark.parametrize("at_end", [False, True])
def test_what_chose_by_images_is_no_result(at_end: bool, make_config: MakeConfig, resident: Resident) -> None:
    """Of a run that is stopped on the way, and of one that ends after all has been chosen from."""
    config = restoring(make_config("lora", "stopped", **LONG), "subject_fidelity")
    events = execute(config, resident)
    for event in events:
        if event.kind == "evaluation" and event.step == (6 if at_end else 4):
            break
    events.close()
    assert result_of(config)["state"] == "PRUNED"
    values = result_of(config)["evaluation"]
    assert set(event.data) == {*values, "final", "choice"}
    assert set(values.values()) == {None}
    assert result_of(config)["best"]["metric"] == "subject_fidelity"
    folder = Path(config.output_dir)
    assert not [name for name in latest_metrics(read_events(folder)) if name.startswith("eval/")]


@pytest.mark.parametrize("by", [LOSS, "subject_fidelity", None])
def test_only_what_chooses_is_charged_as_choosing(
    by: str | None, make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []
    seen: dict[str, list[str]] = {"images": [], "loss": []}

    @contextmanager
    def noted(self: Meter, phase: Phase) -> Iterator[None]:
        with measure(self, phase):
            phases.append(phase)
            yield
            phases.pop()

    def drawn(*arguments: Any, **named: Any) -> Any:
        seen["images"].append(phases[-1])
        return evaluate(*arguments, **named)

    def lost(self: HeldOutLoss, backbone: Backbone) -> float | None:
        seen["loss"].append(phases[-1])
        return loss(self, backbone)

    measure, loss = Meter.measure, HeldOutLoss.measure
    monkeypatch.setattr(Meter, "measure", noted)
    monkeypatch.setattr("trainables.run.run_evaluation.evaluate", drawn)
    monkeypatch.setattr(HeldOutLoss, "measure", lost)
    config = restoring(make_config("lora", "charged", **LONG), by)
    list(execute(config, resident))
    between = {LOSS: ["evaluate"] * 2, "subject_fidelity": ["select"] * 3, None: ["evaluate"] * 2}
    assert seen["images"] == [*between[by], "evaluate"]
    assert seen["loss"] == (["evaluate"] * 3 if by is None else [*["select"] * 3, "evaluate"])


def test_where_quality_is_unknown_the_best_step_is_told_by_subject_fidelity(tmp_path: Path) -> None:
    scaled = "subject_fidelity_scaled"
    told = [{QUALITY: None, scaled: 0.2}, {QUALITY: None, scaled: 0.5}, {QUALITY: None, scaled: 0.4}]
    best = BestStep(tmp_path, None, ())
    for step, values in enumerate(told, start=1):
        best.note(step, values, final=step == 3)
    line = best.line(3)
    assert line is not None
    assert (line["best_step"], line["metric"], line["value"], line["end_value"]) == (2, scaled, 0.5, 0.4)
    again = [Event(n, 0.0, "evaluation", n, {**values, "final": n == 3}) for n, values in enumerate(told, 1)]
    assert BestStep(tmp_path, None, again).line(3) == line
    known = BestStep(tmp_path, None, ())
    for step, quality in enumerate((0.3, 0.1), start=1):
        known.note(step, {QUALITY: quality, scaled: step}, final=step == 2)
    line = known.line(2)
    assert line is not None
    assert (line["best_step"], line["metric"]) == (1, QUALITY)
    chosen = BestStep(tmp_path, QUALITY, ())
    for step, values in enumerate(told, start=1):
        chosen.note(step, values, final=False)
    line = chosen.line(3)
    assert line is not None
    assert (line["best_step"], line["metric"]) == (None, QUALITY), (
        "what is to choose is not replaced by another"
    )


def prepared(config: RunConfig, resident: Resident) -> RunEvaluation:
    backbone = resident.backbone(config.model, torch.device("cpu"))
    models = resident.metric_models(config.evaluation, torch.device("cpu"))
    subject = resolve_subject(config.subject, RESOLUTION)
    training = config.training.for_subject(subject.instance_prompt, subject.class_prompt)
    return prepare_run_evaluation(backbone, subject, config, training, models, Cache(config.cache_dir))


@pytest.mark.parametrize("phase", ["confirm", "search"])
def test_nothing_that_chooses_the_step_judges_the_result(
    phase: str, make_config: MakeConfig, resident: Resident
) -> None:
    config = restoring(make_config("lora"), QUALITY)
    settings = config.evaluation.model_copy(update={"prompt_set": phase})
    found = prepared(config.model_copy(update={"evaluation": settings}), resident)
    assert found.choice is not None
    own, judge = found.choice.evaluator, found.evaluator
    assert own is not None
    if phase == "confirm":
        assert not set(own.protocol.templates) & set(judge.protocol.templates)
        assert not set(own.protocol.anchors.seeds) & set(judge.protocol.anchors.seeds)
    for kind in ("instance", "classes"):
        draws = [set(getattr(one.protocol, kind).seeds) for one in (own, judge)]
        assert min(map(len, draws)) > 0
        assert not draws[0] & draws[1]
    images = [{image.tobytes() for image in one.subject.references} for one in (own, judge)]
    assert min(map(len, images)) > 0
    assert not images[0] & images[1]
    latents = [one.held_out_loss.latents for one in (found.choice, found)]
    assert not any(torch.equal(a, b) for a in latents[0] for b in latents[1])
    whole = resolve_subject(config.subject, RESOLUTION)
    assert len(whole.references) == sum(map(len, images)), "every held-out image does one of the two"


def test_the_loss_chooses_without_images(make_config: MakeConfig, resident: Resident) -> None:
    """Images on the way are then those by which the result is judged: they choose nothing."""
    found = prepared(restoring(make_config("lora")), resident)
    assert found.choice is not None
    assert found.choice.evaluator is None
    assert found.evaluator_of(final=False) is found.evaluator
    backbone = resident.backbone(make_config("lora").model, torch.device("cpu"))
    assert list(found.measure_for_choice(backbone)) == [LOSS]


def test_what_cannot_be_chosen_by_is_refused(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("lora")

    def settings(**changes: Any) -> RunConfig:
        evaluation = {**config.evaluation.model_dump(), **changes}
        return RunConfig.model_validate({**config.model_dump(), "evaluation": evaluation})

    assert settings(restore_best=QUALITY, at=[0.5]).evaluation.restore_best == QUALITY
    for metric, words in (
        ("qualty", "did you mean 'quality'"),
        ("diversity", "no better direction"),
        ("train_seconds", "is a cost"),
    ):
        with pytest.raises(ValidationError, match=words):
            settings(restore_best=metric, at=[0.5])
    for at in ((), (1.0,)):
        with pytest.raises(ValidationError, match=r"evaluation\.at names none"):
            settings(restore_best=QUALITY, at=at)
    with pytest.raises(ValidationError, match="which is not set"):
        settings(restore_best_prompts=["{subject}"])
    templates = ("{subject} here", "{subject} there")
    same = settings(restore_best=QUALITY, at=[0.5], prompts=templates, restore_best_prompts=templates[:1])
    with pytest.raises(UserError, match="would choose the best step and judge the result"):
        prepared(same, resident)
    few = restoring(config.model_copy(update={"subject": config.subject.model_copy(update={"holdout": 1})}))
    with pytest.raises(
        UserError, match=r"has 1 held-out image, and evaluation\.restore_best needs at least 2"
    ):
        prepared(few, resident)


def test_digests_of_runs_without_it_are_what_they_were(make_config: MakeConfig) -> None:
    document = make_config("lora", at=AT).model_dump(mode="json")
    earlier = json.loads(json.dumps(document))
    del earlier["evaluation"]["restore_best"], earlier["evaluation"]["restore_best_prompts"]
    assert config_digest(document) == config_digest(earlier)
    chosen = restoring(make_config("lora"))
    assert sealed(chosen).digest() != sealed(make_config("lora", at=AT)).digest()
    assert EvaluationConfig().restore_best is None


def test_the_earliest_of_the_best_is_taken_and_unknown_values_are_none() -> None:
    assert best_step([(1, 0.5), (2, 0.7), (3, 0.7), (4, None)], QUALITY) == 2
    assert best_step([(1, 0.5), (2, 0.7), (3, 0.4), (4, 0.4)], LOSS) == 3
    assert best_step([(1, None), (2, None)], QUALITY) is None
    assert best_step([], LOSS) is None


def test_prompts_of_a_data_set_are_read_in_the_half_that_is_asked_for_them(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioned(tmp_path / "cast", 40)
    subject = {"name": "cast", "dataset": {"path": str(tmp_path / "cast"), "holdout": 0.5}}
    config = restoring(make_config("lora", captions="files"), "clip_i")
    config = config.model_copy(update={"subject": SubjectConfig.model_validate(subject)})
    read: list[tuple[str, ...]] = []

    def note(subject: Subject, settings: EvaluationConfig, *_: Any) -> None:
        read.append(evaluation_templates(subject, settings))
        if len(read) == 2:
            raise UserError("enough is seen")

    monkeypatch.setattr(execute_module, "refuse_cut_prompts", note)
    assert "enough is seen" in str(list(execute(config, Resident()))[-1])
    assert read == templates_asked(config.subject, config.evaluation)
    assert not set(read[0]) & set(read[1])


class TestBias:
    """Four steps that are equally good: whatever choosing one of them adds to its value is luck."""

    STEPS, STUDIES = 4, 4000
    EXPECTED_MAXIMUM = 1.0293753730039641  # of four standard normal values (order statistics)

    def test_a_value_that_chose_its_step_is_too_good_and_another_draw_of_it_is_not(self) -> None:
        chance = np.random.default_rng(5)
        chosen, judged = [], []
        for _ in range(self.STUDIES):
            by, again = chance.normal(size=(2, self.STEPS))
            step = best_step(enumerate(by.tolist()), QUALITY)
            assert step is not None
            chosen.append(by[step])
            judged.append(again[step])
        error = self.STUDIES**-0.5
        assert np.mean(judged) == pytest.approx(0, abs=4 * error)
        assert np.mean(chosen) == pytest.approx(self.EXPECTED_MAXIMUM, abs=4 * error)

    def test_held_out_images_that_chose_would_judge_too_well(self, make_config: MakeConfig) -> None:
        """Subject fidelity by the real measure: fresh images of a step are judged by the references that chose it, or
        by the others. The parts are dealt out as runs deal them out.
        """
        chance, width = np.random.default_rng(6), 16
        subject = resolve_subject(make_config("lora").subject.model_copy(update={"holdout": 4}), RESOLUTION)
        names = list(subject.reference_names)
        parts = [
            [names.index(name) for name in part(subject).reference_names] for part in (choosing, judging)
        ]
        assert sorted(parts[0] + parts[1]) == [0, 1, 2, 3]
        seen, others, usual = [], [], []
        for _ in range(self.STUDIES):
            steps = chance.normal(size=(self.STEPS, width))  # what each step's images look like
            references = chance.normal(size=(len(names), width))
            to_choose, to_judge = (references[part] for part in parts)
            first, second = steps[:, None] + chance.normal(size=(2, self.STEPS, 3, width))
            by = [metrics.subject_fidelity(images, to_choose) for images in first]
            step = best_step(enumerate(by), "subject_fidelity")
            assert step is not None
            seen.append(metrics.subject_fidelity(second[step], to_choose))
            others.append(metrics.subject_fidelity(second[step], to_judge))
            usual.append(np.mean([metrics.subject_fidelity(images, to_judge) for images in second]))
        error = np.std(np.subtract(others, usual)) / self.STUDIES**0.5
        assert np.mean(others) - np.mean(usual) == pytest.approx(0, abs=4 * error)
        assert np.mean(seen) - np.mean(usual) > 10 * error, "the same references would flatter it"
