"""Early stopping of search runs, as a scheduler of Ray Tune that stops nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from study.cluster.ray_private import forget_reset, pending_trials
from study.worker.attempt import SCORE
from study.worker.stop_order import order_stop

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from study.spec.phases import Asha

BUDGET = "budget"


class SearchScheduler(FIFOScheduler):
    """Early stopping (ASHA) among the search runs of an arm; confirm runs are never stopped.

    A run that shall stop gets a stop order in its folder, which its worker obeys at the next event: so the run
    itself writes its end, and a worker or driver that dies in between changes nothing.

    Args:
        asha: None: nothing is stopped.
    """

    def __init__(self, asha: Asha | None) -> None:
        super().__init__()
        self._asha = asha
        self._groups: dict[str, AsyncHyperBandScheduler] = {}
        self._stopped: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Enters a run into its group."""
        group = self._group(trial)
        if group is not None:
            group.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Judges a run at an evaluation before its end."""
        group = self._group(trial)
        judged = group is not None and SCORE in result and not result.get("done") and result[BUDGET] < 1
        if judged and trial.trial_id not in self._stopped:
            assert group is not None
            if group.on_trial_result(tune_controller, trial, result) == self.STOP:
                self._stopped.add(trial.trial_id)
                where = {
                    "url": trial.config["url"],
                    "study": trial.config["study"],
                    "run": trial.config["key"],
                }
                order_stop(_folder(trial), f"asha at {result[BUDGET]:.2f} of its steps", **where)
        return str(self.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Chooses who gets the next free worker: the oldest run for which none is being started yet.

        Tune itself would choose the oldest run that waits, and end the worker that is just starting for it on a
        node that came late: where runs end often, such a node would never get a worker to its feet. It would also
        look at every trial there ever was, ten times a second.
        """
        for trial, starting in pending_trials(tune_controller):
            if trial.status == trial.PENDING and not starting:
                chosen: Trial = trial
                return chosen
        return None

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Lets Tune forget that it was resetting the actor of a run, or it would wait for that for ever."""
        forget_reset(tune_controller, trial)

    def _group(self, trial: Trial) -> AsyncHyperBandScheduler | None:
        if self._asha is None or trial.config["phase"] != "search":
            return None
        name = trial.config["group"]
        if name not in self._groups:
            self._groups[name] = AsyncHyperBandScheduler(
                time_attr=BUDGET,
                metric=SCORE,
                mode="max",
                max_t=1.0,
                grace_period=self._asha.grace_fraction,
                reduction_factor=self._asha.reduction_factor,
            )
        return self._groups[name]

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _folder(trial: Trial) -> Path:
    return Path(json.loads(trial.config["config"])["output_dir"])
