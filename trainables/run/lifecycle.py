"""How a run of either kind begins, ends and is gone on with in its folder, whatever it computes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from trainables.classifier_run_config import AnyRunConfig, Config
from trainables.data.path_map import set_path_map
from trainables.events import CHECKPOINTS, Event, EventLog, is_over
from trainables.run.outcomes import describe, is_provided_for, outcome
from trainables.run.run_folder import claim, only_one, read_begun, require_same, write_result
from trainables.storage_errors import storage_failure


class Attempt(Protocol):
    """One try at a run.

    Attributes:
        sound: It has ended, in a way that is provided for; set before `give_back`.
    """

    sound: bool

    def start(self) -> Event:
        """Records where and with what the attempt runs."""
        ...

    def run(self) -> Iterator[Event]:
        """Does everything, and yields each event after it has been recorded."""
        ...

    def record_last_cost(self) -> None:
        """Records the cost of a run that ends early."""
        ...

    def record_best(self, end: int | None) -> list[Event]:
        """Records which step was best, where there is more than one; `end` is the last, if training has come to it."""
        ...

    def finish(self, outcome: dict[str, Any]) -> Event:
        """Records the end and writes the result; see `finish`."""
        ...

    def give_back(self) -> None:
        """Lets go of what the attempt holds; fails neither this run nor the next."""
        ...


def lead(
    config: Config,
    seal: Callable[[Config], Config],
    attempt_of: Callable[[Config, Path, EventLog], Attempt],
    failure_reason: Callable[[dict[str, Any]], dict[str, Any]] = lambda own: own,
) -> Generator[Event]:
    """Makes one attempt at a run in its folder; `trainables.run.execute.execute` says what holds.

    Args:
        seal: Returns the configuration with what it reads, or raises InputsChanged.
        attempt_of: Begins an attempt, without writing anything.
        failure_reason: Of several processes that train together, what they have failed of, given this one's outcome.
    """
    folder = Path(config.output_dir)
    begun = read_begun(folder)
    if begun is not None:  # what it found when it began counts, where the configuration says nothing of it
        known = {field: config.contents.get(field, digest) for field, digest in begun.contents.items()}
        config = config.model_copy(update={"contents": known})
    if is_over(folder):
        require_same(folder, begun, config)
        return
    set_path_map(config.path_map)
    whole = seal(config)
    config = whole if begun is None else config
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        claim(folder, config)
        log = EventLog(folder)
        if log.last_kind == "finished":  # killed between the last event and the result
            write_result(folder, config)
            return
        attempt = attempt_of(config, folder, log)
        try:
            yield attempt.start()
            yield from attempt.run()
            ending, attempt.sound = outcome("COMPLETE"), True
        except GeneratorExit:
            attempt.sound = True
            if not sys.is_finalizing():  # then nobody has stopped the run, the process is going away
                attempt.record_last_cost()
                attempt.record_best(None)
                attempt.finish(outcome("PRUNED", "stopped_early"))
            raise
        except Exception as error:
            attempt.sound = is_provided_for(error)
            if storage_failure(error, folder):
                raise  # the run is not to blame, and what it was doing can be done again
            # The text only: a traceback object would keep the run's tensors alive.
            ending = failure_reason(describe(error))
        finally:
            attempt.give_back()
        if ending["state"] == "FAIL":
            attempt.record_last_cost()
        yield attempt.finish(ending)


def finish(folder: Path, config: AnyRunConfig, log: EventLog, step: int, ending: dict[str, Any]) -> Event:
    """Records the end of a run and writes its result."""
    event = log.append("finished", step, **ending)
    write_result(folder, config)
    if ending["state"] != "FAIL":  # what a failed run left behind may help to find out why
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return event
