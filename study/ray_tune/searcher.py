"""The run queue as Ray Tune sees it: a searcher that hands out runs, a scheduler for early stopping.

Each attempt at a run is one Tune trial. Tune itself never retries and never restores, because ledger and run
folders tell what happened: a run whose worker died is simply handed out again, and Tune's own bookkeeping may
be thrown away at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher

from study.cluster.ray_private import draining_nodes
from study.dispatch.deaths import LOOK_SECONDS
from study.dispatch.dispatcher import Dispatcher

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class LedgerSearcher(Searcher):
    """Tune asks this what to run.

    Args:
        tick: Called where there is nothing to run. While none is under way Tune asks again and again, for up to ten
            minutes, and does nothing else: without it nobody would look at signals, nodes and the clock.
    """

    def __init__(self, dispatcher: Dispatcher, tick: Callable[[], None]) -> None:
        super().__init__(metric=None, mode=None)
        self._dispatcher = dispatcher
        self._tick = tick

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns an order, None if none is ready, or that all is done."""
        order = self._dispatcher.next_order(trial_id)
        if order is not None:
            return order.to_dict()
        self._tick()
        return Searcher.FINISHED if self._dispatcher.over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report means that something is going on, unless it says that it waits for the workers of a run."""
        if not result.get("waiting"):
            self._dispatcher.touch()
        if result.get("placement_group"):
            self._dispatcher.holds(trial_id, result["placement_group"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """An attempt has ended; a dead worker is taken care of by `Watch`, which knows why."""
        if not error:
            self._dispatcher.ended(trial_id)

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        """The space is the ledger's."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the ledger is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that never happens


class Watch(tune.Callback):
    """Hears of dead workers with their cause, and ends an experiment that must not go on."""

    def __init__(self, dispatcher: Dispatcher, tick: Callable[[], None]) -> None:
        self._dispatcher = dispatcher
        self._tick = tick
        self._next_look = 0.0

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune's loop went round once."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._look_for_drains()
        self._tick()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A worker begins."""
        self._dispatcher.began(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A run has ended."""
        _forget_metrics(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A worker died, or Tune could not use it."""
        _forget_metrics(trial)
        cause = _cause(trial)
        self._look_for_drains()
        self._dispatcher.died(trial.trial_id, cause[-4000:])

    def _look_for_drains(self) -> None:
        self._dispatcher.announced |= dict.fromkeys(draining_nodes(), time.monotonic())

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _cause(trial: Trial) -> str:
    """What Tune wrote down of an error. It writes to this machine's disk first, and `get_error` looks elsewhere."""
    try:
        return Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return str(trial.get_error() or "unknown")


def _forget_metrics(trial: Trial) -> None:
    """Drops Tune's running statistics of what a trial reported: 40 KiB a trial, kept as long as the driver lives."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
