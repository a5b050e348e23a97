"""Random streams, order of the data, and the pairing of images, captions and noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from tests.helpers.training_runs import MakeTrainer
from trainables.data.cache import Cache
from trainables.models.backbone import Backbone
from trainables.randomness import STREAMS, Streams, global_seed, stream_seed, subject_seed
from trainables.training.batches import Batches, Examples, Shuffle, mask_areas
from trainables.training.encoding import encode_images
from trainables.training.noise import Diffusion


def make_examples(count: int, orientations: int = 1) -> Examples:
    """Image i of orientation o has mean 10 i + o everywhere, no deviation, and caption count - i."""
    values = 10 * torch.arange(count).reshape(-1, 1) + torch.arange(orientations)
    mean = values[:, :, None, None, None].expand(-1, -1, 4, 2, 2).float()
    return Examples(mean, torch.zeros_like(mean), count - torch.arange(count))


def make_batches(seed: int = 0, priors: int = 0, **fields: float) -> Batches:
    settings: dict[str, float] = {"prior_loss_weight": 1.0, "noise_offset": 0.0} | fields
    return Batches(
        make_examples(5),
        make_examples(7) if priors else None,
        Streams(seed),
        size=3,
        scale=0.5,
        process=Diffusion(torch.ones(1000), "epsilon"),
        **settings,
    )


def test_streams_differ_and_depend_on_the_seed_and_their_name_alone() -> None:
    drawn = {name: torch.rand(4, generator=Streams(0)[name]).tolist() for name in STREAMS}
    assert len({tuple(values) for values in drawn.values()}) == len(STREAMS)
    streams = Streams(0)
    torch.rand(100, generator=streams["order"])
    assert torch.rand(4, generator=streams["noise"]).tolist() == drawn["noise"]
    assert torch.rand(4, generator=Streams(1)["noise"]).tolist() != drawn["noise"]
    assert stream_seed(3, "noise") == stream_seed(3, "noise") < 2**63


def test_the_same_seed_is_another_draw_on_another_subject() -> None:
    """Or else a seed that is lucky were lucky on all subjects, and the report would take it for an effect."""
    noise = {
        (seed, subject): torch.rand(4, generator=Streams(subject_seed(seed, subject))["noise"]).tolist()
        for seed in (0, 1)
        for subject in ("cat-1", "dog-1")
    }
    assert len({tuple(values) for values in noise.values()}) == 4


def test_arms_share_their_streams_on_a_subject(make_trainer: MakeTrainer) -> None:
    drawn = [make_trainer(method).batches.draw() for method in ("lora", "dreambooth_lora")]
    count = len(drawn[0].noise)  # the second has class images behind its own
    assert torch.equal(drawn[0].noise, drawn[1].noise[:count])
    assert torch.equal(drawn[0].timesteps, drawn[1].timesteps[:count])


def test_streams_go_on_from_their_state() -> None:
    streams = Streams(0)
    torch.rand(3, generator=streams["noise"])
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = torch.rand(3, generator=streams["noise"])
    other = Streams(1)
    other.load_state_dict(state)
    assert torch.equal(torch.rand(3, generator=other["noise"]), expected)


def test_global_seed_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with global_seed(Streams(0)["initialisation"]):
        first = torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    with global_seed(Streams(0)["initialisation"]):
        assert torch.equal(torch.rand(1), first)


def test_every_epoch_shows_every_image_once() -> None:
    shuffle = Shuffle(5, torch.Generator().manual_seed(0))
    drawn = torch.cat([shuffle.take(3) for _ in range(10)])
    for epoch in drawn.split(5):
        assert sorted(epoch.tolist()) == [0, 1, 2, 3, 4]
    assert drawn[:5].tolist() != drawn[5:10].tolist()


def test_a_batch_may_be_larger_than_the_data() -> None:
    counts = Counter(Shuffle(2, torch.Generator().manual_seed(0)).take(7).tolist())
    assert sorted(counts.values()) == [3, 4]


def test_captions_follow_their_image_through_every_epoch() -> None:
    """Caches that are filled in one order and read in another pair latents with others' captions."""
    batches = make_batches()
    for _ in range(20):
        batch = batches.draw()
        images = (batch.latents[:, 0, 0, 0] / 0.5 / 10).long()
        assert torch.equal(batch.captions, 5 - images)


def test_captions_from_files_reach_the_model_with_their_latents(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("lora", captions="files")
    examples = trainer.batches._sources[0][1]
    expected = trainer.backbone.encode_prompts([f"a sks cat with {n} red hat" for n in range(5)])
    rows = trainer.texts.rows["encoder_hidden_states"]
    assert len(trainer.texts.captions) == len(examples) == 3
    for image in range(3):
        caption = trainer.texts.captions[examples.captions[image]]
        number = int(next(word for word in caption.split() if word.isdigit()))
        torch.testing.assert_close(
            rows[examples.captions[image]], expected["encoder_hidden_states"][number], rtol=1e-4, atol=1e-5
        )
    examples.std.zero_()  # so that a latent tells which image it is of
    latents = examples.mean[:, 0] * trainer.backbone.vae.config.scaling_factor
    for _ in range(5):
        batch = trainer.batches.draw()
        images = [int((latents - row).flatten(1).norm(dim=1).argmin()) for row in batch.latents]
        assert torch.equal(batch.latents, latents[images])
        assert torch.equal(batch.captions, examples.captions[images])


def test_prior_preservation_shifts_nothing_in_the_other_streams() -> None:
    """Arms with one seed see the same images, noise and timesteps."""
    alone, beside = make_batches(priors=0), make_batches(priors=7)
    for _ in range(5):
        plain, both = alone.draw(), beside.draw()
        assert torch.equal(plain.latents, both.latents[:3])
        assert torch.equal(plain.noise, both.noise[:3])
        assert torch.equal(plain.timesteps, both.timesteps[:3])
        assert not torch.equal(both.noise[:3], both.noise[3:])


def test_lora_and_dreambooth_see_the_same_draws(make_trainer: MakeTrainer) -> None:
    lora = make_trainer("lora", r=3).batches.draw()
    lora_like = make_trainer("dreambooth_lora", seed=0).batches.draw()
    assert torch.equal(lora.noise, lora_like.noise[:2])
    assert torch.equal(lora.latents, lora_like.latents[:2])
    assert not torch.equal(lora.noise, make_trainer("lora", seed=1).batches.draw().noise)


def test_batches_go_on_from_their_state() -> None:
    batches = make_batches(priors=7)
    for _ in range(4):
        batches.draw()
    place = batches.state_dict()
    streams = {name: value.clone() for name, value in batches._streams.state_dict().items()}
    expected = batches.draw()
    other = make_batches(seed=9, priors=7)
    other._streams.load_state_dict(streams)
    other.load_state_dict(place)
    again = other.draw()
    assert torch.equal(again.latents, expected.latents)
    assert torch.equal(again.noise, expected.noise)


def test_noise_offset_shifts_whole_channels() -> None:
    plain, shifted = make_batches().draw(), make_batches(noise_offset=0.5).draw()
    difference = (shifted.noise - plain.noise) / 0.5
    torch.testing.assert_close(difference, difference[:, :, :1, :1].expand_as(difference))
    assert difference[:, :, 0, 0].unique().numel() == 3 * 4


def test_flips_draw_both_orientations_of_the_right_image() -> None:
    batches = Batches(
        make_examples(5, orientations=2),
        None,
        Streams(0),
        size=4,
        scale=1.0,
        process=Diffusion(torch.ones(10), "epsilon"),
        prior_loss_weight=1.0,
        noise_offset=0.0,
    )
    seen = set()
    for _ in range(20):
        batch = batches.draw()
        values = batch.latents[:, 0, 0, 0].long()
        assert torch.equal(batch.captions, 5 - values // 10)
        seen |= set((values % 10).tolist())
    assert seen == {0, 1}


def test_of_several_captions_an_image_gets_one_in_each_draw() -> None:
    """From a stream of its own: all else is drawn as with one caption."""
    one = make_examples(5)
    several = Examples(one.mean, one.std, 10 * one.captions[:, None] + torch.arange(3))

    def batches(examples: Examples) -> Batches:
        return Batches(
            examples,
            None,
            Streams(0),
            size=4,
            scale=1.0,
            process=Diffusion(torch.ones(10), "epsilon"),
            prior_loss_weight=1.0,
            noise_offset=0.0,
        )

    single, many, again = batches(one), batches(several), batches(several)
    seen = Counter[int]()
    for _ in range(30):
        expected, batch = single.draw(), many.draw()
        assert torch.equal(batch.captions // 10, expected.captions)
        assert torch.equal(batch.noise, expected.noise)
        assert torch.equal(batch.timesteps, expected.timesteps)
        assert torch.equal(again.draw().captions, batch.captions)
        seen.update((batch.captions % 10).tolist())
    assert set(seen) == {0, 1, 2}
    assert min(seen.values()) > 20
    assert many.sample().captions.tolist() == [50]


def test_a_checkpoint_of_a_version_with_fewer_streams_is_taken_over() -> None:
    streams = Streams(0)
    torch.rand(100, generator=streams["noise"])
    state = {name: value for name, value in streams.state_dict().items() if name != "captions"}
    expected = torch.rand(4, generator=streams["noise"])
    later = Streams(0)
    later.load_state_dict(state)
    assert torch.equal(torch.rand(4, generator=later["noise"]), expected)
    assert torch.equal(
        torch.rand(4, generator=later["captions"]), torch.rand(4, generator=Streams(0)["captions"])
    )


def test_latents_are_the_autoencoders_and_resampled_each_step(
    backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = numpy.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=numpy.uint8)) for _ in range(2)]
    cache = Cache(tmp_path_factory.mktemp("latents"))
    mean, std = encode_images(backbone, cache, images, flip=True)
    assert mean.shape == (2, 2, 4, 4, 4)
    pixels = torch.from_numpy(numpy.array(images[1])).permute(2, 0, 1)[None].float() / 127.5 - 1
    for orientation, tensor in enumerate((pixels, pixels.flip(3))):
        posterior = backbone.vae.encode(tensor).latent_dist
        torch.testing.assert_close(mean[1, orientation], posterior.mean[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std[1, orientation], posterior.std[0], rtol=1e-4, atol=1e-5)
    again, _ = encode_images(backbone, cache, images, flip=True)
    assert torch.equal(again, mean)
    examples = Examples(mean[:1, :1], std[:1, :1], torch.zeros(1, dtype=torch.int64))
    batches = Batches(
        examples,
        None,
        Streams(0),
        size=2000,
        scale=0.5,
        process=Diffusion(torch.ones(10), "epsilon"),
        prior_loss_weight=1.0,
        noise_offset=0.0,
    )
    sampled = batches.draw().latents / 0.5
    assert (sampled.mean(0) - mean[0, 0]).abs().max() < 5 * std[0, 0].max() / 2000**0.5
    torch.testing.assert_close(sampled.std(0), std[0, 0], rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("side", "count", "at_once"), [(16, 20, [16, 4]), (512, 5, [4, 1]), (1024, 2, [1, 1]), (1536, 1, [1])]
)
def test_large_images_pass_the_autoencoder_one_by_one(
    side: int,
    count: int,
    at_once: list[int],
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more pixels at once than one image of 1024 x 1024 has, unless a single one has more; none is left out."""
    seen: list[int] = []

    def encode(pixels: torch.Tensor) -> SimpleNamespace:
        """A quarter of the first colour, at an eighth of the size: which image it was can be told."""
        assert pixels.shape[1:] == (3, side, side)
        seen.append(len(pixels))
        mean = pixels[:, :1, ::8, ::8] / 4
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))

    monkeypatch.setattr(backbone.vae, "encode", encode)
    images = [Image.new("RGB", (side, side), (number, 0, 0)) for number in range(count)]
    for image in images:
        image.putpixel((0, 0), (255, 0, 0))
    mean, _ = encode_images(backbone, Cache(tmp_path), images, flip=True)
    assert seen == at_once * 2
    assert mean.shape == (count, 2, 1, side // 8, side // 8)
    shades = torch.arange(count) / 127.5 - 1
    assert torch.equal(mean[:, 0, 0, -1, -1], shades / 4)
    assert (mean[:, 0, 0, 0, 0] == 0.25).all()
    assert torch.equal(mean[:, 1, 0, 0, 0], shades / 4)  # mirrored: the mark is at the other end


def test_an_added_image_is_encoded_alone_and_others_stay_as_they_are(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which others are there, in which order, with or without flips, changes no bit of an image's latents."""
    generator = numpy.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (16, 24, 3), dtype=numpy.uint8)) for _ in range(6)]
    passes: list[tuple[int, ...]] = []
    encode = backbone.vae.encode
    monkeypatch.setattr(
        backbone.vae, "encode", lambda pixels: passes.append(tuple(pixels.shape)) or encode(pixels)
    )

    def latents(folder: str, chosen: list[int], flip: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
        before = len(passes)
        mean, std = encode_images(
            backbone, Cache(tmp_path / folder), [images[one] for one in chosen], flip, each_alone=True
        )
        return mean, std, len(passes) - before

    mean, std, count = latents("cache", [0, 1, 2, 3], flip=False)
    assert count == 4
    more = latents("cache", [4, 3, 0, 1], flip=False)
    assert more[2] == 1, "only the image that was added"
    assert torch.equal(more[0][1:], mean[[3, 0, 1]])
    assert torch.equal(more[1][1:], std[[3, 0, 1]])
    flipped = latents("cache", [0, 4, 5], flip=True)
    assert flipped[2] == 4, "one that is new, and the three mirrored ones"
    assert torch.equal(flipped[0][:2, :1], torch.stack([mean[0], more[0][0]]))
    at_once = latents("other", [5, 4, 3, 2, 1, 0], flip=True)
    assert torch.equal(at_once[0][[5, 1, 0]], flipped[0])
    assert torch.equal(at_once[1][[5, 1, 0]], flipped[1])
    assert torch.equal(at_once[0][[5, 4, 3, 2], 0], mean[:, 0])
    assert latents("cache", [0, 1, 2, 3, 4], flip=False)[2] == 0
    assert set(passes) == {(1, 3, 16, 24)}


def test_areas_follow_their_images_and_their_mirrored_masks() -> None:
    left = numpy.zeros((16, 16), dtype=numpy.uint8)
    left[:, :8] = 255
    masks = [Image.fromarray(mask) for mask in (left, 255 - left, left, 255 - left, left)]
    examples = make_examples(5, orientations=2)
    areas = mask_areas(masks, 0.0, examples.mean)
    assert areas.shape == (5, 2, 1, 2, 2)
    assert areas[0, 0, 0].tolist() == [[2, 0], [2, 0]]
    assert areas[0, 1, 0].tolist() == areas[1, 0, 0].tolist() == [[0, 2], [0, 2]]
    batches = Batches(
        replace(examples, areas=areas), make_examples(7), Streams(0), size=3, scale=1.0,
        process=Diffusion(torch.ones(1000), "epsilon"), prior_loss_weight=1.0, noise_offset=0.0,
    )  # fmt: skip
    seen = set()
    for _ in range(20):
        batch = batches.draw()
        assert batch.areas is not None
        for latents, area in zip(batch.latents[:3], batch.areas[:3], strict=True):
            image, orientation = divmod(int(latents[0, 0, 0]), 10)
            assert torch.equal(area, areas[image, orientation])
            seen.add((image, orientation))
        assert torch.equal(batch.areas[3:], torch.ones(3, 1, 2, 2))  # class images have no mask
        part = batch.part(1, 2).areas
        assert part is not None
        assert torch.equal(part, batch.areas[1::2])
    assert len(seen) == 10


@pytest.mark.parametrize("sized", [True, False])
def test_sizes_and_areas_are_those_of_their_images(sized: bool) -> None:
    """Where the sizes of class images are not known, none are told."""
    examples, priors = make_examples(5), make_examples(7)
    areas = torch.arange(5.0).reshape(5, 1, 1, 1, 1).expand(-1, -1, -1, 2, 2)
    examples = replace(examples, areas=areas, geometry=torch.arange(5.0)[:, None].expand(-1, 6))
    if sized:
        priors = replace(priors, geometry=100 + torch.arange(7.0)[:, None].expand(-1, 6))
    batches = Batches(
        examples, priors, Streams(0), size=3, scale=1.0, process=Diffusion(torch.ones(1000), "epsilon"),
        prior_loss_weight=1.0, noise_offset=0.0,
    )  # fmt: skip
    batch = batches.draw()
    images = batch.latents[:, 0, 0, 0] / 10
    assert batch.areas is not None
    assert torch.equal(batch.areas[:, 0, 0, 0], torch.cat([images[:3], torch.ones(3)]))
    part, first = batch.part(1, 2), batches.sample()
    if not sized:
        assert batch.geometry is part.geometry is first.geometry is None
        return
    assert batch.geometry is not None
    assert part.geometry is not None
    assert first.geometry is not None
    assert torch.equal(batch.geometry[:, 0], images + torch.tensor([0.0] * 3 + [100.0] * 3))
    assert torch.equal(part.geometry, batch.geometry[1::2])
    assert first.geometry[:, 0].tolist() == [0, 100]


def test_training_with_masks_is_seen_by_the_loss_alone(make_trainer: MakeTrainer) -> None:
    """Images, noise and steps are drawn as without masks."""
    plain = make_trainer("lora")
    masked = make_trainer("lora", masked_loss=True, background_weight=0.0)
    batches = [trainer.batches.draw() for trainer in (plain, masked)]
    assert torch.equal(batches[0].latents, batches[1].latents)
    assert batches[0].areas is None
    assert batches[1].areas is not None
    torch.testing.assert_close(batches[1].areas.mean(dim=(1, 2, 3)), torch.ones(len(batches[1].latents)))
