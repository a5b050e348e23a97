"""Studies with faults, one after the other: their plans, their record, and the table of all."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.harness.at_url import note_floors
from tests.faults.harness.checker import Findings, check
from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.injectors import KINDS, SETTINGS
from tests.faults.harness.settings import MOST_AT_ONCE, TIMES, WORKER_GROUPS, setting
from tests.faults.harness.studies import end_marks, fingerprint, make_models, run_folders


@dataclass(frozen=True)
class Plan:
    """A study and the faults that shall hit it, one after the other."""

    seed: int
    number: int
    setting: str
    kinds: tuple[str, ...]


@dataclass
class Session:
    """Everything that studies share: a folder, models, the uninterrupted study, servers, a cluster.

    Args:
        record: Called with each fault and each checked study, as JSON values.
        say: Takes a line for the user.
        usual: Which study (`studies.CONTENTS`) faults hit where the setting does not say it.
    """

    folder: Path
    record: Callable[[dict[str, Any]], None]
    say: Callable[[str], None]
    references: dict[str, Any] = field(default_factory=dict)
    usual: str = "usual"

    def prepare(self) -> None:
        """Makes the models; not again in the same folder."""
        self.models = self.folder / "models"
        done = self.folder / "models-are-made"
        if not done.exists():
            make_models(self.models)
            done.touch()

    def reference(self, kind: str) -> dict[str, Any]:
        """Returns what every run of a study must come to: it is run once without a fault."""
        if kind not in self.references:
            self.references[kind] = self._without_faults(kind)
        found: dict[str, Any] = self.references[kind]
        return found

    def _without_faults(self, kind: str) -> dict[str, Any]:
        folder = self.folder / f"reference-{kind}"
        driven = Driven(folder, self.models, "reference", random.Random(0), kind=kind, pace=0.0)
        if not (folder / "done").exists():
            try:
                driven.wait_for(lambda: False, "the study without faults", 900.0)
            finally:
                driven.kill_everything()
        found = {name: fingerprint(place) for name, place in run_folders(driven.storage).items()}
        reference: dict[str, Any] = json.loads(json.dumps(found))
        findings = check(driven, reference, {})
        if driven.launches > 1 or findings.lost or findings.doubled:
            raise RuntimeError(f"the study fails without faults: {driven.restarts} {findings}")
        (folder / "done").touch()
        return reference

    def run(self, plan: Plan) -> int:
        """Runs one study with its faults; returns how many of them were injected."""
        rng = random.Random(f"{plan.seed}/{plan.number}")
        name = f"faults-{plan.seed}-{plan.number}"
        kind = "worker_group" if plan.setting in WORKER_GROUPS else self.usual
        reference = self.reference(kind)
        with contextlib.ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            more = stack.enter_context(setting(plan.setting, folder, self.folder))
            driven = Driven(folder, self.models, name, rng, kind=kind, **more)
            if driven.database is not None:
                stack.callback(driven.database.drop_database, name)
            stack.callback(driven.kill_everything)
            return self._run(plan, driven, folder, reference)

    def _run(self, plan: Plan, driven: Driven, folder: Path, reference: dict[str, Any]) -> int:
        injected = 0
        ended: dict[str, str] = {}
        problem = None
        findings = Findings()
        try:
            for position, kind in enumerate(plan.kinds):
                delay = driven.rng.uniform(0.0, 2.0)
                if not driven.wait_for(
                    lambda: bool(driven.halfway()) and driven.alive, "the middle of a run"
                ):
                    break
                time.sleep(delay)
                if driven.finished:
                    break
                ended |= end_marks(driven.storage)
                if driven.url is not None:
                    note_floors(driven)
                injected += 1
                line = {
                    "study": driven.name,
                    "seed": plan.seed,
                    "number": plan.number,
                    "position": position,
                    "kind": kind,
                }
                seconds = self._inject(kind, driven)
                self.record({"record": "fault", **line, "seconds": seconds})
            driven.tell("pace", "0")  # nothing has to be hit any more
            driven.wait_for(lambda: False, "the end of the study", 600.0)
            findings = check(driven, reference, ended)
        except (Hung, AssertionError) as error:
            problem = f"{type(error).__name__}: {error}"
        except Exception as error:
            problem = f"harness: {type(error).__name__}: {error}"
        result = {
            "record": "study", "study": driven.name, "setting": plan.setting, "kinds": plan.kinds[:injected],
            "launches": driven.launches, "exit_codes": driven.exit_codes,
            "attempts": driven.all_attempts(), "deaths": driven.worker_failures(),
            "lost": findings.lost, "doubled": findings.doubled, "hung": problem,
        }  # fmt: skip
        self.record(result)
        if problem or findings.lost or findings.doubled:
            kept = self.folder / "kept" / driven.name
            shutil.rmtree(kept, ignore_errors=True)
            driven.kill_everything()
            shutil.copytree(
                folder, kept, ignore=shutil.ignore_patterns("filler", "ray", "scratch"), dirs_exist_ok=True
            )
            self.say(f"{driven.name}: {problem or ''} {findings}\n  kept in {kept}")
        return injected

    def _inject(self, kind: str, driven: Driven) -> float:
        began = time.monotonic()
        recovered = KINDS[kind](driven)
        over = time.monotonic()
        driven.wait_for(recovered, f"recovery from {kind}")
        seconds = time.monotonic() - over
        self.say(f"  {driven.name} {kind}: overcome after {seconds:.1f} s ({over - began:.1f} s of fault)")
        return round(seconds, 2)


def plans(seed: int, kinds: Sequence[str]) -> Iterator[Plan]:
    """Endlessly yields studies with faults in random order, round by round; in a round every kind comes."""
    rng = random.Random(seed)
    number = 0
    while True:
        rounds: list[tuple[str, tuple[str, ...]]] = []
        for place, known in SETTINGS.items():
            mine = [kind for kind in kinds if kind in known]
            most = MOST_AT_ONCE[place]
            mine *= TIMES.get(place, 1)
            rng.shuffle(mine)
            rounds += [(place, tuple(mine[first : first + most])) for first in range(0, len(mine), most)]
        rng.shuffle(rounds)
        for place, chosen in rounds:
            yield Plan(seed, number, place, chosen)
            number += 1


def table(records: Sequence[dict[str, Any]]) -> tuple[list[list[str]], bool]:
    """Returns the table of faults, a row a kind with its header first, and whether all is well."""
    studies = {record["study"]: record for record in records if record["record"] == "study"}
    rows = [["fault", "injected", "survived", "lost", "doubled", "hung", "recovery s (median)", "(max)"]]
    totals = [0, 0, 0, 0, 0]
    everything: list[float] = []
    for kind in KINDS:
        mine = [study for study in studies.values() for injected in study["kinds"] if injected == kind]
        if not mine:
            continue
        seconds = [
            record["seconds"] for record in records if record["record"] == "fault" and record["kind"] == kind
        ]
        everything += seconds
        bad = [bool(study["lost"]) or bool(study["doubled"]) or bool(study["hung"]) for study in mine]
        counts = [
            len(mine),
            len(mine) - sum(bad),
            sum(len(study["lost"]) for study in mine),
            sum(len(study["doubled"]) for study in mine),
            sum(bool(study["hung"]) for study in mine),
        ]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        rows.append([kind, *map(str, counts), *_spread(seconds)])
    rows.append(["all", *map(str, totals), *_spread(everything)])
    return rows, totals[0] == totals[1]


def _spread(seconds: list[float]) -> list[str]:
    return [f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["", ""]
