"""Settings of the documentation site: `make docs` builds it, and every warning is an error.

The source folder is the repository's root, so that the pages under experiments/ are part of the site and relative links
work in a checkout, on the site and on a code host alike.
"""

import os
import pkgutil
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # autodoc imports the package, and a build needs no network

from sphinx.application import Sphinx

import anomaly_seg

project = "anomaly_seg"
author = "the anomaly_seg authors"
version = release = anomaly_seg.__version__

extensions = [
    "myst_parser",  # pages in Markdown
    "sphinx.ext.autodoc",  # the reference, from docstrings
    "sphinx.ext.autosummary",  # a page of it for each package
    "sphinx.ext.doctest",  # examples on pages are run
    "sphinx.ext.napoleon",  # sections Args, Returns, Raises
]
root_doc = "docs/index"
include_patterns = ["docs/**", "experiments/*.md", "experiments/**/*.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = ["docs/_*", ".*", "*.egg-info", "runs", "demo", "tests", "anomaly_seg", "conf", "notebooks"]
suppress_warnings = ["ref.python"]  # a word of an array's shape, such as "b", is no reference

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https"]

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!anomaly_seg\.).*"),  # other packages' types: their documentation is not at hand
    ("py:class", r".*(\._|<locals>).*"),  # private names
]
default_role = "literal"  # `name` in a docstring is code

napoleon_use_ivar = True
autosummary_generate = True
autosummary_context = {
    "packages": [m.name for m in pkgutil.walk_packages(anomaly_seg.__path__, "anomaly_seg.") if m.ispkg]
}
autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "model_config"}
autodoc_inherit_docstrings = False
autodoc_use_type_comments = False  # there are none, and looking for them takes long
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"anomaly_seg {release}"
html_show_sourcelink = html_show_copyright = False
html_additional_pages = {"index": "redirect.html"}
templates_path = [
    str(Path(__file__).parent / "_templates")
]  # autosummary looks from the source folder, Sphinx from here


def drop_namedtuple_filler(app: Sphinx, kind: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Leave out what Python itself writes as docstring of a named tuple's fields."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", drop_namedtuple_filler)
