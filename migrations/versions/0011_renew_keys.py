"""Keys have two secrets while they are renewed; sign-ins are counted by address and browser, too."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("previous_sha256", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("previous_used_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "user_browsers",
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_user_browsers_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_user_browsers")),
    )
    # What was counted so far speaks of names alone, and of the last minutes: it may go.
    op.execute("DELETE FROM sign_in_attempts")
    op.drop_index(op.f("ix_sign_in_attempts_name_at"), "sign_in_attempts")
    op.alter_column("sign_in_attempts", "name", new_column_name="counted")
    op.create_index(
        op.f("ix_sign_in_attempts_counted_at"), "sign_in_attempts", ["counted", "at"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_sign_in_attempts_counted_at"), "sign_in_attempts")
    op.alter_column("sign_in_attempts", "counted", new_column_name="name")
    op.create_index(op.f("ix_sign_in_attempts_name_at"), "sign_in_attempts", ["name", "at"], unique=False)
    op.drop_table("user_browsers")
    for column in ("previous_used_at", "previous_until", "previous_sha256"):
        op.drop_column("api_keys", column)
