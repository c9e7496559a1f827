"""The API called as its own OpenAPI document says, by schemathesis: every check, and chains of calls."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.engine.recorder import CheckNode, ScenarioRecorder

from tests.served import make_jpeg

SEED = 20_261_124
STEPS = 8  # calls in one chain
PICTURES = tuple(make_jpeg(seed) for seed in range(8))


@dataclass
class Summary:
    """What a run called, and what it found."""

    documented: int = 0  # operations
    chained: int = 0  # calls that took something from an answer before
    operations: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return sum(self.statuses.values())

    def describe(self) -> str:
        def join(counts: Counter[Any]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        return (
            f"{len(self.operations)} operations, {self.calls} calls ({join(self.phases)}), "
            f"{self.chained} of them chained; "
            f"statuses: {join(self.statuses)}; checks: {join(self.checks)}; {len(self.failures)} failures"
        )


def call_as_documented(address: str, token: str, *, examples: int, chains: int, coverage: bool) -> Summary:
    """Call every operation of the server at `address`, with the key `token`.

    Args:
        examples: how many calls an operation gets in the fuzzing phase.
        chains: how many chains are tried; most end early.
        coverage: also every bound of every value, every missing member, every other method: 900 calls.
    """
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, st.sampled_from(PICTURES))
    config = SchemathesisConfig.from_dict(_configure(token, examples, chains, coverage))
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)
    summary = Summary(documented=len(list(schema.get_all_operations())))
    for event in from_schema(schema).execute():
        if isinstance(event, ScenarioFinished):
            _add(summary, event)
        elif isinstance(event, FatalError | NonFatalError):
            summary.failures.append(f"{event}")
    return summary


#: Calls that are well formed and still name nothing that is there, or contradict what is: JSON Schema cannot
#: say which labels, recipes, time zones, cursors, etags, keys and pictures there are.
MAY_BE_REFUSED: dict[str, tuple[int, ...]] = {
    "predict": (400, 413, 415, 422),  # bytes that are no picture; tensors of another shape
    "predict_with_version": (400, 413, 415, 422),
    "predict_with_label": (400, 413, 415, 422),
    "ask_otherwise": (400,),  # `:classify` and `:regress`: no signature of ours can
    "ask_version_otherwise": (400,),
    "ask_label_otherwise": (400,),
    "get_label_status": (400,),  # a label that no version bears
    "get_label_metadata": (400,),
    "record_prediction": (400, 413, 415, 422),  # no picture, an unknown label, scores that do not add up
    "list_decisions": (400,),  # a cursor of another list
    "create_correction": (422,),  # a label that the model does not have, or that it said already
    "create_confirmation": (422,),  # an Idempotency-Key that came before with another body
    "create_retraction": (422,),  # a model beside a key; an Idempotency-Key that came before
    "decide_item": (412, 422, 428),  # another etag, or none; `approve` with a label
    "create_run": (422,),  # an unknown recipe
    "get_device_file": (422,),  # `int8` of a version whose backbone is a float one
    "promote_version": (422,),  # an Idempotency-Key that came before with another call
    "rollback_model": (422,),
    "set_policy": (412, 422),  # another etag; an unknown time zone
    "list_models": (400,),  # a cursor of another list
    "list_versions": (400,),
    "list_runs": (400,),
    "list_triggers": (400,),
}
_ACCEPTED = ("2xx", "401", "403", "404", "409", "429", "503")
#: A value may also be so wrong that gunicorn refuses the address or the head before the API sees it.
_REFUSED = ("400", "401", "403", "404", "405", "409", "413", "414", "415", "422", "428", "429", "431", "503")


def _allow(operation: str) -> dict[str, Any]:
    statuses = [*_ACCEPTED, *map(str, MAY_BE_REFUSED[operation])]
    checks = {"positive_data_acceptance": {"expected-statuses": statuses}}
    return {"include-operation-id": operation, "checks": checks}


def _configure(token: str, examples: int, chains: int, coverage: bool) -> dict[str, Any]:
    return {
        "seed": SEED,
        "continue-on-failure": True,
        "suppress-health-check": ["all"],
        "auth": {"openapi": {"key": {"bearer": token}}},
        "generation": {
            "max-examples": examples,
            "no-shrink": True,
            "database": "none",
        },
        "checks": {"enabled": True, "negative_data_rejection": {"expected-statuses": list(_REFUSED)}},
        "operations": [_allow(operation) for operation in MAY_BE_REFUSED],
        "phases": {
            "coverage": {"enabled": coverage},
            "stateful": {"max-steps": STEPS, "generation": {"max-examples": chains}},
        },
    }


def _add(summary: Summary, event: ScenarioFinished) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        summary.operations.add(recorder.cases[case_id].value.operation.label)
        summary.phases[str(event.phase)] += 1
        summary.chained += recorder.cases[case_id].transition is not None
        if interaction.response is not None:
            summary.statuses[interaction.response.status_code] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            summary.checks[check.name] += 1
            if check.status is Status.FAILURE:
                summary.failures.append(_describe_failure(recorder, case_id, check))


def _describe_failure(recorder: ScenarioRecorder, case_id: str, check: CheckNode) -> str:
    assert check.failure_info is not None
    failure, interaction = check.failure_info.failure, recorder.interactions[case_id]
    answer = interaction.response
    said = f"{answer.status_code} {answer.content[:300]!r}" if answer is not None else "nothing"
    where = recorder.cases[case_id].value.operation.label
    return f"{check.name}: {where}: {failure.message}\n  {check.failure_info.code_sample}\n  {said}"
