"""How a command runs: as another user, with its umask, as a script file."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.add_column(sa.Column("become", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("become_password", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("umask", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("interpreter", sa.JSON(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("arguments", sa.JSON(), server_default="[]", nullable=False))
