"""The sprite world: renders, captions, held-out combinations, subjects."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.pretraining.pool import PARTS, VIEWS, draw_pool
from trainables import embedded
from trainables.embedded import captions, world
from trainables.embedded.render import render


def test_import_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, trainables.embedded as e; e.subject_names; "
        "assert not {'torch', 'numpy', 'PIL', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_render_is_a_function_of_its_arguments() -> None:
    rng = world.generator(1, "held_out", 5)
    identity = world.draw_identity(rng)
    setting = world.draw_setting(rng, identity)
    first, second = render(identity, setting), render(identity, setting)
    assert first.size == (64, 64)
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()
    other = world.Setting(setting.scene, setting.accessory, setting.seed + 1)
    assert render(identity, other).tobytes() != first.tobytes()


@pytest.mark.parametrize("class_name", world.CLASSES)
def test_every_accessory_and_scene_changes_the_picture(class_name: str) -> None:
    identity = world.draw_identity(world.generator(1, "held_out", 9), class_name)
    plain = np.asarray(render(identity, world.Setting("on grass", "none", 3)), np.int16)
    for accessory in world.ACCESSORIES[1:]:
        image = np.asarray(render(identity, world.Setting("on grass", accessory, 3)), np.int16)
        assert (np.abs(image - plain).max(2) > 60).sum() > 25, accessory
    for scene in world.SCENES[1:]:
        image = np.asarray(render(identity, world.Setting(scene, "none", 3)), np.int16)
        assert (np.abs(image - plain).max(2) > 30).mean() > 0.15, scene


def test_pools_are_seeded_and_apart() -> None:
    first, again = draw_pool(8, 0, "pretrain"), draw_pool(8, 0, "pretrain")
    assert (first.images == again.images).all()
    assert (first.labels == again.labels).all()
    assert (draw_pool(8, 0, "held_out").images != first.images).any(axis=(1, 2, 3)).all()


def test_pretraining_never_draws_a_held_out_combination() -> None:
    held_out = set(world.held_out_combinations())
    assert 0.08 < len(held_out) / (8 * 8 * 8 * 6) < 0.12
    assert len(held_out) >= 300
    for index in range(2000):
        rng = world.generator(0, "pretrain", index)
        identity = world.draw_identity(rng)
        setting = world.draw_setting(rng, identity)
        key = (identity.class_name, identity.colour, setting.scene, setting.accessory)
        assert key not in held_out


def test_held_out_pools_hold_only_held_out_combinations() -> None:
    held_out = set(world.held_out_combinations())
    rng = world.generator(0, "held_out", 0)
    for _ in range(50):
        identity = world.draw_identity(rng, "dog", "red")
        setting = world.draw_setting(rng, identity, held_out=True)
        assert ("dog", "red", setting.scene, setting.accessory) in held_out


def test_pool_labels_name_what_is_drawn() -> None:
    pool = draw_pool(64, 0, "pretrain")
    assert pool.labels.shape == (64 * VIEWS, 4)
    for column, part in enumerate(PARTS):
        assert set(pool.labels[:, column]) == set(range(len(part)))


def test_captions_say_what_they_leave_out_of_nothing() -> None:
    rng = np.random.default_rng(0)
    names = ("cat", "orange", "in the snow", "hat")
    full = dict(zip(("class", "colour", "scene", "accessory"), names, strict=True))
    assert captions.full_caption(*names) == "an orange cat in the snow wearing a hat"
    assert captions.attributes(captions.full_caption(*names)) == full
    seen = [captions.random_caption(rng, *names) for _ in range(2000)]
    for text in seen:
        assert captions.attributes(text).items() <= full.items()
    assert 0.07 < seen.count("") / len(seen) < 0.13
    assert "a cat" in seen


def test_accessory_phrases() -> None:
    assert captions.compose("a cat", "", "balloon") == "a cat with a balloon"
    assert captions.compose("a cat", "at night", "sunglasses") == "a cat at night wearing sunglasses"
    assert captions.compose("a cat", "at night") == "a cat at night"


def test_subjects() -> None:
    names = embedded.subject_names()
    assert len(names) >= 12
    assert len({name.split("-")[0] for name in names}) >= 6
    for name in names[::9]:  # of each class one and more
        subject = embedded.load_subject(name)
        training, references = subject.training_images(), subject.reference_images()
        assert (len(training), len(subject.training_captions())) == (5, 5)
        assert len(references) == 64  # the scale of the subject ends at how alike they are
        assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in training)
        pixels = [image.tobytes() for image in training + references]
        assert len(set(pixels)) == len(pixels)
        assert pixels == [i.tobytes() for i in subject.training_images() + subject.reference_images()]
        assert subject.instance_prompt == f"a sks {subject.class_name}"
        assert all(text.startswith(subject.instance_prompt) for text in subject.training_captions())


def test_references_show_scenes_that_training_images_do_not() -> None:
    from trainables.embedded.subjects import REFERENCE_SCENES, TRAINING_SETTINGS

    assert not {scene for scene, _ in TRAINING_SETTINGS} & set(REFERENCE_SCENES)


def test_there_are_twelve_subjects_a_class_class_by_class() -> None:
    names = embedded.subject_names()
    assert len(names) == len(set(names)) == 96
    assert names[:9] == (*(f"{name}-1" for name in world.CLASSES), "cat-2")
    assert names[-1] == "turtle-12"


def test_the_first_two_of_each_class_are_who_they_were() -> None:
    """Pixels are a function of the identity and of settings and seeds (below): older studies keep their subjects."""
    identities = [repr(embedded.load_subject(name).identity) for name in embedded.subject_names()[:16]]
    known = "0ca02e9c8bfe2741370c840439164a9562f658d687a22b15a47cb679b3d704a4"
    assert hashlib.sha256("".join(identities).encode()).hexdigest() == known
    subject = embedded.load_subject("bird-2")
    settings = [world.Setting("on grass", "none", 1000), world.Setting("in the snow", "none", 2000)]
    shown = [subject.training_images()[0], subject.reference_images()[0]]
    assert [image.tobytes() for image in shown] == [
        render(subject.identity, setting).tobytes() for setting in settings
    ]


def test_subjects_are_none_of_the_identities_of_pretraining_nor_each_other() -> None:
    from benchmarks.pretraining.common import IDENTITIES

    def look(one: world.Identity) -> tuple[object, ...]:
        """What can be seen without looking closely: two that differ in more are no twins."""
        return (one.class_name, one.shade, one.secondary, one.pattern, one.mark)

    seen = set()
    colours = tuple(world.COLOURS)
    for index in range(IDENTITIES):
        rng = world.generator(0, "pretrain", index)
        seen.add(look(world.draw_identity(rng, world.CLASSES[index % 8], colours[index // 8 % 8])))
    looks = [look(embedded.load_subject(name).identity) for name in embedded.subject_names()]
    assert len(set(looks)) == len(looks)
    assert not seen & set(looks)


def test_unknown_subjects_are_refused_with_the_names() -> None:
    with pytest.raises(
        ValueError, match=r"no embedded subject 'cow-1'; there are: cat-1 \.\.\. cat-12, dog-1"
    ):
        embedded.load_subject("cow-1")


def test_evaluation_prompts() -> None:
    prompts = embedded.evaluation_prompts()
    assert len(prompts) == len(set(prompts)) >= 12
    assert all(prompt.count("{subject}") == 1 for prompt in prompts)
    first = [embedded.attributes(prompt) for prompt in prompts[:4]]
    assert {frozenset(named) for named in first} == {
        frozenset({"scene"}), frozenset({"accessory"}), frozenset({"scene", "accessory"}),
    }  # fmt: skip


def test_search_and_confirm_share_no_prompt_and_neither_one_with_training() -> None:
    from trainables.embedded.subjects import TRAINING_SETTINGS

    search, confirm = embedded.evaluation_prompts("search"), embedded.evaluation_prompts("confirm")
    assert (len(set(search)), len(set(confirm))) == (8, 16)
    assert not set(search) & set(confirm)
    shown = {captions.compose("{subject}", *setting) for setting in TRAINING_SETTINGS}
    assert not shown & {*search, *confirm}, "a copy of a training image would be a good answer"
    named = [embedded.attributes(prompt) for prompt in search]
    assert {one["accessory"] for one in named} == set(world.ACCESSORIES[1:])
    assert len({one.get("scene") for one in named}) == 8


def test_perfect_images_show_the_subject_as_the_prompts_say() -> None:
    subject = embedded.load_subject("frog-7")
    prompts = embedded.evaluation_prompts()
    images = subject.perfect_images(prompts)
    assert images is not None
    assert len(images) == 2 * len(prompts)
    assert len({image.tobytes() for image in images}) == len(images)
    again = subject.perfect_images(prompts)
    assert again is not None
    assert [image.tobytes() for image in again] == [image.tobytes() for image in images]
    known = {image.tobytes() for image in subject.training_images() + subject.reference_images()}
    assert not known & {image.tobytes() for image in images}
    assert subject.perfect_images(("{subject} on the moon",)) is None


def test_a_subject_in_ink_is_the_same_creature_in_another_style() -> None:
    plain, inky = embedded.load_subject("cat-3"), embedded.load_subject("cat-3-ink")
    assert inky.identity == plain.identity
    assert (inky.instance_prompt, inky.class_prompt) == (plain.instance_prompt, plain.class_prompt)
    assert inky.training_captions() == plain.training_captions()
    for name in ("training_images", "reference_images"):
        drawn, other = getattr(inky, name)(), getattr(plain, name)()
        assert len(drawn) == len(other)
        assert all(one.tobytes() != two.tobytes() for one, two in zip(drawn, other, strict=True))
    templates = embedded.evaluation_prompts()
    drawn, other = inky.perfect_images(templates), plain.perfect_images(templates)
    assert drawn
    assert other
    assert drawn[0].tobytes() != other[0].tobytes()
    assert not {name for name in embedded.subject_names() if name.endswith("-ink")}
    for name in ("cat-13-ink", "cat-3-inky", "-ink"):
        with pytest.raises(ValueError, match="each in ink too"):
            embedded.load_subject(name)
