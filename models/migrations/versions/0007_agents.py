"""Agents, and what they and the workers leave for each other."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # where an INTEGER has as many bytes


def upgrade() -> None:
    op.add_column("stack", sa.Column("bus", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "join_token",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("uses", INTEGER, nullable=False),
        sa.Column("approves", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.CheckConstraint("uses >= 0", name=op.f("ck_join_token_uses_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_join_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_join_token_digest")),
    )
    op.create_table(
        "agent",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("generation", INTEGER, server_default="1", nullable=False),
        sa.Column("joined_at", sa.Float(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("boot", sa.String(), nullable=True),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("telemetry", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'approved', 'rejected', 'revoked')", name=op.f("ck_agent_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent")),
    )
    living = sa.text("state IN ('pending', 'approved')")
    op.create_index("ix_agent_living", "agent", ["name"], unique=True, sqlite_where=living, postgresql_where=living)
    op.create_index("ix_agent_changed", "agent", ["changed"])
    op.create_table(
        "delivery_body",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery_body")),
    )
    op.create_table(
        "delivery",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("attempt", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("agent_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("body_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("canceled", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.Float(), nullable=False),
        sa.Column("stdout", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stderr", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("exit_code", INTEGER, nullable=True),
        sa.Column("ended", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'held', 'refused', 'go', 'running', 'done', 'closed')", name=op.f("ck_delivery_state_known")
        ),
        sa.ForeignKeyConstraint(["agent_id"], ["agent.id"], name=op.f("fk_delivery_agent_id")),
        sa.ForeignKeyConstraint(["body_id"], ["delivery_body.id"], name=op.f("fk_delivery_body_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("attempt", name=op.f("uq_delivery_attempt")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_delivery_changed", "delivery", ["changed"])
    op.create_index("ix_delivery_agent_id", "delivery", ["agent_id"])
    op.create_index("ix_delivery_body_id", "delivery", ["body_id"])
    op.create_table(
        "delivery_output",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("delivery_id", INTEGER, nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("gap", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("stream IN ('stdout', 'stderr')", name=op.f("ck_delivery_output_stream_known")),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_delivery_output_delivery_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery_output")),
        sa.UniqueConstraint("delivery_id", "stream", "offset", name=op.f("uq_delivery_output_delivery_id_stream_offset")),
        sqlite_autoincrement=True,
    )
