"""Agents: new credentials, copies of an identity, coming and going; late results of lost executions."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agent", sa.Column("rotating", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("agent", sa.Column("next_digest", sa.String(), nullable=True))
    op.add_column("agent", sa.Column("former_digest", sa.String(), nullable=True))
    op.add_column("agent", sa.Column("copy_of", sa.Uuid(as_uuid=False), nullable=True))
    op.add_column("agent", sa.Column("is_online", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("agent", sa.Column("turned_at", sa.Float(), nullable=True))
    lost = sa.text("state = 'lost'")
    op.create_index("ix_execution_lost", "execution", ["finished_at"], sqlite_where=lost, postgresql_where=lost)
