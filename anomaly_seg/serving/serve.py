"""`anomaly-seg serve`: a sealed model behind an HTTP API."""

import argparse

from anomaly_seg.extras import need
from anomaly_seg.inference.load import load
from anomaly_seg.serving.server import limits_of, listen, run


def serve(options: argparse.Namespace) -> int:
    """Serves until interrupted; returns 0.

    Raises:
        InputError: no such model, a port out of range or in use, a size limit that is no size, a missing extra.
    """
    limits = limits_of(options)
    need("serve", "fastapi", "uvicorn", "python_multipart", "fastapi_offline", "prometheus_client")
    from anomaly_seg.serving.api.app import create_app

    with listen(options.host, options.port) as listener:
        detector = load(options.model)
        what = f"{detector.card.name} answers; /docs describes the API"
        return run(create_app(detector, limits), listener, what)
