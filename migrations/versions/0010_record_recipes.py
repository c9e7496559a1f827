"""What a full run is made by, and the snapshot that its backbone learns from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("recipe", JSONB, nullable=True))
    op.add_column("runs", sa.Column("tuned_on", sa.Text, nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "tuned_on")
    op.drop_column("runs", "recipe")
