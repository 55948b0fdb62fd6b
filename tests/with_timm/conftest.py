"""Tests that need timm, whose torchvision does not import beside the CPU build of torch that other tests take.

`make test-timm` runs them in an environment of their own. Elsewhere they are not collected, which skips nothing.
"""

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a network

if importlib.util.find_spec("timm") is None:
    collect_ignore_glob = ["test_*.py"]
