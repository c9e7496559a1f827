"""A password that an admin gave holds until its owner chooses another one."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column("users", sa.Column("password_given_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "password_given_at")
