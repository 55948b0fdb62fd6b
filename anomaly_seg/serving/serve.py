"""`anomaly-seg serve`: a sealed model behind an HTTP API."""

from pathlib import Path

from anomaly_seg.extras import need
from anomaly_seg.inference.load import load
from anomaly_seg.serving.server import limits_of, listen, run


def serve(model: Path, *, host: str, port: int, max_mb: float) -> None:
    """Serve until interrupted.

    Raises:
        InputError: no such model, a port out of range or in use, a size limit that is no size, a missing extra.
    """
    limits = limits_of(port, max_mb)
    need("serve", "fastapi", "uvicorn", "python_multipart", "fastapi_offline", "prometheus_client")
    from anomaly_seg.serving.api.app import create_app

    with listen(host, port) as listener:
        detector = load(model)
        what = f"{detector.card.name} answers; /docs describes the API"
        run(create_app(detector, limits), listener, what)
