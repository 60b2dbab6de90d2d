"""How a database's address is shown: without any password in it, wherever the address keeps one."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url

__all__ = ["shown_address"]


def shown_address(url: URL | str) -> str:
    """`url` with `***` for its password, and for each query value that libpq takes as one (`password`, `sslpassword`)."""
    parsed = make_url(url)
    query = {name: "***" if "pass" in name.lower() else value for name, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True)
