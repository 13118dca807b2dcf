"""Questions that a task puts to people, and their answers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # where an INTEGER has as many bytes


def upgrade() -> None:
    op.create_table(
        "approval",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("task_id", INTEGER, nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.Column("approved", sa.Boolean(), nullable=True),
        sa.Column("who", sa.String(), nullable=True),
        sa.Column("why", sa.String(), nullable=True),
        sa.CheckConstraint("(answered_at IS NULL) = (approved IS NULL)", name=op.f("ck_approval_answered_has_answer")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_approval_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    op.create_index("ix_approval_task_id", "approval", ["task_id"])
