"""Predictions, what was said about them, what reviewers decided, and the samples that came of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("scores", sa.ARRAY(sa.REAL()), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("audit", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_predictions_image_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_predictions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictions")),
    )
    op.create_index(op.f("ix_predictions_image_id"), "predictions", ["image_id"], unique=False)
    op.create_index(
        op.f("ix_predictions_model_id_created_at"), "predictions", ["model_id", "created_at"], unique=False
    )
    op.create_table(
        "confirmations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=False),
        sa.Column("reporter", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("prepared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'disputed', 'retracted')", name=op.f("ck_confirmations_state_known")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_confirmations_model_id")),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name=op.f("fk_confirmations_prediction_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_confirmations")),
        sa.UniqueConstraint(
            "prediction_id", "reporter", name=op.f("uq_confirmations_prediction_id_reporter")
        ),
    )
    op.create_index(
        "ix_confirmations_unprepared",
        "confirmations",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("prepared_at IS NULL"),
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("reporter", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("prepared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'disputed', 'approved', 'rejected', 'retracted')",
            name=op.f("ck_corrections_state_known"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_corrections_model_id")),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name=op.f("fk_corrections_prediction_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
    )
    op.create_index(
        op.f("ix_corrections_model_id_state_id"), "corrections", ["model_id", "state", "id"], unique=False
    )
    op.create_index(op.f("ix_corrections_prediction_id"), "corrections", ["prediction_id"], unique=False)
    op.create_index(
        "ix_corrections_unprepared",
        "corrections",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("prepared_at IS NULL"),
    )
    op.create_index(
        "uq_corrections_pending",
        "corrections",
        ["prediction_id", "reporter"],
        unique=True,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "review_items",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("correction_id", sa.Uuid(), nullable=True),
        sa.Column("reported", sa.Text(), nullable=True),
        sa.Column("etag", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("leased_by", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("skipped_by", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(kind = 'correction') = (correction_id IS NOT NULL) AND (kind = 'correction') = (reported IS NOT NULL)",
            name=op.f("ck_review_items_reported_with_correction"),
        ),
        sa.CheckConstraint("kind IN ('correction', 'audit')", name=op.f("ck_review_items_kind_known")),
        sa.ForeignKeyConstraint(
            ["correction_id"], ["corrections.id"], name=op.f("fk_review_items_correction_id")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_review_items_model_id")),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name=op.f("fk_review_items_prediction_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_items")),
    )
    op.create_index(
        "ix_review_items_queue",
        "review_items",
        ["model_id", "id"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "uq_review_items_open",
        "review_items",
        ["prediction_id"],
        unique=True,
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("counts", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "action IN ('approve', 'relabel', 'reject', 'skip')", name=op.f("ck_decisions_action_known")
        ),
        sa.CheckConstraint(
            "NOT counts OR (final AND label IS NOT NULL)", name=op.f("ck_decisions_counts_with_label")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["review_items.id"], name=op.f("fk_decisions_item_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_decisions_model_id")),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name=op.f("fk_decisions_prediction_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(
        "ix_decisions_counted",
        "decisions",
        ["model_id", "id"],
        unique=False,
        postgresql_where=sa.text("counts"),
    )
    op.create_index(op.f("ix_decisions_item_id"), "decisions", ["item_id"], unique=False)
    op.create_index(op.f("ix_decisions_prediction_id"), "decisions", ["prediction_id"], unique=False)
    op.create_table(
        "samples",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("by_person", sa.Boolean(), nullable=False),
        sa.Column("prediction_id", sa.Uuid(), nullable=True),
        sa.Column("decision_id", sa.BigInteger(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retracted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "by_person OR split NOT IN ('holdout', 'regression')", name=op.f("ck_samples_judged_by_person")
        ),
        sa.CheckConstraint(
            "origin IN ('base', 'correction', 'audit', 'confirmation')", name=op.f("ck_samples_origin_known")
        ),
        sa.CheckConstraint(
            "split IN ('train', 'validation', 'holdout', 'regression', 'kept')",
            name=op.f("ck_samples_split_known"),
        ),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_samples_decision_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_samples_image_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_samples_model_id")),
        sa.ForeignKeyConstraint(["prediction_id"], ["predictions.id"], name=op.f("fk_samples_prediction_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samples")),
    )
    op.create_index(op.f("ix_samples_prediction_id"), "samples", ["prediction_id"], unique=False)
    op.create_index(
        "ix_samples_split",
        "samples",
        ["model_id", "split", "id"],
        unique=False,
        postgresql_where=sa.text("retracted_at IS NULL"),
    )
    op.create_index(
        "uq_samples_live",
        "samples",
        ["model_id", "image_id"],
        unique=True,
        postgresql_where=sa.text("retracted_at IS NULL"),
    )
    # Decisions point to items, items to corrections, corrections to decisions.
    op.create_foreign_key("fk_corrections_decision_id", "corrections", "decisions", ["decision_id"], ["id"])


def downgrade() -> None:
    op.drop_constraint("fk_corrections_decision_id", "corrections")
    for table in (
        "samples",
        "decisions",
        "review_items",
        "corrections",
        "confirmations",
        "predictions",
    ):
        op.drop_table(table)
