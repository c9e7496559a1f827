"""Backbones of 8-bit integers name the float one that they were made from."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column("backbones", sa.Column("quantised_from", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("backbones", "quantised_from")
