"""The reviewer's pages: rendered here, nothing loaded from elsewhere."""

from services.review import (
    account,
    actions,
    answers,
    compare,
    evidence,
    flips,
    grid,
    keys,
    people,
    policy_form,
    queue,
    records,
    run_page,
    sessions,
    version_page,
)
from services.review.site import blueprint

__all__ = [
    "account",
    "actions",
    "answers",
    "blueprint",
    "compare",
    "evidence",
    "flips",
    "grid",
    "keys",
    "people",
    "policy_form",
    "queue",
    "records",
    "run_page",
    "sessions",
    "version_page",
]
