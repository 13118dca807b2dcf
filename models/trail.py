"""The tables of who may do what by the REST API, and of who has done what; tables.py has all others."""

from sqlalchemy import CheckConstraint, Float, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.tables import Base

_GOOD = text("revoked_at IS NULL")


class ApiTokenRow(Base):
    """The right to use the REST API, of whoever knows the token."""

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)  # SHA-256
    name: Mapped[str]
    role: Mapped[str]
    target: Mapped[str | None]  # of its scope
    command: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str]
    expires_at: Mapped[float | None] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)

    __table_args__ = (
        CheckConstraint("(target IS NULL) = (command IS NULL)", name="scope_is_whole"),
        Index("ix_api_token_good", "name", unique=True, sqlite_where=_GOOD, postgresql_where=_GOOD),
    )


class AuditRow(Base):
    """An entry of the audit trail (audit.py)."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(Float)
    who: Mapped[str]
    source: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    result: Mapped[str]
    detail: Mapped[str]
    digest: Mapped[str]
