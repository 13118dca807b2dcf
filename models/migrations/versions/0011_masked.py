"""Attempts in whose output a secret was masked."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("masked", sa.Boolean(), server_default="0", nullable=False))
    attempt = sa.table("attempt", sa.column("masked", sa.Boolean()), sa.column("finished_at", sa.Float()))
    op.execute(sa.update(attempt).where(attempt.c.finished_at.is_(None)).values(masked=True))  # of what runs nobody knows
