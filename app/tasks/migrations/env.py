"""Alembic's entrance: runs on the connection that `app.tasks.migrate` hands over."""

from __future__ import annotations

from alembic import context

from app.tasks.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
