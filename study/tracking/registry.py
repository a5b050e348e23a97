"""A study's entry in MLflow's registry of models: found or made, its versions and their aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from study.tracking.mlflow_store import MlflowStore, is_missing

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import RegisteredModel

_STUDY_ID, _MODEL_ID = "study_id", "model_id"  # tags
_VERSIONS = "mlflow.modelVersions"  # MLflow's own tag of a LoggedModel


class Registry:
    """The registered model of one study, which bears the study's name.

    A registered model of that name that somebody else has made is left alone: then the study's id is added to the name.
    Every method raises what MLflow raises.
    """

    def __init__(self, store: MlflowStore, study_id: str) -> None:
        self._client = store.client
        self._store = store
        self._study_id = study_id

    def give_alias(
        self,
        alias: str,
        model_id: str,
        run_id: str,
        weights: Path | None,
        tags: Mapping[str, str],
        description: str,
    ) -> None:
        """Puts an alias to the version of a LoggedModel, which is registered if it is not; repeating changes nothing.

        Args:
            weights: A folder whose files become the model's own artifacts when it is registered, so that
                ``models:/<name>@<alias>`` can be fetched.
        """
        entry = self._own_entry()
        model = self._client.get_logged_model(model_id)
        version = self._version_of(entry.name, model_id)
        if version is None:
            if weights is not None:
                self._client.log_model_artifacts(model_id, str(weights))
            # Not `models:/<id>`: over a bare database MLflow would look for that in its process's default store.
            source, known = model.artifact_location, {**tags, _STUDY_ID: self._study_id, _MODEL_ID: model_id}
            made = self._client.create_model_version(
                entry.name, source, run_id, known, None, description, 0, model_id
            )
            version = str(made.version)
        self._note_at_model(model, entry.name, version)
        if str(entry.aliases.get(alias)) != version:
            self._client.set_registered_model_alias(entry.name, alias, version)

    def _note_at_model(self, model: LoggedModel, name: str, version: str) -> None:
        """Says at the LoggedModel that it is registered, as servers and MLflow's `register_model` do."""
        known = json.loads(model.tags.get(_VERSIONS, "[]"))
        if (name, version) not in [(one["name"], str(one["version"])) for one in known]:
            known.append({"name": name, "version": version})
            self._client.set_logged_model_tags(model.model_id, {_VERSIONS: json.dumps(known)})

    def _own_entry(self) -> RegisteredModel:
        study = self._store.study
        for name in (study, f"{study}-{self._study_id}"):
            try:
                found = self._client.get_registered_model(name)
            except Exception as error:
                if not is_missing(error):
                    raise
                tags = {"study": study, _STUDY_ID: self._study_id}
                return self._client.create_registered_model(name, tags, f"Results of study {study}.")
            if found.tags.get(_STUDY_ID) == self._study_id:
                return found
        raise ValueError(f"the registered models {study!r} and {name!r} belong to others")

    def _version_of(self, name: str, model_id: str) -> str | None:
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
            for version in page:
                if version.tags.get(_MODEL_ID) == model_id:
                    return str(version.version)
            token = page.token
            if not token:
                return None
