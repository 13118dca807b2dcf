"""What a host does with a task's commands when nobody is attached to them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("task", sa.Column("on_disconnect", sa.String(), nullable=False, server_default="end"))
