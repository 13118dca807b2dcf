"""The policy of a task, the wave of an execution, and what runs on a host."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # where an INTEGER has as many bytes


def upgrade() -> None:
    for column in (
        sa.Column("policy", sa.JSON(), nullable=True),
        sa.Column("options", sa.JSON(), nullable=True),
        sa.Column("retry_of", INTEGER, nullable=True),
    ):
        op.add_column("task", column)
    op.add_column("execution", sa.Column("wave", INTEGER, server_default="1", nullable=False))
    running = sa.text("state = 'running'")
    op.create_index("ix_execution_running", "execution", ["host"], sqlite_where=running, postgresql_where=running)
