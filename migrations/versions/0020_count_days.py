"""Past days are counted once and kept; decisions and audits are found by index, without their rows."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None
expand = True

BY_DECISION = sa.text("decision_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "feedback_days",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("predictions", sa.BigInteger(), nullable=False),
        sa.Column("corrected", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_feedback_days_model_id")),
        sa.PrimaryKeyConstraint("model_id", "day", name=op.f("pk_feedback_days")),
    )
    for table in ("corrections", "samples"):
        op.create_index(f"ix_{table}_decision", table, ["decision_id"], postgresql_where=BY_DECISION)
    _index_audits(include=["id", "label", "image_id"])


def _index_audits(include: list[str]) -> None:
    op.drop_index("ix_predictions_audited", "predictions")
    op.create_index(
        "ix_predictions_audited",
        "predictions",
        ["model_id", "version"],
        postgresql_where=sa.text("audit"),
        postgresql_include=include,
    )


def downgrade() -> None:
    _index_audits(include=[])
    for table in ("samples", "corrections"):
        op.drop_index(f"ix_{table}_decision", table)
    op.drop_table("feedback_days")
