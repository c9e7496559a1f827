"""Which open items a grid shows, in which order, and which clusters there are: read from its address."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from backtalk import catalogue, neighbours
from backtalk.callers import Caller
from backtalk.errors import InvalidInput
from backtalk.queues import counts_in, stands_in
from backtalk.states import OFFERED_QUEUES, Queue, Scope
from backtalk.tables import Model, Prediction, ReviewItem
from services.review.trust import weigh_reporters

SORTS = ("age", "newest", "margin", "doubt", "trust", "distrust", "size")
CLUSTERINGS = ("pair", "likeness", "none")
CLUSTERS_SHOWN = 24
CLUSTERED_MOST = 100_000  # items; in a longer queue the oldest so many are clustered


@dataclass(frozen=True)
class Selection:
    """The filters of a grid. Whatever is None or its default does not stand in the address."""

    by: str = "pair"
    sort: str = "age"
    queue: str | None = None  # without: those that are due
    predicted: str | None = None
    reported: str | None = None
    reporter: str | None = None
    group: int | None = None  # of near-duplicates
    like: str | None = None  # the item that others should look like
    flagged: bool = False

    @classmethod
    def read(cls, args: Mapping[str, Any]) -> Self:
        """From an address. What is empty is not asked for; what cannot be is refused.

        Raises:
            InvalidInput
        """
        given = {name: str(args[name]) for name in cls.__dataclass_fields__ if args.get(name)}
        _require(given.get("by", "pair"), CLUSTERINGS, "by")
        _require(given.get("sort", "age"), SORTS, "sort")
        _require(given.get("queue", OFFERED_QUEUES[0]), OFFERED_QUEUES, "queue")
        group = given.pop("group", None)
        if group is not None and not (group.isdecimal() and len(group) < 19):
            raise InvalidInput("`group` is a number.")
        like = given.get("like")
        if like is not None and catalogue.parse_id(like) is None:
            raise InvalidInput("`like` is the id of an item.")
        flagged = given.pop("flagged", "") not in ("", "0", "False")
        return cls(**given, group=int(group) if group else None, flagged=flagged)

    def but(self, **values: Any) -> "Selection":
        return replace(self, **values)

    @property
    def args(self) -> dict[str, str]:
        """What of it stands in the address."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        chosen = {
            name: value for name, value in named.items() if value != self.__dataclass_fields__[name].default
        }
        return {name: "1" if value is True else str(value) for name, value in chosen.items()}

    @property
    def query(self) -> str:
        return urlencode(self.args)

    @property
    def asked(self) -> Queue | None:
        return Queue(self.queue) if self.queue else None

    @property
    def hides_gold(self) -> bool:
        """Whether a gold item, which passes for an audit, looks like its neighbours here.

        Not among reported mistakes, nor where each item resembles the next, nor where it would have to have
        the right margin: there it would be the odd one out.
        """
        narrow = (self.reported, self.reporter, self.group, self.like)
        audits = self.asked in (None, Queue.AUDITS) and not self.flagged
        return audits and self.sort in ("age", "newest") and all(one is None for one in narrow)

    def list_conditions(self, caller: Caller, *, counted: bool = False) -> list[ColumnElement[bool]]:
        """Beside being open and of the model; `counted`: with gold items, which pass for audits."""
        equal = ("predicted", "reported", "reporter")
        wanted: list[ColumnElement[bool]] = [
            getattr(ReviewItem, name) == getattr(self, name)
            for name in equal
            if getattr(self, name) is not None
        ]
        wanted.append(counts_in(self.asked) if counted else stands_in(self.asked))
        if self.group is not None:
            wanted.append(ReviewItem.group_id == self.group)
        if self.flagged:
            wanted.append(ReviewItem.flagged_at.is_not(None))
        if not caller.has(Scope.EXPERT):
            wanted.append(ReviewItem.flagged_at.is_(None))
        return wanted


def _require(value: str, known: tuple[str, ...], name: str) -> None:
    if value not in known:
        raise InvalidInput(f"`{name}` is one of {', '.join(known)}.")


# --- items -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Found:
    """Ids in the order of the selection, and a remark where they are not quite what was asked for."""

    item_ids: list[UUID]
    remark: str | None = None  # a key of the grid's words


def find_items(
    session: Session, model: Model, selection: Selection, caller: Caller, limit: int, without: list[UUID]
) -> Found:
    """The first `limit` items that nobody else holds, other than `without`."""
    wanted = [
        *selection.list_conditions(caller),
        or_(
            ReviewItem.lease_until.is_(None),
            ReviewItem.lease_until <= func.now(),
            ReviewItem.leased_by == caller.actor,
        ),
    ]
    if without:
        wanted.append(ReviewItem.id.not_in(without))
    if selection.like is not None:
        return _find_alike(session, model, selection.like, wanted, limit)
    rows = select(ReviewItem.id).where(
        ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), *wanted
    )
    if selection.sort in ("trust", "distrust"):
        return Found(_find_by_trust(session, model, rows, limit, selection.sort == "trust"))
    if selection.sort == "size":
        return Found(_find_by_size(session, model, selection, caller, rows, limit))
    order = {
        "age": (ReviewItem.id,),
        "newest": (ReviewItem.id.desc(),),
        "margin": (ReviewItem.margin, ReviewItem.id),
        "doubt": (ReviewItem.doubt.desc(), ReviewItem.id.desc()),
    }[selection.sort]
    return Found(list(session.scalars(rows.order_by(*order).limit(limit))))


def _find_alike(
    session: Session, model: Model, like: str, wanted: list[ColumnElement[bool]], limit: int
) -> Found:
    asked = UUID(like)
    alike = neighbours.find_alike(session, model, asked, wanted, limit)
    if alike is not None:
        return Found(alike.item_ids, None if alike.whole else "alikeOldest")
    item = session.get(ReviewItem, asked)
    if item is None or item.model_id != model.id:
        return Found([], "alikeGone")
    same = ReviewItem.group_id == item.group_id if item.group_id is not None else ReviewItem.id == item.id
    rows = select(ReviewItem.id).where(
        ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), same, *wanted
    )
    return Found(list(session.scalars(rows.order_by(ReviewItem.id).limit(limit))), "alikeByHash")


def _find_by_trust(
    session: Session, model: Model, rows: Select[UUID], limit: int, trusted_first: bool
) -> list[UUID]:
    """One reporter after the other; then what nobody reported, and reporters beyond the first so many."""
    ranked = sorted(weigh_reporters(session, model).items(), key=lambda pair: (pair[1], pair[0]))
    names = [name for name, _ in (reversed(ranked) if trusted_first else ranked)]
    found: list[UUID] = []
    for name in names:
        if len(found) >= limit:
            return found
        one = rows.where(ReviewItem.reporter == name).order_by(ReviewItem.id).limit(limit - len(found))
        found += session.scalars(one)
    if len(found) < limit:
        rest = or_(ReviewItem.reporter.is_(None), ReviewItem.reporter.not_in(names))
        found += session.scalars(rows.where(rest).order_by(ReviewItem.id).limit(limit - len(found)))
    return found


def _find_by_size(
    session: Session, model: Model, selection: Selection, caller: Caller, rows: Select[UUID], limit: int
) -> list[UUID]:
    """Items of the largest cluster, then of the second, …; what belongs to no cluster comes last."""
    found: list[UUID] = []
    by = selection.but(by="pair") if selection.by == "none" else selection
    for cluster in list_clusters(session, model, by, caller):
        if len(found) >= limit:
            break
        one = rows.where(cluster.holds()).order_by(ReviewItem.id).limit(limit - len(found))
        found += session.scalars(one)
    if len(found) < limit:
        rest = rows.where(ReviewItem.id.not_in(found)).order_by(ReviewItem.id).limit(limit - len(found))
        found += session.scalars(rest)
    return found


# --- clusters ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cluster:
    """Items of one (predicted → reported) pair, or of one group of near-duplicates."""

    size: int
    predicted: str | None = None
    reported: str | None = None
    group: int | None = None
    image_id: UUID | None = None  # of the oldest item of a group

    def holds(self) -> ColumnElement[bool]:
        if self.group is not None:
            return ReviewItem.group_id == self.group
        reported = ReviewItem.reported
        same = reported.is_(None) if self.reported is None else reported == self.reported
        return and_(ReviewItem.predicted == self.predicted, same)


def list_clusters(session: Session, model: Model, selection: Selection, caller: Caller) -> list[Cluster]:
    """The largest clusters of what the selection's other filters leave, the largest first."""
    if selection.by == "none":
        return []
    wide = (
        selection.but(predicted=None, reported=None, group=None)
        if selection.by == "pair"
        else selection.but(group=None)
    )
    bounded = (
        select(ReviewItem.id, ReviewItem.predicted, ReviewItem.reported, ReviewItem.group_id)
        .where(
            ReviewItem.model_id == model.id,
            ReviewItem.closed_at.is_(None),
            *wide.list_conditions(caller, counted=selection.by == "pair"),
        )
        .limit(CLUSTERED_MOST)
        .subquery()
    )
    size = func.count()
    if selection.by == "pair":
        pairs = (
            select(bounded.c.predicted, bounded.c.reported, size)
            .group_by(bounded.c.predicted, bounded.c.reported)
            .order_by(size.desc(), bounded.c.predicted, bounded.c.reported)
            .limit(CLUSTERS_SHOWN)
        )
        return [Cluster(n, predicted, reported) for predicted, reported, n in session.execute(pairs)]
    groups = (
        select(bounded.c.group_id, size)
        .where(bounded.c.group_id.is_not(None))
        .group_by(bounded.c.group_id)
        .having(size > 1)
        .order_by(size.desc(), bounded.c.group_id)
        .limit(CLUSTERS_SHOWN)
    )
    return [
        Cluster(n, group=group, image_id=_find_image(session, group)) for group, n in session.execute(groups)
    ]


def _find_image(session: Session, group: int) -> UUID | None:
    return session.scalar(
        select(Prediction.image_id)
        .join(ReviewItem, ReviewItem.prediction_id == Prediction.id)
        .where(ReviewItem.group_id == group, ReviewItem.closed_at.is_(None))
        .order_by(ReviewItem.id)
        .limit(1)
    )
