"""The installed Optuna has the private names that this program uses; in which files: tests/test_architecture.py."""

import pytest

from tests.helpers.private_names import has


@pytest.mark.parametrize(
    "name",
    [
        "optuna.storages._rdb.models:TrialModel.study_id",
        "optuna.storages._rdb.models:TrialModel.trial_id",
        "optuna.storages:RDBStorage._get_prepared_new_trial",
        "optuna.study:Study._study_id",
        "optuna.study._frozen:FrozenStudy._study_id",
        "optuna.trial:FrozenTrial._trial_id",
    ],
)
def test_the_installed_optuna_has_it(name: str) -> None:
    assert has(name)
