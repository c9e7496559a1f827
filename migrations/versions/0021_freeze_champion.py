"""A full run remembers the champion that it began with, so that its later attempts are taught the same."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column("runs", sa.Column("tuned_from", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "tuned_from")
