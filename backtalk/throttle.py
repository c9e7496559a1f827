"""How often somebody may try to sign in: counted in Postgres, whatever process answers and whatever is away.

Three counts bound a guesser: by name and address together, by name, by address. Somebody else's guessing can
fill the count of a name, but not lock the person out: a browser in which that person has signed in before is
known by a cookie and has a count of its own.
"""

from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address, ip_network

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from backtalk.errors import NotAuthenticated
from backtalk.tables import SignInAttempt

WINDOW = timedelta(minutes=5)
PER_NAME_AND_ADDRESS = 5
PER_NAME = 20
PER_ADDRESS = 40
PER_BROWSER = 5  # of those that are known


@dataclass(frozen=True)
class Counts:
    """Where one attempt is counted, with the limit of each."""

    own: str  # cleared by a success
    shared: dict[str, int]

    @property
    def limits(self) -> dict[str, int]:
        first = PER_BROWSER if self.own.startswith("browser:") else PER_NAME_AND_ADDRESS
        return {self.own: first} | self.shared


def choose_counts(name: str, address: str | None, browser: str | None) -> Counts:
    """Where an attempt is counted.

    Args:
        address: of the caller, as far as it is known.
        browser: the digest of its cookie, where this name has signed in with it before.
    """
    if browser is not None:
        return Counts(f"browser:{browser}", {})
    network = _network(address)
    return Counts(f"pair:{name}:{network}", {f"name:{name}": PER_NAME, f"address:{network}": PER_ADDRESS})


def _network(address: str | None) -> str:
    """Whoever has one IPv6 address has 2^64 of them."""
    try:
        given = ip_address(address or "")
    except ValueError:
        return ""
    return str(given) if given.version == 4 else str(ip_network((given, 64), strict=False))


def reserve_attempt(session: Session, counts: Counts) -> None:
    """Count an attempt. To be committed before the password is looked at: neither a rolled-back request nor
    many at once then get more guesses than one.

    Raises:
        NotAuthenticated: too many just now; `retry_after_s` says when to come back.
    """
    session.execute(text(_LOCK), {"counts": sorted(counts.limits)})
    session.execute(delete(SignInAttempt).where(SignInAttempt.at < func.now() - timedelta(days=1)))
    recent = select(SignInAttempt.counted, func.count()).where(
        SignInAttempt.counted.in_(counts.limits), SignInAttempt.at > func.now() - WINDOW
    )
    used: dict[str, int] = dict(session.execute(recent.group_by(SignInAttempt.counted)).all())
    if all(used.get(counted, 0) < limit for counted, limit in counts.limits.items()):
        session.add_all(SignInAttempt(counted=counted) for counted in counts.limits)
        return
    raise NotAuthenticated(
        "Too many failed sign-ins just now; wait five minutes and try again.",
        retry_after_s=int(WINDOW.total_seconds()),
    )


#: In one order, whatever the counts are, so that nobody waits in a circle.
_LOCK = """
SELECT pg_advisory_xact_lock(hashtext('sign-in'), key)
FROM (SELECT DISTINCT hashtext(counted) AS key FROM unnest(CAST(:counts AS text[])) counted ORDER BY key) keys
"""


def forgive_attempt(session: Session, counts: Counts) -> None:
    """A success: what this person failed before counts no more, and the success was no guess.

    The shared counts lose one only: whoever has an account cannot clear the count of an address with it.
    """
    session.execute(delete(SignInAttempt).where(SignInAttempt.counted == counts.own))
    for counted in counts.shared:
        newest = (
            select(SignInAttempt.id)
            .where(SignInAttempt.counted == counted)
            .order_by(SignInAttempt.id.desc())
            .limit(1)
        )
        session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(newest)))
