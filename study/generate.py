"""Images from a run's weights, drawn by the stock pipeline with the weights loaded by stock diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from study.export.trained import complete_run, config_of, weights_of
from study.preflight.notes import print_notes
from study.storage.layout import Storage
from trainables.config.fields import TrainingConfig
from trainables.config.messages import unknown_placeholders
from trainables.errors import UserError
from trainables.methods.registry import get_method
from trainables.methods.strengths import Dial, strength_obstacle

if TYPE_CHECKING:
    from PIL import Image

_STRONGEST = 10
_OWN = re.compile(r"(\d+-\d+(-s[-+.e\d]+)?|grid-\d+)\.png")
_MARK = ("Software", "study generate")  # in the files, by which they are known later
_SUBJECT = re.compile(r"\{subject\}[\s,]*")


def draw_images(
    storage: Storage,
    run: str,
    prompts: Sequence[str],
    out: Path,
    *,
    count: int = 4,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    strengths: Sequence[float] = (),
) -> list[Path]:
    """Draws `count` images of each prompt as the run was judged, and writes them as PNG.

    A folder shows one call: images that an earlier one left in it, and this one does not write again, are removed
    once all are written; other files stay.

    They are of the resolution that it was trained and judged at, and drawn by the solver of its evaluation (see
    `make_solver`), not by the sampler that the model's folder names.

    Args:
        run: Name of a run or an arm, see `complete_run`.
        prompts: ``{subject}`` stands for the run's instance prompt, or a data set's trigger with a comma after it.
            What names the subject there is said in the words of the run's method.
        seed: Image i of each prompt starts from the noise of generator seed + i, so arms can be compared.
        steps: Of the solver; None: as many as in the run's evaluation. `guidance` likewise.
        strengths: Of the training, 0: the base model, 1: as trained; each image is drawn at each of them, from the same
            noise, and there is a grid of strengths and prompts for each number. Empty: as trained. Adapters are merged
            into the weights for it, so that 1 differs from that by rounding (see ``trainables/methods/strengths.py``).

    Returns:
        The files' paths; ``<prompt>-<image>.png``, with strengths ``<prompt>-<image>-s<strength>.png`` and
        ``grid-<image>.png``.

    Raises:
        UserError: Before anything is loaded: there is no such run, its method has no strength, a strength is no number
            from -10 to 10, or a prompt has a placeholder that nothing is put for.
    """
    for value in strengths:
        if not _is_strength(value):
            raise UserError(f"a strength is a number from -{_STRONGEST} to {_STRONGEST}; got {value!r}")
    unknown = [
        said for prompt in prompts for said in unknown_placeholders(prompt, "the run's instance prompt")
    ]
    if unknown:
        raise UserError(*(f"--prompt {said}" for said in dict.fromkeys(unknown)))
    folder = complete_run(storage, run)
    config = config_of(run, folder)
    method = get_method(config.method)
    if strengths and (problem := strength_obstacle(method)):
        raise UserError(problem)
    weights = weights_of(storage, run, folder) if method.trains else None

    import torch

    from trainables.data.subjects import prompts_of
    from trainables.models.loading import load_backbone
    from trainables.models.placeholders import expand
    from trainables.models.prompt_lengths import memory_reader
    from trainables.models.solvers import make_solver
    from trainables.run.prompt_checks import find_cut

    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(config.model, device)
    pipeline = backbone.pipeline()
    turn: Dial | None = None
    if weights is not None and strengths:
        turn = method.with_strength(backbone, weights)  # type: ignore[attr-defined]
    elif weights is not None:
        pipeline = method.load(pipeline, weights).to(device)
        pipeline.set_progress_bar_config(disable=True)
    side = config.training.resolution or backbone.resolution
    pipeline.scheduler = make_solver(backbone)
    instance, of_class = prompts_of(config.subject)
    training = config.training.for_subject(instance, of_class)
    prompts = _after_trigger(prompts, instance) if config.subject.is_data_set else prompts
    texts, notes = _reworded(training, prompts, instance)
    read = [expand(text, training.added_words) for text in texts]
    reads = getattr(pipeline, backbone.family.tokenizers[backbone.family.reader])
    print_notes([*notes, *find_cut(read, memory_reader(reads), config.model.path)])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder --out {out} cannot be made ({error}); name another one") from None
    drawn: dict[tuple[int, int, float | None], Image.Image] = {}
    for strength in strengths or (None,):
        if turn is not None and strength is not None:
            turn(strength)
        for index, text in enumerate(texts):
            generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
            images = pipeline(
                [text] * count,
                generator=generators,
                height=side,
                width=side,
                num_inference_steps=steps or config.evaluation.num_inference_steps,
                guidance_scale=config.evaluation.guidance_scale if guidance is None else guidance,
            ).images
            drawn |= {(index, number, strength): image for number, image in enumerate(images)}
    return _written(drawn, texts, tuple(strengths), out)


def parse_strengths(text: str) -> tuple[float, ...]:
    """Returns the strengths of ``--strength``: numbers with commas between them, in the order given.

    Raises:
        UserError: One is no number from -10 to 10, or stands there twice.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = float("nan")
        if not _is_strength(value):
            raise UserError(
                f"--strength takes numbers from -{_STRONGEST} to {_STRONGEST} with commas between them, such as "
                f"0,0.5,1; got {part.strip()!r} in {text!r}"
            )
        if f"{value:g}" in [f"{other:g}" for other in found]:  # it names files
            raise UserError(f"--strength {text!r} has {value:g} twice; name each strength once")
        found.append(value)
    return tuple(found)


def _is_strength(value: float) -> bool:
    return -_STRONGEST <= value <= _STRONGEST  # which no NaN is


def _written(
    drawn: Mapping[tuple[int, int, float | None], Image.Image],
    texts: Sequence[str],
    strengths: tuple[float, ...],
    out: Path,
) -> list[Path]:
    """Writes images of (prompt, number, strength), and with strengths a grid for each number.

    What an earlier call left is removed: beside it, nobody could tell which images a grid shows.
    """
    from PIL.PngImagePlugin import PngInfo

    from trainables.evaluation.grids import GridRow, draw_grid

    mark = PngInfo()
    mark.add_text(*_MARK)
    earlier = _earlier_images(out)
    paths = []
    for (index, number, strength), image in sorted(drawn.items(), key=lambda entry: entry[0][:2]):
        end = "" if strength is None else f"-s{strength:g}"
        path = out / f"{index:02d}-{number:02d}{end}.png"
        image.save(path, pnginfo=mark)
        paths.append(path)
    for number in sorted({key[1] for key in drawn}) if strengths else ():
        rows = [
            GridRow(text, tuple(drawn[index, number, strength] for strength in strengths))
            for index, text in enumerate(texts)
        ]
        path = out / f"grid-{number:02d}.png"
        shown = ", ".join(f"{strength:g}" for strength in strengths)
        draw_grid(rows, f"strength {shown}").save(path, pnginfo=mark)
        paths.append(path)
    left = earlier.difference(paths)
    for path in left:
        path.unlink(missing_ok=True)
    if left:
        print_notes([f"{len(left)} images of an earlier call were removed from {out}, which shows this one"])
    return paths


def _earlier_images(folder: Path) -> set[Path]:
    """The images in a folder that were written by an earlier call, by their names and the mark in them."""
    from PIL import Image

    found = set()
    for path in folder.iterdir():
        if _OWN.fullmatch(path.name) and path.is_file():
            with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:  # none of ours
                if image.info.get(_MARK[0]) == _MARK[1]:
                    found.add(path)
    return found


def _after_trigger(prompts: Sequence[str], trigger: str) -> list[str]:
    """Returns prompts of a data set with its trigger and a comma in the placeholder's place, as captions have it.

    Args:
        trigger: With the comma; empty where there is none.
    """
    return [
        _SUBJECT.sub(lambda _: trigger, prompt).rstrip(
            ", " if prompt.rstrip(", ").endswith("{subject}") else ""
        )
        for prompt in prompts
    ]


def _reworded(
    training: TrainingConfig, prompts: Sequence[str], instance_prompt: str
) -> tuple[list[str], list[str]]:
    """Returns prompts in the words by which a method was taught, and a note on each that has none of them.

    Args:
        training: After `for_subject`.
        prompts: ``{subject}`` in them stands for the instance prompt.
    """
    from trainables.evaluation.prompts import fill

    texts, notes = [], []
    for prompt in prompts:
        text = fill(prompt, training.reword(instance_prompt))
        try:
            text = training.reword(text)
        except UserError as error:
            notes += [f"nothing that was learnt is in a prompt: {problem}" for problem in error.problems]
        texts.append(text)
    return texts, notes
