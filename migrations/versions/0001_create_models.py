"""Models with their versions, and images with their groups and embeddings."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "backbones",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source_digest", sa.Text(), nullable=False),
        sa.Column("input_size", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_backbones")),
        sa.UniqueConstraint("source_digest", name=op.f("uq_backbones_source_digest")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pixels_sha256", sa.Text(), nullable=True),
        sa.Column("perceptual_hash", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.BigInteger(), nullable=False),
        sa.Column("orientation", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("store_key", sa.Text(), nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("pixels_sha256", name=op.f("uq_images_pixels_sha256")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("policy", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("eval_share", sa.Double(), nullable=False),
        sa.Column("live_version", sa.BigInteger(), nullable=True),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("hold", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("consider_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_index(op.f("ix_models_consider_at"), "models", ["consider_at"], unique=False)
    op.create_table(
        "embeddings",
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("backbone_digest", sa.Text(), nullable=False),
        sa.Column("vector", HALFVEC(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_embeddings_image_id")),
        sa.PrimaryKeyConstraint("image_id", "backbone_digest", name=op.f("pk_embeddings")),
    )
    op.create_table(
        "image_groups",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("first_image_id", sa.Uuid(), nullable=False),
        sa.Column("perceptual_hash", sa.BigInteger(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "side IN ('train', 'validation', 'eval')", name=op.f("ck_image_groups_side_known")
        ),
        sa.ForeignKeyConstraint(
            ["first_image_id"], ["images.id"], name=op.f("fk_image_groups_first_image_id")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_image_groups_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_groups")),
        sa.UniqueConstraint(
            "model_id", "first_image_id", name=op.f("uq_image_groups_model_id_first_image_id")
        ),
    )
    op.create_table(
        "replicas",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_replicas_model_id")),
        sa.PrimaryKeyConstraint("process", "model_id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("parent", sa.BigInteger(), nullable=True),
        sa.Column("backbone_digest", sa.Text(), nullable=False),
        sa.Column("artefact_digest", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("anchored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('candidate', 'live', 'retired', 'rejected', 'inconclusive', 'quarantined')",
            name=op.f("ck_versions_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["backbone_digest"], ["backbones.digest"], name=op.f("fk_versions_backbone_digest")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_versions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_versions_model_id_number")),
    )
    op.create_index(
        "uq_versions_live", "versions", ["model_id"], unique=True, postgresql_where=sa.text("state = 'live'")
    )
    op.create_table(
        "group_members",
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["image_groups.id"], name=op.f("fk_group_members_group_id")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_group_members_image_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_group_members_model_id")),
        sa.PrimaryKeyConstraint("model_id", "image_id", name=op.f("pk_group_members")),
    )
    op.create_index(op.f("ix_group_members_group_id"), "group_members", ["group_id"], unique=False)


def downgrade() -> None:
    for table in (
        "group_members",
        "versions",
        "replicas",
        "image_groups",
        "embeddings",
        "models",
        "images",
        "backbones",
    ):
        op.drop_table(table)
