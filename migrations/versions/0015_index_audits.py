"""Audits are found by index: the accuracy on live traffic is read from them alone."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.create_index(
        "ix_predictions_audited", "predictions", ["model_id", "version"], postgresql_where=sa.text("audit")
    )


def downgrade() -> None:
    op.drop_index("ix_predictions_audited", "predictions")
