"""The documentation: commands on its pages are accepted, links lead somewhere, and the reference leaves nothing out."""

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.paths import ROOT

import anomaly_seg
from anomaly_seg import cli
from anomaly_seg.settings import Settings
from anomaly_seg.training.compose import compose_first, quote_values, to_plain

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^\s*```(\w*)\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(anomaly-seg .*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HYDRA = ("train", "check")
MODULES = [module.name for module in pkgutil.walk_packages(anomaly_seg.__path__, "anomaly_seg.")]


def has_examples(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    source = path.with_suffix(".py") if not path.is_dir() else path / "__init__.py"
    return ">>>" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", filter(has_examples, MODULES))
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def commands() -> list[tuple[str, str]]:
    """Each line that calls the command line, with its page."""
    found = [(page.name, line) for page in PAGES for line in INDENTED.findall(page.read_text(encoding="utf-8"))]
    return [(name, line.split(" # ")[0].strip()) for name, line in found]


def test_pages_have_commands_for_every_verb() -> None:
    assert {shlex.split(line)[1] for _, line in commands()} == set(cli.VERBS)


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_is_accepted(page: str, line: str) -> None:
    verb, *words = shlex.split(line)[1:]
    if verb not in HYDRA:
        cli._parser().parse_args([verb, *words])
        return
    words = [word for word in words if word not in ("-m", "--profile") and not word.startswith("hydra")]
    if "--cfg" in words:
        del words[words.index("--cfg") :]
    if "my_set" in line or "my_network" in line or "my_study" in line:  # the reader's own
        return
    Settings.of(to_plain(compose_first(quote_values(words))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_compiles_and_names_what_exists(page: Path) -> None:
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        tree = ast.parse(re.sub(r"^ {3}", "", code, flags=re.MULTILINE) if code.startswith("   ") else code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        url = urlsplit(link)
        if url.scheme:
            assert url.scheme == "https" and "." in url.netloc
            continue
        target = page.parent / url.path if url.path else page
        assert target.is_file(), link
        if url.fragment:
            assert url.fragment in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_names_every_package() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (anomaly_seg[\w.]*)$", text, re.MULTILINE))
    walked = pkgutil.walk_packages(anomaly_seg.__path__, "anomaly_seg.")
    assert listed == {"anomaly_seg", *(module.name for module in walked if module.ispkg)}


def test_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 1100
