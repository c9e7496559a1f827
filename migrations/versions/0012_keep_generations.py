"""An answer that is given again has its header, too; and old Idempotency-Keys are found by their age."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("generation", sa.BigInteger(), nullable=True))
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_column("idempotency_keys", "generation")
