"""Deleted images: which files are still to go, and groups that nobody is left in."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_removals",
        sa.Column("pixels_sha256", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("pixels_sha256", name=op.f("pk_image_removals")),
    )
    op.alter_column("image_groups", "perceptual_hash", nullable=True)


def downgrade() -> None:
    op.execute("UPDATE image_groups SET perceptual_hash = 0 WHERE perceptual_hash IS NULL")
    op.alter_column("image_groups", "perceptual_hash", nullable=False)
    op.drop_table("image_removals")
