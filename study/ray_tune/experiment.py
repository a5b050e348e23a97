"""One Ray Tune experiment over the run queue, set up so that Tune only places workers and says nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from study.cluster.ray_cluster import environment
from study.dispatch.dispatcher import Dispatcher
from study.ray_tune.distributed_attempt import WorkersPreempted
from study.ray_tune.early_stopping import SearchScheduler
from study.ray_tune.placement import remove_placement_group
from study.ray_tune.run_actor import RunWorker
from study.ray_tune.searcher import LedgerSearcher, Watch

if TYPE_CHECKING:
    from study.spec.phases import Asha

__all__ = ["MOST_PENDING", "PREEMPTED", "place_runs", "remove_placement_group"]

MOST_PENDING = 1_000_000
#: Words that say of a worker's death that its node was taken away: Ray's, and ours.
PREEMPTED = ("the actor's node was preempted", WorkersPreempted.__name__)


def place_runs(
    dispatcher: Dispatcher, *, folder: Path, asha: Asha | None, tick: Callable[[], None]
) -> Exception | None:
    """Lets Tune work on the queue until nothing is left, or the dispatcher is stopping.

    Args:
        folder: For Tune's own files, which all nodes must see; nothing in it is ever read again.
        asha: Early stopping of search runs.
        tick: Called about ten times a second.

    Returns:
        What Tune itself died of, or None. The queue then has all its runs back and can be worked on again.
    """
    tuner = tune.Tuner(
        RunWorker,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(dispatcher, tick),
            scheduler=SearchScheduler(asha),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=dispatcher.driver_id[:12],
            storage_path=str(folder),
            verbose=0,
            # The queue hands out again what was interrupted; Tune itself tries nothing twice.
            failure_config=tune.FailureConfig(max_failures=0),
            # Tune's own default, a checkpoint at the end, would cost every run its warm worker.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            callbacks=[Watch(dispatcher, tick)],
            stop=_StopAll(dispatcher),
            log_to_file=False,
        ),
    )
    failure: Exception | None = None
    # Tune reads this once, while the dispatcher's limit follows the cluster: so the limit is the dispatcher's alone.
    with environment({"TUNE_MAX_PENDING_TRIALS_PG": str(MOST_PENDING)}), _quiet():
        try:
            tuner.fit()
        except Exception as error:
            failure = error
    dispatcher.release()
    if dispatcher.broken is not None:
        failure = dispatcher.broken
    return failure


class _StopAll(tune.Stopper):
    """Ends the experiment when the dispatcher is stopping."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Runs end by themselves."""
        return False

    def stop_all(self) -> bool:
        """Asked once a turn of Tune's loop."""
        return self._dispatcher.stopping

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _trial_name(trial: Any) -> str:
    """The run's name and Tune's id, because a run may have several attempts; also the name of a folder."""
    return f"{str(trial.config['key']).replace('/', '.')}.{trial.trial_id}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray and Tune log what the study knows better."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
