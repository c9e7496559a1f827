"""An answer that is given again has its header, too; old Idempotency-Keys are found by their age; a promotion may
be asked of a worker.
"""

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
    op.add_column("versions", sa.Column("asked_by", sa.Text(), nullable=True))
    op.add_column("versions", sa.Column("asked_generation", sa.BigInteger(), nullable=True))
    op.add_column("versions", sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ("asked_at", "asked_generation", "asked_by"):
        op.drop_column("versions", column)
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_column("idempotency_keys", "generation")
