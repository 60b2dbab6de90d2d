"""The lock file of MCP servers: what of each is offered, and what is left over in it."""

from __future__ import annotations

from collections.abc import Iterator

from comptroller_server.doctor.lines import Line, Patient, ok, warning
from comptroller_tools.upstream.pins import LOCK_NAME

__all__ = ["lock"]


def lock(patient: Patient) -> Iterator[Line]:
    """Nothing is started or asked; `comptroller check` does that."""
    config = patient.config
    if config is None:
        return
    for name in config.upstreams:
        pinned = config.pins.get(name, {})
        if pinned:
            yield ok("upstreams", f"`{name}`: {len(pinned)} tools are accepted in {LOCK_NAME}")
        else:
            yield warning(
                "upstreams",
                f"`{name}`: nothing of it is accepted in {config.base_dir / LOCK_NAME}",
                "none of its tools is offered",
                f"run `comptroller classify {name}`",
            )
    for name in sorted(set(config.pins) - set(config.upstreams)):
        yield warning(
            "upstreams",
            f"{LOCK_NAME} has tools of `{name}`, which is no source here",
            "they are not offered; perhaps the source was renamed",
            f"name the source `{name}` again, or remove it from the file",
        )
