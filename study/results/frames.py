"""Results as typed tables: runs, points of curves, images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.results.columns import (
    INTEGERS,
    PARAM_PREFIX,
    SCORE_COLUMNS,
    SCORE_INTEGERS,
    SCORE_NUMBERS,
    TEXTS,
    TIMES,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from study.results.downstream import Downstream


@dataclass(frozen=True)
class Results:
    """Everything that a report is made of.

    Attributes:
        frame: One row a run; columns and their order in ``study.results.columns``. Metrics are float64 (missing:
            NaN), trial, seed, max_train_steps and attempts Int64, texts str, started and ended UTC times.
        curves: One row a point of ``eval/*``, ``choice/*`` and ``train/loss`` (`CURVE_COLUMNS`; see `curve_of`).
        images: One row a sample grid: `IMAGE_COLUMNS`, `path` of a PNG on this machine.
        meta: study, study_id, spec (the frozen study file), spec_digest, launches (commit, versions,
            machine), tracking_uri without credentials.
        image_scores: One row an image of a final evaluation (`SCORE_COLUMNS`); empty where runs kept none.
        downstream: What is known of its downstream phase; None where there is nothing of it.
    """

    frame: DataFrame
    curves: DataFrame
    images: DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    image_scores: DataFrame = field(default_factory=lambda: scores_of([]))
    downstream: Downstream | None = None

    def _repr_html_(self) -> str:
        return str(self.frame._repr_html_())  # type: ignore[operator]


def frame_of(found: list[dict[str, Any]]) -> DataFrame:
    """Makes the typed frame of rows that have the same keys."""
    import pandas as pd

    columns = list(found[0]) if found else []
    data = {}
    for name in columns:
        values = [row[name] for row in found]
        if name in TIMES:
            data[name] = pd.Series(pd.to_datetime(values, utc=True, format="ISO8601")).dt.as_unit("ms")
        elif name in INTEGERS:
            data[name] = pd.Series(values, dtype="Int64")
        elif name in TEXTS:
            data[name] = pd.Series(values, dtype="str")
        elif name.startswith(PARAM_PREFIX):
            data[name] = _param_series(values)
        else:
            data[name] = pd.Series(
                [float("nan") if value is None else value for value in values], dtype="float64"
            )
    return pd.DataFrame(data, columns=columns)


def _param_series(values: list[Any]) -> Any:
    """Types a parameter by its values: booleans, numbers, else texts."""
    import pandas as pd

    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return pd.Series(values, dtype="boolean")
    if there and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return pd.Series([float("nan") if value is None else value for value in values], dtype="float64")
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pd.Series(texts, dtype="str")


def scores_of(found: list[dict[str, Any]]) -> DataFrame:
    """Makes the typed table of the images' scores: counts Int64, scores float64, the rest str."""
    import pandas as pd

    table = pd.DataFrame(found, columns=list(SCORE_COLUMNS))
    kinds = dict.fromkeys(("trial", "seed", *SCORE_INTEGERS), "Int64") | dict.fromkeys(
        SCORE_NUMBERS, "float64"
    )
    return table.astype({name: kinds.get(name, "str") for name in SCORE_COLUMNS})


def table_of(found: list[dict[str, Any]], columns: tuple[str, ...]) -> DataFrame:
    """Makes the typed table of curves or images."""
    import pandas as pd

    table = pd.DataFrame(found, columns=list(columns))
    integers = {name: "Int64" for name in ("trial", "seed", "step") if name in columns}
    numbers = {name: "float64" for name in ("value",) if name in columns}
    texts = {name: "str" for name in columns if name not in integers and name not in numbers}
    return table.astype({**integers, **numbers, **texts})
