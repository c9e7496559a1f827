"""Predictions may have been made elsewhere, by a device; what it calls one names it once per key."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column(
        "predictions",
        sa.Column("made_elsewhere", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("predictions", sa.Column("client_ref", sa.Text(), nullable=True))
    op.create_index(
        "uq_predictions_client_ref",
        "predictions",
        ["key_id", "client_ref"],
        unique=True,
        postgresql_where=sa.text("client_ref IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_predictions_client_ref", "predictions")
    op.drop_column("predictions", "client_ref")
    op.drop_column("predictions", "made_elsewhere")
