"""Images from a run's weights, drawn by the stock pipeline with the weights loaded by stock diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from study.preflight.notes import print_notes
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from study.storage.safe_paths import inside
from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.evaluation.metrics_table import QUALITY
from trainables.events import RESULT_FILE, RUN_FILE
from trainables.run.contents import contents_of, digests
from trainables.run_config import RunConfig


def complete_run(storage: Storage, name: str) -> Path:
    """Returns the folder of a complete run, given its name or that of an arm (its best confirm run by quality).

    Raises:
        UserError: There is none; the message lists what there is.
    """
    runs = storage.runs
    try:
        folder = storage.run_folder(RunKey.parse(name))
    except ValueError:
        found = (
            [path.parent for path in sorted(runs.glob(f"*/{name}/*/{RESULT_FILE}"))]
            if "/" not in name
            else []
        )
        complete = [path for path in found if _is_complete(path)]
        confirm = [path for path in complete if path.parent.parent.name == "confirm"] or complete
        if not confirm:
            arms = sorted({path.name for path in runs.glob("*/*")})
            raise UserError(
                f"{name!r} is neither a run (phase/arm/0000-subject-s0) nor an arm with a complete run; "
                f"arms with runs: {', '.join(arms) or 'none'}"
            ) from None
        return max(confirm, key=_quality)
    if not _is_complete(folder):
        raise UserError(
            f"run {name!r} is not complete; `{storage.command('trials')}` shows the state of each run"
        )
    return folder


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
) -> list[Path]:
    """Draws `count` images of each prompt as the run was judged, and writes them as PNG.

    They are of the resolution that it was trained and judged at, and drawn by the solver of its evaluation (see
    `make_solver`), not by the sampler that the model's folder names.

    Args:
        run: Name of a run or an arm, see `complete_run`.
        prompts: ``{subject}`` stands for the run's instance prompt. What names the subject there is said in the words
            of the run's method.
        seed: Image i of each prompt starts from the noise of generator seed + i, so arms can be compared.
        steps: Of the solver; None: as many as in the run's evaluation. `guidance` likewise.

    Returns:
        The files' paths.
    """
    folder = complete_run(storage, run)
    config = RunConfig.model_validate_json((folder / RUN_FILE).read_text(encoding="utf-8"))
    _require_same_model(run, config)
    result = read_result(folder)
    weights = result.weights if result is not None else None
    if storage.url is not None and weights:
        from study.remote.working_copy import fetch_weights

        fetch_weights(storage, "/".join(folder.parts[-3:]))

    import torch

    from trainables.data.subjects import resolve_subject
    from trainables.methods.registry import get_method
    from trainables.models.loading import load_backbone
    from trainables.models.placeholders import expand
    from trainables.models.prompt_lengths import memory_reader
    from trainables.models.solvers import make_solver
    from trainables.run.prompt_checks import find_cut

    method = get_method(config.method)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(config.model, device)
    pipeline = backbone.pipeline()
    if method.trains:
        place = inside(folder, weights) if weights else None
        if place is None or not place.is_dir():
            raise UserError(f"the weights of {run!r} are gone: {folder / str(weights)} does not exist")
        pipeline = method.load(pipeline, place).to(device)
        pipeline.set_progress_bar_config(disable=True)
    side = config.training.resolution or backbone.resolution
    pipeline.scheduler = make_solver(backbone)
    subject = resolve_subject(config.subject, side)
    training = config.training.for_subject(subject.instance_prompt, subject.class_prompt)
    texts, notes = _reworded(training, prompts, subject.instance_prompt)
    read = [expand(text, training.added_words) for text in texts]
    reads = getattr(pipeline, backbone.family.tokenizers[backbone.family.reader])
    print_notes([*notes, *find_cut(read, memory_reader(reads), config.model.path)])
    out.mkdir(parents=True, exist_ok=True)
    paths = []
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
        for number, image in enumerate(images):
            path = out / f"{index:02d}-{number:02d}.png"
            image.save(path)
            paths.append(path)
    return paths


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


def _require_same_model(run: str, config: RunConfig) -> None:
    """Weights mean something on the base model that they were trained on alone."""
    held, here = config.contents.get("model"), digests(contents_of(None, config.model)).get("model")
    if held is not None and here is not None and held != here:
        raise UserError(
            f"run {run!r} was trained on another base model than lies in {config.model.path!r} now; put back the "
            "model's files of that time"
        )


def _is_complete(folder: Path) -> bool:
    result = read_result(folder)
    return result is not None and result.state == "COMPLETE"


def _quality(folder: Path) -> float:
    result = read_result(folder)
    return (result.value(QUALITY) if result is not None else None) or 0.0
