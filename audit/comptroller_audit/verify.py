"""The independent verifier of the log. It shares no code with the writer and opens the store read-only.

For each tenant it rebuilds the RFC 9162 tree from the envelopes alone and compares everything else with that:
leaf hashes, interior nodes, the head row, payload digests, signed checkpoints, receipts. Entries are read in
pages inside one snapshot, so memory does not grow with the log and a writer may go on.

What it cannot see: entries cut off after the newest checkpoint and receipt it was given (it counts the entries
that lie beyond), and wrapped record keys, unless it is given the key file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from comptroller_audit.errors import EvidenceError
from comptroller_audit.evidence import Checkpoints, OpeningKeys, Receipts, read_checkpoints, read_receipts
from comptroller_audit.findings import Finding, FindingKind, Report, TenantReport
from comptroller_audit.rebuild import Progress, TenantCheck
from comptroller_audit.snapshot import Snapshot, cause_of

__all__ = ["Finding", "FindingKind", "Progress", "Report", "TenantReport", "verify"]


def verify(
    url: str,
    tenant: str | None = None,
    *,
    checkpoints: Path | str | None = None,
    vkey: str | Sequence[str] | None = None,
    receipts: Path | str | None = None,
    ring: Path | str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify one tenant's log or all of them.

    `checkpoints` is a checkpoint file, read with `vkey` (or the key file's own key); `receipts` holds JSON lines
    `{log, index, leaf}`; `ring` is the key file, to check that payloads open. Raises EvidenceError when one of
    these, or the store itself, cannot be read at all; what is wrong inside the log is a finding, never an error.
    """
    keys = OpeningKeys(Path(ring)) if ring is not None else None
    vkeys = [vkey] if isinstance(vkey, str) else list(vkey or ([keys.vkey] if keys else []))
    if checkpoints is not None and not vkeys:
        raise EvidenceError(
            "checkpoints prove nothing without the verifier key they were signed for; give it too"
        )
    retired = keys.retired if keys is not None else []
    signed = read_checkpoints(Path(checkpoints), vkeys, retired) if checkpoints is not None else Checkpoints()
    given = read_receipts(Path(receipts)) if receipts is not None else Receipts()
    report = Report(torn=len(signed.torn))
    report.findings += [Finding(FindingKind.CHECKPOINT, what) for what in signed.bad]
    report.findings += [Finding(FindingKind.RECEIPT, what) for what in given.bad]
    with Snapshot.open(url) as snapshot:
        try:
            tenants = (
                [tenant]
                if tenant is not None
                else sorted({*snapshot.tenants(), *signed.roots, *given.leaves})
            )
        except SQLAlchemyError as error:
            raise EvidenceError(f"the store cannot be read: {cause_of(error)}") from None
        for name in tenants:
            check = TenantCheck(snapshot, name, signed.roots.get(name, {}), given.leaves.get(name, {}), keys)
            report.tenants.append(check.run(progress))
    return report
