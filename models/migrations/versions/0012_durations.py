"""Which executor an attempt went by, and how long commands took."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("executor", sa.String(), nullable=True))
    op.create_table(
        "duration",
        sa.Column("executor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("le", sa.Float(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.CheckConstraint("executor IN ('ssh', 'local', 'agent')", name=op.f("ck_duration_executor_known")),
        sa.CheckConstraint(
            "state IN ('pending', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'unreachable', 'canceled', 'lost')",
            name=op.f("ck_duration_state_known"),
        ),
        sa.CheckConstraint("number > 0 AND seconds >= 0", name=op.f("ck_duration_not_negative")),
        sa.PrimaryKeyConstraint("executor", "state", "le", name=op.f("pk_duration")),
    )
