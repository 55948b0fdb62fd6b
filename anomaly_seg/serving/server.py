"""What the page and the API share: checked options, a socket, and a server that stops without losing an answer."""

import errno
import math
import socket
import sys
from typing import Any

from anomaly_seg.errors import InputError
from anomaly_seg.serving.upload import MEGABYTE, Limits

SHUTDOWN_SECONDS = 300
"""Seconds that accepted requests get to be answered after the signal to stop."""


def limits_of(port: int, max_mb: float) -> Limits:
    """Check --port and --max-mb, the largest upload in MB.

    Raises:
        InputError: out of range.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: give a number from 1 to 65535")
    if not math.isfinite(max_mb) or max_mb <= 0:
        raise InputError(f"--max-mb {max_mb:g}: give a number of megabytes above 0")
    return Limits(max_bytes=max(1, round(max_mb * MEGABYTE)))


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that a taken port is known before a model is loaded.

    Raises:
        InputError: the port is taken or not allowed, or the host is no address of this machine.
    """
    where = f"--host {host} --port {port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=256)
    except PermissionError as error:
        raise InputError(f"{where}: not allowed; choose a port above 1023") from error
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(f"{where}: the port is in use; stop what listens there, or choose another") from error
        raise InputError(f"{where}: cannot listen there ({error}); --host is an address of this machine") from error
    return listener


def run(app: Any, listener: socket.socket, what: str) -> None:
    """Serve until Ctrl+C, or SIGTERM, which ends the process once what was accepted is answered."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{what}: http://{shown}:{port}/ (Ctrl+C stops it)", flush=True)
    if not host.startswith("127.") and host != "::1":
        print(f"{host} can be reached from other machines, and there is no password.", file=sys.stderr, flush=True)
    server = uvicorn.Server(server_config(app))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again once it has shut down in order
        pass
    finally:
        listener.close()


def server_config(app: Any) -> Any:
    import uvicorn

    from anomaly_seg.serving.connections import BoundedProtocol

    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    return uvicorn.Config(app, http=BoundedProtocol, lifespan="on", timeout_graceful_shutdown=SHUTDOWN_SECONDS, **quiet)
