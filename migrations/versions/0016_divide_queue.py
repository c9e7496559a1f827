"""The review queue is divided: each item stands in a queue of its own, some about a sample rather than a report."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

OPEN = sa.text("closed_at IS NULL")
KINDS = "'correction', 'audit', 'uncertain', 'suspected', 'gold'"
QUEUES = "'corrections', 'disputed', 'audits', 'uncertain', 'suspected', 'gold'"
NAMES = (
    "(kind = 'correction') = (correction_id IS NOT NULL) "
    "AND (kind IN ('correction', 'suspected')) = (reported IS NOT NULL) "
    "AND (kind IN ('suspected', 'gold')) = (sample_id IS NOT NULL)"
)
NAMED_BEFORE = (
    "(kind = 'correction') = (correction_id IS NOT NULL) AND (kind = 'correction') = (reported IS NOT NULL)"
)
FILL = """
UPDATE review_items i SET queue = CASE
    WHEN EXISTS (SELECT FROM corrections c WHERE c.prediction_id = i.prediction_id AND c.state = 'disputed')
    OR EXISTS (SELECT FROM confirmations c WHERE c.prediction_id = i.prediction_id AND c.state = 'disputed')
    THEN 'disputed' WHEN i.kind = 'audit' THEN 'audits' ELSE 'corrections' END
"""


def upgrade() -> None:
    for column in (
        sa.Column("queue", sa.Text()),
        sa.Column("sample_id", sa.BigInteger()),
        sa.Column("scores", sa.ARRAY(sa.REAL())),
        sa.Column("mark", sa.Text()),
        sa.Column("lease_view", sa.Uuid()),
    ):
        op.add_column("review_items", column)
    op.execute(FILL)
    op.alter_column("review_items", "queue", nullable=False)
    op.create_foreign_key(op.f("fk_review_items_sample_id"), "review_items", "samples", ["sample_id"], ["id"])
    op.drop_constraint(op.f("ck_review_items_kind_known"), "review_items")
    op.create_check_constraint(op.f("ck_review_items_kind_known"), "review_items", f"kind IN ({KINDS})")
    op.create_check_constraint(op.f("ck_review_items_queue_known"), "review_items", f"queue IN ({QUEUES})")
    op.drop_constraint(op.f("ck_review_items_reported_with_correction"), "review_items")
    op.create_check_constraint(op.f("ck_review_items_names_its_subject"), "review_items", NAMES)
    op.create_index(
        "ix_review_items_queues", "review_items", ["model_id", "queue", "id"], postgresql_where=OPEN
    )
    op.create_index(
        "ix_review_items_viewed",
        "review_items",
        ["lease_view"],
        postgresql_where=sa.text("closed_at IS NULL AND lease_view IS NOT NULL"),
    )
    op.create_index(
        "ix_review_items_sample",
        "review_items",
        ["sample_id"],
        postgresql_where=sa.text("sample_id IS NOT NULL"),
    )
    op.create_index(op.f("ix_decisions_model_id_created_at"), "decisions", ["model_id", "created_at"])
    _widen_origins("'base', 'correction', 'audit', 'confirmation', 'uncertain'")
    op.create_table(
        "closed_views",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_closed_views")),
    )
    op.create_table(
        "label_checks",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("suspected", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_label_checks_model_id")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_label_checks")),
    )


def _widen_origins(known: str, *, strict: bool = True) -> None:
    op.drop_constraint(op.f("ck_samples_origin_known"), "samples")
    # Samples that the schema before does not know stay as they are.
    checked = "" if strict else " NOT VALID"
    op.execute(
        f"ALTER TABLE samples ADD CONSTRAINT ck_samples_origin_known CHECK (origin IN ({known})){checked}"
    )


def downgrade() -> None:
    op.drop_table("label_checks")
    op.drop_table("closed_views")
    _widen_origins("'base', 'correction', 'audit', 'confirmation'", strict=False)
    op.drop_index(op.f("ix_decisions_model_id_created_at"), "decisions")
    op.drop_constraint(op.f("ck_review_items_names_its_subject"), "review_items")
    op.drop_constraint(op.f("ck_review_items_kind_known"), "review_items")
    # What the schema before knows no word for is closed, and reads as an audit.
    op.execute(
        "UPDATE review_items SET closed_at = coalesce(closed_at, now()), kind = 'audit', reported = NULL "
        "WHERE kind NOT IN ('correction', 'audit')"
    )
    op.create_check_constraint(
        op.f("ck_review_items_kind_known"), "review_items", "kind IN ('correction', 'audit')"
    )
    op.create_check_constraint(op.f("ck_review_items_reported_with_correction"), "review_items", NAMED_BEFORE)
    for name in ("lease_view", "mark", "scores", "sample_id", "queue"):  # with their indexes and constraints
        op.drop_column("review_items", name)
