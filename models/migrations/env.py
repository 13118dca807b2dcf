"""Alembic runs this to get a connection; `models.database.upgrade` hands it the engine.

All steps are one transaction, which is alone from its BEGIN on: of two programs that upgrade at once the second finds nothing to do, and
one that fails leaves the tables as they were.
"""

from alembic import context

from models import database, trail  # noqa: F401 - its tables are Base's too
from models.tables import Base

with database.writer(context.config.attributes["engine"]).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
