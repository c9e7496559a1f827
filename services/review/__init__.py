"""The reviewer's pages: rendered here, nothing loaded from elsewhere."""

from services.review import actions, evidence, policy_form, queue, sessions
from services.review.site import blueprint

__all__ = ["actions", "blueprint", "evidence", "policy_form", "queue", "sessions"]
