"""Schema migrations, run by alembic from the first table on."""
