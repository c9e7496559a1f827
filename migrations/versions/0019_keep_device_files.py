"""Versions as single files for devices: which were asked for, and what came of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "device_files",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("form", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("made_at", moment, nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("checked", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("settled_at", moment, nullable=True),
        sa.CheckConstraint(
            "form IN ('float32', 'float16', 'dynamic', 'int8')", name=op.f("ck_device_files_form_known")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_device_files_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_files")),
        sa.UniqueConstraint("version_id", "form", name=op.f("uq_device_files_version_id_form")),
    )


def downgrade() -> None:
    op.drop_table("device_files")
