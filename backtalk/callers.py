"""Who is asking. Pure: how a caller proved it is `identity`'s matter."""

from dataclasses import dataclass

from backtalk.errors import NotAllowed
from backtalk.states import Scope


@dataclass(frozen=True)
class Caller:
    """An app with its key, a person, or the command line."""

    actor: str  # `key:<id>`, `user:<name>`, `cli` or `policy`: what is written down
    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    trusted: bool = False

    def demand(self, scope: Scope) -> None:
        """Raises NotAllowed where the caller has neither this scope nor `admin`."""
        if not self.has(scope):
            raise NotAllowed(f"This needs the scope `{scope}`, which {self.name} does not have.", scope=scope)

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


CLI = Caller("cli", "cli", frozenset(Scope))
POLICY = Caller("policy", "policy", frozenset())
