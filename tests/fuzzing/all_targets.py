"""Every target by its name."""

from __future__ import annotations

from tests.fuzzing import log_targets, outside_targets, reading_targets, store_targets
from tests.fuzzing.target import Target

__all__ = ["ALL"]

ALL: dict[str, Target] = {
    each.name: each
    for each in (
        *reading_targets.TARGETS,
        *log_targets.TARGETS,
        *outside_targets.TARGETS,
        *store_targets.TARGETS,
    )
}
