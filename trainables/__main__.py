"""``python -m trainables run.yaml``: trains one run, without Ray, Optuna or MLflow.

The file holds a RunConfig: method, subject and, as far as they differ from the defaults, model, training, evaluation,
seed, device, cpu_threads, output_dir and cache_dir; or, with ``method: classifier``, a ClassifierRunConfig. Relative
paths are relative to the file. The same command again continues an interrupted run. Exit code 0: complete; 1: the run
failed; 2: a mistake in the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trainables.classifier_run_config import CLASSIFIER, AnyRunConfig, ClassifierRunConfig
from trainables.config.fields import TrainingConfig
from trainables.config.paths import MODELS, absolute, absolute_models, absolute_subject
from trainables.config.yaml_reader import Document, load_document, locate
from trainables.errors import UserError
from trainables.evaluation.metrics_table import HELD_OUT_LOSS, METRICS, QUALITY
from trainables.events import RESULT_FILE, Event, settled_steps
from trainables.methods.registry import method_config_class
from trainables.run_config import RunConfig
from trainables.util.process import prepare_command, unspeakable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="YAML file that describes the run")
    options = parser.parse_args(arguments)
    try:
        prepare_command()
        config = load_run(options.file)
        if isinstance(config, RunConfig):
            for note in config.training.without_effect(_chosen(config.training)):
                print(f"note: training.{note}", file=sys.stderr)
        return _run(config)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding():
            raise
        print(f"error: {unspeakable(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the run is left to be resumed
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues the run from its last checkpoint", file=sys.stderr)
        return 130


def load_run(path: Path) -> AnyRunConfig:
    """Reads the description of one run.

    Raises:
        UserError: With every problem of the file and its line.
    """
    document = load_document(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: a run is a mapping with at least method and subject")
    values = _completed(document.data, path)
    if values.get("method") == CLASSIFIER:
        try:
            return ClassifierRunConfig.model_validate(values)
        except ValidationError as error:
            raise UserError(*locate(error, document, ClassifierRunConfig)) from None
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(*(_problems(values, document) or locate(error, document, RunConfig))) from None


def _chosen(training: TrainingConfig) -> list[str]:
    """Names the fields that somebody has set to what is no default."""
    stated = training.model_dump()
    defaults = [type(training).defaults_beside(stated, embedded=embedded) for embedded in (False, True)]
    return [
        name
        for name, field in type(training).model_fields.items()
        if getattr(training, name)
        not in (field.default, *(each.get(name, field.default) for each in defaults))
    ]


def _completed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the file's values with short forms written out, defaults for folders, and absolute paths."""
    base = path.resolve().parent
    values = dict(data)
    for section, key in (("model", "path"), ("subject", "name")):
        if isinstance(values.get(section), str):
            values[section] = {key: values[section]}
    values.setdefault("output_dir", f"runs/{path.stem}")
    values.setdefault("cache_dir", "runs/cache")
    for key in ("output_dir", "cache_dir", "data"):
        if isinstance(values.get(key), str):
            values[key] = absolute(values[key], base)
    if "subject" in values:
        values["subject"] = absolute_subject(values["subject"], base)
    for section, keys in MODELS.items():
        if section in values:
            values[section] = absolute_models(values[section], keys, base)
    return values


def _problems(values: dict[str, Any], document: Document) -> list[str]:
    """Returns one message an error; the method's own class knows the keys of the training section."""
    rest = {key: value for key, value in values.items() if key != "training"}
    checks: list[tuple[type[BaseModel], Any, tuple[str, ...]]] = [(RunConfig, rest, ())]
    with suppress(UserError):
        checks.append(
            (method_config_class(str(values.get("method"))), values.get("training", {}), ("training",))
        )
    found = []
    for model, part, place in checks:
        try:
            model.model_validate(part)
        except ValidationError as error:
            found += locate(error, document, model, place)
    return found


def _begun(config: AnyRunConfig) -> Generator[Event]:
    """Returns the events of a run, which loads torch."""
    if isinstance(config, ClassifierRunConfig):
        from trainables.downstream import execute as downstream

        return downstream.execute(config)
    from trainables.run import execute as run

    return run.execute(config)


def _check(config: RunConfig) -> None:
    from trainables.run.checks import check_run
    from trainables.run.prompt_checks import find_cut_prompts_of_run

    problems = check_run(config)
    if problems:
        raise UserError(*problems)
    for note in find_cut_prompts_of_run(config).notes:
        print(f"note: {note}", file=sys.stderr)


def _run(config: AnyRunConfig) -> int:
    result = Path(config.output_dir) / RESULT_FILE
    if result.exists():
        list(_begun(config))  # makes sure that it is the result of this configuration
        print(f"this run has ended before; nothing is left to do: {result.parent}", file=sys.stderr)
    else:
        if isinstance(config, RunConfig):
            _check(config)
        events = _begun(config)
        steps = config.training.stated_steps
        try:
            for event in events:
                steps = settled_steps(event) or steps
                line = _line(event, config, steps)
                if line:
                    print(line, flush=True)
        except BaseException:
            # Whatever went wrong here (a closed pipe, Ctrl-C while printing), the run has not been stopped.
            with suppress(BaseException):
                events.throw(KeyboardInterrupt())
            raise
    return _summary(json.loads(result.read_text(encoding="utf-8")), result.parent)


def _line(event: Event, config: AnyRunConfig, steps: int | None) -> str | None:
    data = event.data
    if event.kind == "started":
        resumed = f", continuing from step {data['resumed_step']}" if data["resumed_step"] else ""
        what = config.training.network if isinstance(config, ClassifierRunConfig) else config.method
        taught = config.source if isinstance(config, ClassifierRunConfig) else config.subject.name
        return f"{what} on {taught}, seed {config.seed}, {data['device_name']}{resumed}"
    if event.kind == "phase" and "label" in data:
        return f"  {data['name']}: {data['label']}, {data['images']} images"
    if event.kind == "phase":
        return f"  {data['name']}"
    if event.kind == "progress":
        return (
            f"  step {event.step}/{steps or '?'}  loss {data['loss']:.4f}  "
            f"lr {data['learning_rate']:.2e}  {data['steps_per_second']:.1f} steps/s"
        )
    if event.kind == "evaluation" and not data["final"]:
        shown = QUALITY if QUALITY in data else HELD_OUT_LOSS
        return f"  step {event.step}: {METRICS[shown].title.lower()} {_number(data.get(shown))}"
    return None


def _summary(result: dict[str, Any], folder: Path) -> int:
    for title in ("evaluation", "cost"):
        print(title)
        for name, value in result[title].items():
            print(f"  {name:28} {_number(value)}")
    if best := result.get("best"):
        print("best step")
        for name, value in best.items():
            print(f"  {name:28} {_number(value)}")
    print(f"{result['state']} after {result['attempts']} attempt{'s' * (result['attempts'] != 1)}: {folder}")
    if result["state"] == "COMPLETE":
        return 0
    print(f"error: {result['reason']}: {result['message']}", file=sys.stderr)
    return 1


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "--" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
