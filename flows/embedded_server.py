"""The embedded Prefect server's process: it ends with the process that started it, whatever way that goes.

Started as `python -m corrigenda.flows.embedded_server FD`, with a listening socket at that number and a pipe
on stdin that nobody writes to: its end is the parent's. A signal, `kill -9` and a crash close it alike.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE_S = 5.0


def main() -> None:
    import uvicorn

    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        fd=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(0)  # its services are given no more time: the database is written in transactions


if __name__ == "__main__":
    main()
