"""An upstream that will not go: it ignores SIGTERM and the end of its input, and starts a child that does the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEP_S = 600


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep = [sys.executable, "-I", "-S", "-c", f"import time; time.sleep({SLEEP_S})"]
    child = subprocess.Popen(sleep, stdin=subprocess.DEVNULL)
    for name, pid in (("child", child.pid), ("guard", os.getppid()), ("pid", os.getpid())):
        written = folder / f"{name}.new"
        written.write_text(str(pid))
        written.replace(folder / name)
    time.sleep(SLEEP_S)


if __name__ == "__main__":
    main()
