"""A session on the Postgres server of a store that cannot write, and does not wait long."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from comptroller_server.config.model import Config

if TYPE_CHECKING:
    import psycopg

__all__ = ["reading_session"]

_CONNECT_S = 3


@contextlib.contextmanager
def reading_session(config: Config) -> Generator[psycopg.Connection[Any]]:
    """Raises `psycopg.Error`."""
    import psycopg  # only where the store is on Postgres

    url = make_url(config.store.url.get_secret_value()).set(drivername="postgresql")
    text = url.render_as_string(hide_password=False)
    reads_only = "-c default_transaction_read_only=on"
    with psycopg.connect(text, connect_timeout=_CONNECT_S, options=reads_only) as connection:
        yield connection
