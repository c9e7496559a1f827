"""Runs remember which MLflow run tells of them; models, up to which champion its aliases were set."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
expand = True


def upgrade() -> None:
    op.add_column("runs", sa.Column("mlflow_run_id", sa.Text(), nullable=True))
    op.create_index(
        op.f("ix_runs_untracked"),
        "runs",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("mlflow_run_id IS NULL AND ended_at IS NOT NULL"),
    )
    op.add_column("models", sa.Column("tracked_generation", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "tracked_generation")
    op.drop_index(op.f("ix_runs_untracked"), "runs")
    op.drop_column("runs", "mlflow_run_id")
