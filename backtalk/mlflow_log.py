"""Writes runs and aliases into MLflow, in a process of its own: its libraries take seconds and 230 MB.

Reads what to write as one JSON document on standard input, and answers a line of JSON for each run and model
that is written, or that MLflow refuses. Writing the same again changes nothing. Started by
`backtalk.experiments`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

RUN_TAG, VERSION_TAG = "backtalk.run", "backtalk.version"
CHAMPION, CHALLENGER = "champion", "challenger"
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000  # what one call of MLflow's REST API takes
_LONGEST = 6000  # characters of a parameter's value
_FOLDER = "version"  # of a run's artifacts
#: What MLflow raises where it is its server, or the way there, that fails, and not what it was told.
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class MlflowLog:
    """One tracking server or file."""

    def __init__(self, tracking_uri: str, artifacts: str | None) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._artifacts = artifacts

    def write_run(self, run: dict[str, Any]) -> str:
        """Everything of one run; its id in MLflow."""
        experiment_id = self._get_experiment(run["model"])
        run_id = self._find_run(experiment_id, run["key"]) or self._create_run(experiment_id, run)
        self._log_values(run_id, run)
        for path in map(Path, run["files"]):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), _FOLDER)
            elif path.is_file():
                self._client.log_artifact(run_id, str(path), _FOLDER)
        if run["ended_ms"] is not None:
            self._client.set_terminated(run_id, run["status"], run["ended_ms"])
        if run["version"] is not None:
            self._register(run["model"], run["version"], run_id)
        return run_id

    def _get_experiment(self, model: str) -> str:
        found = self._client.get_experiment_by_name(model)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self._artifacts}/{model}" if self._artifacts else None
        return str(self._client.create_experiment(model, artifact_location=location))

    def _find_run(self, experiment_id: str, key: str) -> str | None:
        found = self._client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create_run(self, experiment_id: str, run: dict[str, Any]) -> str:
        made = self._client.create_run(
            experiment_id,
            start_time=run["started_ms"],
            run_name=run["name"],
            tags=run["tags"] | {RUN_TAG: run["key"]},
        )
        return str(made.info.run_id)

    def _log_values(self, run_id: str, run: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in run["tags"].items()])
        params = [Param(name, str(value)[:_LONGEST]) for name, value in run["params"].items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE])
        metrics = [Metric(name, value, run["ended_ms"], step) for name, value, step in run["metrics"]]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])
        if run["dataset"] is not None:
            data = run["dataset"]
            dataset = Dataset(
                name=run["model"],
                digest=data["digest"][:36],  # MLflow keeps so many characters; a tag has all of them
                source_type="backtalk",
                source=json.dumps({"snapshot": data["digest"]}),
                profile=json.dumps(data["counts"]),
            )
            tag = InputTag("mlflow.data.context", "training")
            self._client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

    def _register(self, model: str, version: int, run_id: str) -> None:
        if not self._client.search_registered_models(f"name = '{model}'"):
            self._client.create_registered_model(model)
        if self._find_version(model, version) is None:
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{_FOLDER}"
            self._client.create_model_version(
                model, source=source, run_id=run_id, tags={VERSION_TAG: str(version)}
            )

    def _find_version(self, model: str, version: int) -> Any | None:
        """MLflow numbers versions by itself; ours stand in a tag."""
        for found in self._client.search_model_versions(f"name = '{model}'"):
            if found.tags.get(VERSION_TAG) == str(version):
                return found
        return None

    def set_aliases(self, model: str, aliases: dict[str, dict[str, Any] | None]) -> None:
        """Point each alias at the version that a run made, or at none."""
        for alias, run in aliases.items():
            if run is not None:
                self._client.set_registered_model_alias(model, alias, self._get_version(run))
            elif self._client.search_registered_models(f"name = '{model}'"):
                self._client.delete_registered_model_alias(model, alias)

    def _get_version(self, run: dict[str, Any]) -> str:
        """MLflow's number of the version that a run made; it is told now what it was not told of that."""
        found = self._find_version(run["model"], run["version"])
        if found is None or self._lacks_files(found.run_id, run["files"]):
            self.write_run(run)
            found = self._find_version(run["model"], run["version"])
        assert found is not None  # it was registered just now
        return str(found.version)

    def _lacks_files(self, run_id: str, files: list[str]) -> bool:
        """Whether a version went live since it was told of: before, only what explains it goes along."""
        folder = next((path for path in map(Path, files) if path.is_dir()), None)
        if folder is None:
            return False
        there = {Path(one.path).name for one in self._client.list_artifacts(run_id, _FOLDER)}
        return any(path.name not in there for path in folder.iterdir())


def write(wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Write all that is wanted; yields what is done, or refused, as soon as it is."""
    log = MlflowLog(wanted["tracking_uri"], wanted["artifacts"])
    for run in wanted["runs"]:
        yield _try(run["model"], partial(_write_run, log, run))
    for model in wanted["models"]:
        yield _try(model["name"], partial(_write_aliases, log, model))


def _write_run(log: MlflowLog, run: dict[str, Any]) -> dict[str, Any]:
    return {"run": run["key"], "mlflow_run_id": log.write_run(run)}


def _write_aliases(log: MlflowLog, model: dict[str, Any]) -> dict[str, Any]:
    log.set_aliases(model["name"], model["aliases"])
    return {"model": model["name"], "generation": model["generation"]}


def _try(model: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """That one model is refused (its experiment was deleted, say) is no reason not to tell of others."""
    from mlflow.exceptions import MlflowException

    try:
        return work()
    except MlflowException as error:
        if error.error_code in _AWAY:
            raise
        return {"refused": model, "reason": str(error)}
    except (FileNotFoundError, PermissionError) as error:  # of the place where its artifacts are to lie
        return {"refused": model, "reason": str(error)}


def main() -> None:
    """Answers on the real standard output; whatever libraries print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for done in write(json.load(sys.stdin)):
        answers.write(json.dumps(done) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
