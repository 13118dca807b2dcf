"""The lives of workers, and requests to cancel a task."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worker",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("reaper", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_worker")),
    )
    op.add_column("task", sa.Column("cancel_requested_at", sa.Float(), nullable=True))
    op.add_column("task", sa.Column("cancel_requested_by", sa.String(), nullable=True))
    # Workers of before had no lease: what they left open is ended by the next one.
    op.execute(
        "INSERT INTO worker (owner, lease_until) SELECT DISTINCT owner, 0.0 FROM task WHERE finished_at IS NULL AND owner IS NOT NULL"
    )
