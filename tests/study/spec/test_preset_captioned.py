"""The preset on a data set: adapter or all weights, with dropped captions or without, and nothing else."""

from __future__ import annotations

from study.preflight.checks import check_study
from study.preflight.notes import study_notes
from study.spec.crossing import crossed_in
from study.spec.loading import load_study
from trainables.methods.registry import BASE


def test_arms_cross_what_trains_with_dropped_captions_and_differ_in_nothing_else() -> None:
    preset = load_study("captioned")
    trained = [name for name, arm in preset.arms.items() if arm.method != BASE]
    fields = {name: preset.method_fields(name) for name in trained}
    pairs = {(found["trains"], found["caption_dropout"]) for found in fields.values()}
    assert pairs == {(trains, share) for trains in ("adapter", "full") for share in (0, 0.1)}
    assert {found["captions"] for found in fields.values()} == {"files"}
    equal = ("train_batch_size", "lr_warmup_steps", "max_train_steps", "train_text_encoder")
    assert len({tuple(found[name] for name in equal) for found in fields.values()}) == 1
    assert len({preset.trials_of(name) for name in trained}) == 1
    (question,) = crossed_in(preset)
    assert question.factor == "trains"
    assert set(question.arms) == {("full", "adapter"), ("full-dropout", "adapter-dropout")}


def test_it_can_be_launched_and_is_judged_on_enough_and_says_that_one_data_set_decides_nothing() -> None:
    preset = load_study("captioned")
    assert check_study(preset) == []
    notes = study_notes(preset)
    assert len(notes) == 1
    assert (
        "1 data set x 3 seeds show values, but decide nothing: that takes at least 3 confirm data sets"
        in notes[0]
    )
