"""Corrections carry a mark for the reviewer; what is withdrawn says by which retraction."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("corrections", sa.Column("suspicion", sa.Float(), nullable=True))
    op.add_column("corrections", sa.Column("mark", sa.Text(), nullable=True))
    op.create_index(op.f("ix_corrections_key_id"), "corrections", ["key_id"])
    op.create_table(
        "retractions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("counts", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "what IN ('correction', 'reporter', 'key')", name=op.f("ck_retractions_what_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retractions")),
    )
    op.add_column("samples", sa.Column("retraction_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_samples_retraction_id"), "samples", "retractions", ["retraction_id"], ["id"]
    )
    op.create_check_constraint(
        op.f("ck_samples_withdrawn_is_retracted"),
        "samples",
        "retraction_id IS NULL OR retracted_at IS NOT NULL",
    )
    op.create_index(
        "ix_samples_withdrawn",
        "samples",
        ["model_id", "id"],
        postgresql_where=sa.text("retraction_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_samples_withdrawn", "samples")
    op.drop_constraint(op.f("ck_samples_withdrawn_is_retracted"), "samples")
    op.drop_constraint(op.f("fk_samples_retraction_id"), "samples")
    op.drop_column("samples", "retraction_id")
    op.drop_table("retractions")
    op.drop_index(op.f("ix_corrections_key_id"), "corrections")
    op.drop_column("corrections", "mark")
    op.drop_column("corrections", "suspicion")
