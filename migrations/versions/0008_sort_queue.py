"""The queue can be sorted and filtered by index; decisions can be undone, flagged, sent twice and in batches."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OPEN = "closed_at IS NULL"
BEFORE = "action IN ('approve', 'relabel', 'reject', 'skip')"
AFTER = "action IN ('approve', 'relabel', 'reject', 'skip', 'flag', 'undo')"
INDEXES = (
    ("ix_review_items_margin", ["model_id", "margin", "id"], OPEN),
    ("ix_review_items_doubt", ["model_id", "doubt", "id"], OPEN),
    ("ix_review_items_pair", ["model_id", "predicted", "reported", "id"], OPEN),
    ("ix_review_items_group", ["model_id", "group_id"], OPEN),
    ("ix_review_items_reporter", ["model_id", "reporter", "id"], OPEN),
    ("ix_review_items_flagged", ["model_id", "id"], f"{OPEN} AND flagged_at IS NOT NULL"),
    ("ix_review_items_leased", ["leased_by", "model_id"], f"{OPEN} AND leased_by IS NOT NULL"),
)
FILL = """
UPDATE review_items i SET
    reporter = (SELECT c.reporter FROM corrections c WHERE c.id = i.correction_id),
    predicted = p.label,
    margin = (
        SELECT coalesce(s[1], 0) - coalesce(s[2], 0)
        FROM (SELECT array_agg(score ORDER BY score DESC) AS s FROM unnest(p.scores) AS score) AS ordered
    ),
    doubt = coalesce(
        (SELECT c.suspicion FROM corrections c WHERE c.id = i.correction_id),
        1 - p.scores[array_position(m.labels, coalesce(i.reported, p.label))],
        1
    ),
    group_id = (
        SELECT g.group_id FROM group_members g WHERE g.model_id = i.model_id AND g.image_id = p.image_id
    )
FROM predictions p, models m WHERE p.id = i.prediction_id AND m.id = i.model_id
"""


def upgrade() -> None:
    for column in (
        sa.Column("reporter", sa.Text()),
        sa.Column("predicted", sa.Text()),
        sa.Column("margin", sa.REAL()),
        sa.Column("doubt", sa.REAL()),
        sa.Column("group_id", sa.BigInteger()),
        sa.Column("flagged_at", sa.DateTime(timezone=True)),
        sa.Column("flagged_by", sa.Text()),
    ):
        op.add_column("review_items", column)
    op.execute(FILL)
    for name in ("predicted", "margin", "doubt"):
        op.alter_column("review_items", name, nullable=False)
    op.create_foreign_key(
        op.f("fk_review_items_group_id"), "review_items", "image_groups", ["group_id"], ["id"]
    )
    for name, columns, where in INDEXES:
        op.create_index(name, "review_items", columns, postgresql_where=sa.text(where))
    op.create_index(
        "ix_corrections_reporter",
        "corrections",
        ["model_id", "reporter", "reviewed_at"],
        postgresql_where=sa.text("state IN ('approved', 'rejected')"),
    )
    _widen_decisions()


def _widen_decisions() -> None:
    op.add_column("decisions", sa.Column("undoes", sa.BigInteger()))
    op.add_column("decisions", sa.Column("request_id", sa.Uuid()))
    op.add_column("decisions", sa.Column("batch_id", sa.Uuid()))
    op.add_column("decisions", sa.Column("before", sa.dialects.postgresql.JSONB()))
    op.drop_constraint(op.f("ck_decisions_action_known"), "decisions")
    op.create_check_constraint(op.f("ck_decisions_action_known"), "decisions", AFTER)
    op.create_check_constraint(
        op.f("ck_decisions_undo_names_decision"), "decisions", "(action = 'undo') = (undoes IS NOT NULL)"
    )
    op.create_foreign_key(op.f("fk_decisions_undoes"), "decisions", "decisions", ["undoes"], ["id"])
    for name, columns, where in (
        ("uq_decisions_undoes", ["undoes"], "undoes IS NOT NULL"),
        ("uq_decisions_request", ["actor", "request_id"], "request_id IS NOT NULL"),
    ):
        op.create_index(name, "decisions", columns, unique=True, postgresql_where=sa.text(where))
    op.create_index(
        op.f("ix_decisions_model_id_actor_created_at"), "decisions", ["model_id", "actor", "created_at"]
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_decisions_model_id_actor_created_at"), "decisions")
    for name in ("before", "batch_id", "request_id", "undoes"):  # with their indexes and constraints
        op.drop_column("decisions", name)
    op.drop_constraint(op.f("ck_decisions_action_known"), "decisions")
    # Flags and undos, if there are any, are no decisions that the schema before knows: they stay as they are.
    op.execute(f"ALTER TABLE decisions ADD CONSTRAINT ck_decisions_action_known CHECK ({BEFORE}) NOT VALID")
    op.drop_index("ix_corrections_reporter", "corrections")
    for name, _, _ in INDEXES:
        op.drop_index(name, "review_items")
    for name in ("flagged_by", "flagged_at", "group_id", "doubt", "margin", "predicted", "reporter"):
        op.drop_column("review_items", name)
