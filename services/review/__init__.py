"""The reviewer's pages: rendered here, nothing loaded from elsewhere."""

from services.review import (
    account,
    actions,
    answers,
    evidence,
    grid,
    keys,
    people,
    policy_form,
    queue,
    sessions,
)
from services.review.site import blueprint

__all__ = [
    "account",
    "actions",
    "answers",
    "blueprint",
    "evidence",
    "grid",
    "keys",
    "people",
    "policy_form",
    "queue",
    "sessions",
]
