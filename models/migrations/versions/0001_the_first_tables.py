"""The first tables."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # where an INTEGER has as many bytes


def upgrade() -> None:
    stack = op.create_table("stack", sa.Column("id", sa.String(), nullable=False), sa.PrimaryKeyConstraint("id", name=op.f("pk_stack")))
    op.create_table(
        "task",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("flow_run_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("script", sa.String(), nullable=False),
        sa.Column("env", sa.JSON(), nullable=False),
        sa.Column("cwd", sa.String(), nullable=True),
        sa.Column("stdin", sa.LargeBinary(), nullable=False),
        sa.Column("timeout", sa.Float(), nullable=True),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("state", sa.String(), server_default="pending", nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("hosts", INTEGER, nullable=False),
        sa.Column("pending", INTEGER, nullable=False),
        sa.Column("queued", INTEGER, server_default="0", nullable=False),
        sa.Column("running", INTEGER, server_default="0", nullable=False),
        sa.Column("succeeded", INTEGER, server_default="0", nullable=False),
        sa.Column("failed", INTEGER, server_default="0", nullable=False),
        sa.Column("timed_out", INTEGER, server_default="0", nullable=False),
        sa.Column("canceled", INTEGER, server_default="0", nullable=False),
        sa.Column("unreachable", INTEGER, server_default="0", nullable=False),
        sa.Column("lost", INTEGER, server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint("(finished_at IS NULL) = (state IN ('pending', 'running'))", name=op.f("ck_task_final_has_finished")),
        sa.CheckConstraint("state IN ('pending', 'running', 'succeeded', 'failed', 'canceled')", name=op.f("ck_task_state_known")),
        sa.CheckConstraint(
            "hosts = pending + queued + running + succeeded + failed + timed_out + canceled + unreachable + lost",
            name=op.f("ck_task_counters_add_up"),
        ),
        sa.CheckConstraint(
            "pending >= 0 AND queued >= 0 AND running >= 0 AND succeeded >= 0 AND failed >= 0"
            " AND timed_out >= 0 AND canceled >= 0 AND unreachable >= 0 AND lost >= 0",
            name=op.f("ck_task_counters_not_negative"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("flow_run_id", name=op.f("uq_task_flow_run_id")),
    )
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.create_index(
            "ix_task_open",
            ["owner"],
            unique=False,
            sqlite_where=sa.text("finished_at IS NULL"),
            postgresql_where=sa.text("finished_at IS NULL"),
        )

    op.create_table(
        "execution",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("task_id", INTEGER, nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default="pending", nullable=False),
        sa.Column("epoch", INTEGER, server_default="0", nullable=False),
        sa.Column("attempt_id", INTEGER, nullable=True),
        sa.Column("exit_code", INTEGER, nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(exit_code IS NOT NULL) = (state IN ('succeeded', 'failed'))", name=op.f("ck_execution_exit_code_when_ended_by_itself")
        ),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (state IN ('pending', 'queued', 'running'))", name=op.f("ck_execution_final_has_finished")
        ),
        sa.CheckConstraint(
            "started_at IS NOT NULL OR state NOT IN ('running', 'succeeded', 'failed', 'timed_out', 'lost')",
            name=op.f("ck_execution_started_has_start"),
        ),
        sa.CheckConstraint(
            "started_at IS NULL OR state NOT IN ('pending', 'queued', 'unreachable')", name=op.f("ck_execution_unstarted_has_no_start")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'canceled', 'unreachable', 'lost')",
            name=op.f("ck_execution_state_known"),
        ),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_execution_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_execution")),
        sa.UniqueConstraint("task_id", "host", name=op.f("uq_execution_task_id_host")),
    )
    op.create_table(
        "attempt",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("execution_id", INTEGER, nullable=False),
        sa.Column("number", INTEGER, nullable=False),
        sa.Column("uuid", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("exit_code", INTEGER, nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("queued_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("stdout_cut", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stderr_cut", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'canceled', 'unreachable', 'lost')",
            name=op.f("ck_attempt_state_known"),
        ),
        sa.ForeignKeyConstraint(["execution_id"], ["execution.id"], name=op.f("fk_attempt_execution_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("execution_id", "number", name=op.f("uq_attempt_execution_id_number")),
    )
    op.create_table(
        "output",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("attempt_id", INTEGER, nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("stream IN ('stdout', 'stderr')", name=op.f("ck_output_stream_known")),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_output_attempt_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_output")),
        sa.UniqueConstraint("attempt_id", "stream", "offset", name=op.f("uq_output_attempt_id_stream_offset")),
    )
    op.bulk_insert(stack, [{"id": str(uuid.uuid4())}])
