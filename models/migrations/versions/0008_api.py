"""The REST API: its tokens, the audit trail, and who asked for a task."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # where an INTEGER has as many bytes


def upgrade() -> None:
    op.add_column("task", sa.Column("created_by", sa.String(), nullable=True))
    op.add_column("task", sa.Column("request_key", sa.String(), nullable=True))
    asked = sa.text("request_key IS NOT NULL")
    op.create_index("ix_task_request_key", "task", ["request_key"], unique=True, sqlite_where=asked, postgresql_where=asked)
    waits = sa.text("request_key IS NOT NULL AND owner IS NULL AND finished_at IS NULL")
    op.create_index("ix_task_asked", "task", ["id"], sqlite_where=waits, postgresql_where=waits)
    op.create_table(
        "api_token",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("command", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.CheckConstraint("(target IS NULL) = (command IS NULL)", name=op.f("ck_api_token_scope_is_whole")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_token_digest")),
    )
    good = sa.text("revoked_at IS NULL")
    op.create_index("ix_api_token_good", "api_token", ["name"], unique=True, sqlite_where=good, postgresql_where=good)
    op.create_table(
        "audit",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
