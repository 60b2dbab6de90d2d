"""A server process for the stdio tests: `python stdio_server.py [drain_s]`. Prints on import, as user code may."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from comptroller_server.face.claiming import claim_stdio
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from comptroller_server.face.stdio import serve_stdio
from tests.server.small_governor import SmallGovernor


async def main() -> None:
    wire = claim_stdio()
    print("printed before serving")
    subject = LocalIdentity("test", "ana", [], ["bot"], Path("/nonexistent")).stdio_subject("bot")
    governor = SmallGovernor()
    if "release" in sys.argv:
        asyncio.get_running_loop().call_later(0.3, governor.release.set)
    server = build_server(governor, subject_of=lambda ctx: subject, version="1")
    left = await serve_stdio(server, wire=wire, drain_s=float(sys.argv[1]))
    print(f"ended={','.join(governor.ended)} left={left}")
    sys.stdout.flush()
    os._exit(0 if left == 0 else 3)  # what is left would otherwise be cancelled at the loop's end


asyncio.run(main())
