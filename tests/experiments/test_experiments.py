"""The published tables are those of the committed result files."""

import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from sklearn.metrics import average_precision_score
from support.fake_runs import write_run
from support.helpers import load_script
from support.paths import ROOT

from anomaly_seg.errors import InputError
from anomaly_seg.settings import Settings
from anomaly_seg.training.compose import compose_first, to_plain

SCRIPT = ROOT / "experiments" / "tables.py"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with its pages and results in an empty folder."""
    module = load_script(SCRIPT)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_every_published_table_is_up_to_date() -> None:
    script = load_script(SCRIPT)
    pages = script.pages()
    found = sum(page.read_text(encoding="utf-8").count("<!-- table\n") for page in pages)
    assert found >= 8
    full = sorted((ROOT / "experiments").glob("*/full_tables.md"))
    assert len(full) >= 6 and set(full) <= set(pages)
    assert [
        str(page) for page in pages if script.renew(page.read_text(encoding="utf-8")) != page.read_text("utf-8")
    ] == []


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = sorted((ROOT / "experiments").rglob("*.md"))
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 30
    for page, link in links:
        place, _, anchor = link.partition("#")
        target = (page.parent / place) if place else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def published_commands() -> list[str]:
    """Every `anomaly-seg train` that a page gives, each once."""
    pages = sorted((ROOT / "experiments").rglob("*.md"))
    lines = [line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("anomaly-seg train ")))


def test_every_published_command_composes() -> None:
    commands = published_commands()
    assert len(commands) > 20
    for command in commands:
        overrides = [word for word in shlex.split(command, comments=True)[2:] if word != "-m"]
        settings = Settings.of(to_plain(compose_first(overrides)))
        study = re.search(r"experiment=(\w+)", command)
        assert study is None or "experiment_name=" in command or settings.experiment_name == study[1], command


def bench_rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading of the full tables on speed."""
    text = (ROOT / "experiments" / "bench" / "full_tables.md").read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return rows[2:]


def bench_facts(name: str) -> dict:
    return json.loads((ROOT / "experiments" / "bench" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_copied_figures_of_the_training_step_are_the_files() -> None:
    steps = bench_facts("train_step_laptop_cpu")["steps"]
    expected = [
        [network, variant, f"{fact['ms']} [{fact['quartiles'][0]}, {fact['quartiles'][1]}]", str(fact["times_as_fast"])]
        for network, variants in steps.items()
        for variant, fact in variants.items()
    ]
    assert bench_rows("Training step") == expected


def test_the_copied_figures_of_the_runtimes_are_the_files() -> None:
    rows = iter(bench_rows("One image through a sealed One-Stage"))
    for scale, runtimes in bench_facts("runtimes_instance")["scales"].items():
        for runtime, fact in runtimes.items():
            row = next(rows)
            assert row[:2] == [scale, runtime]
            numbers = [float(number) for number in re.findall(r"[\d.]+", row[2].replace(",", "").replace("[", " "))]
            assert numbers[0] == pytest.approx(fact["milliseconds"], abs=0.51)
            assert [float(row[3]), row[4].replace(",", "")] == [fact["times_as_fast_as_plain"], str(fact["peak_mib"])]
            assert float(row[6]) == pytest.approx(fact["score_off_by"], rel=0.06)
    assert next(rows, None) is None


def test_a_table_says_what_the_scores_say(tables: ModuleType, tmp_path: Path) -> None:
    # Fold 0: 1 false alarm at sigma 100. Fold 1: 1 miss. By the other fold's best threshold (between 50 and 150, or
    # between 30 and 60) the verdicts are the same.
    write_run(tmp_path, [1, 120, 150, 400], [0, 0, 1, 1], fold=0, folds=2, height=1408, width=512)
    write_run(tmp_path, [1, 2, 90, 300], [0, 0, 1, 1], fold=1, folds=2, height=1408, width=512)
    page = "# Page\n\n<!-- table\nwhat | paper | AP | FP at FN = 0\nours | .\n-->\nold\n<!-- end -->\nafter\n"
    lines = tables.renew(page).splitlines()
    assert lines[6:11] == [
        "",
        "| what | FP, FN, F1 at `paper` | AP | FP at FN = 0 |",
        "| --- | --- | --- | --- |",
        "| ours | 1, 1, 0.750 | 0.950 | 1 |",
        "",
    ]
    assert lines[:2] == ["# Page", ""] and lines[11:] == ["<!-- end -->", "after"]
    assert tables.renew(tables.renew(page)) == tables.renew(page)


def test_images_can_be_left_out(tables: ModuleType, tmp_path: Path) -> None:
    """Without the false alarm of fold 0 the ranking is perfect, and nothing but the miss at 100 pixels is left."""
    write_run(tmp_path, [1, 500, 150, 400], [0, 0, 1, 1], fold=0, folds=2, height=1408, width=512)
    write_run(tmp_path, [1, 2, 90, 300], [0, 0, 1, 1], fold=1, folds=2, height=1408, width=512)
    for name, row in {
        "": "| ours | 1, 1, 0.750 | 1, 0, 0.889 | 0.679 | 1 |  |",  # AP: (1/2 + 2/3 + 3/4 + 4/5) / 4
        " without=kos00/Part1.jpg": "| ours | 0, 1, 0.857 | 0, 0, 1.000 | 1.000 | 0 |  |",
    }.items():
        lines = tables.build(f"what | paper | best_f | AP | FP at FN = 0 | pixel AP\nours | .{name}\n").splitlines()
        assert lines[2] == row


def test_a_row_names_one_set_of_runs(tables: ModuleType, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, [1, 200 - 150 * seed], [0, 1], fold=0, folds=1, seed=seed, height=1408, width=512)
    table = "what | paper\nours | {}\n".format
    assert tables.build(table(". seed=1")).splitlines()[2] == "| ours | 0, 1, 0.000 |"
    with pytest.raises(InputError, match="names 2 sets of runs"):
        tables.build(table("."))
    with pytest.raises(InputError, match="names 0 sets of runs"):
        tables.build(table(". seed=7"))
    with pytest.raises(InputError, match=r"without=kos00/Part9\.jpg: .* has no such image"):
        tables.build(table(". seed=1 without=kos00/Part0.jpg,kos00/Part9.jpg"))
    with pytest.raises(InputError, match="needs a text for each column that is no measure"):
        tables.build("paper\nours | .\n")


def test_several_rows_are_judged_by_their_mean(tables: ModuleType, tmp_path: Path) -> None:
    # Paper threshold 100. Alone: one false alarm each, on another image, and one miss; the means are 70, 80, 150, 300.
    for name, scores in {"a": [20, 110, 90, 500], "b": [120, 50, 210, 100]}.items():
        write_run(tmp_path / name, scores, [0, 0, 1, 1], fold=0, folds=1, height=1408, width=512)
    table = "what | paper | AP | FP at FN = 0 | pixel AP\nours | {}\n".format
    assert tables.build(table("a")).splitlines()[2].startswith("| ours | 1, 1, 0.500 | 0.833 | 1 |")
    assert tables.build(table("b")).splitlines()[2].startswith("| ours | 1, 1, 0.500 | 0.833 | 1 |")
    assert tables.build(table("a + b")).splitlines()[2] == "| ours | 0, 0, 1.000 | 1.000 | 0 |  |"
    write_run(tmp_path / "c", [20, 110, 90], [0, 0, 1], fold=0, folds=1, height=1408, width=512)
    write_run(tmp_path / "d", [20, 110, 90, 500], [0, 0, 1, 1], fold=0, folds=1, height=704, width=256)
    for other in ("c", "d", "b readout=f1"):
        with pytest.raises(InputError, match="a mean needs the same images, folds and sigma, and no readout="):
            tables.build(table(f"a + {other}"))


def test_an_undefined_measure_is_blank(tables: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path, [1, 2], [0, 0], fold=0, folds=1, height=1408, width=512)  # no defective image
    assert tables.build("AP | AP 95 % | AUROC | FP at FN = 0\n.\n").splitlines()[2] == "|  |  |  |  |"


def test_the_interval_of_ap_is_over_parts(tables: ModuleType, tmp_path: Path) -> None:
    # Two parts: AP is 1 if the first is drawn twice, 1/2 if the second is, 5/6 if both are.
    write_run(tmp_path, [4, 1], [1, 0], fold=0, folds=2, height=1408, width=512)
    write_run(tmp_path, [2, 3], [1, 0], fold=1, folds=2, height=1408, width=512)
    assert tables.build("AP | AP 95 %\n.\n").splitlines()[2] == "| 0.833 | 0.500 to 1.000 |"


class TestDifferences:
    @pytest.fixture
    def script(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
        monkeypatch.syspath_prepend(str(SCRIPT.parent))
        module = load_script(SCRIPT.parent / "differences.py")
        monkeypatch.setitem(module.read_row.__globals__, "HERE", tmp_path)
        return module

    def lines(self, script: ModuleType, first: str, second: str) -> list[str]:
        both = script.pair(script.read_row(first), script.read_row(second))
        return [*script.verdicts(both), script.ranking([both])]

    def test_of_two_dilations_by_hand(self, script: ModuleType, tmp_path: Path) -> None:
        size = {"fold": 0, "folds": 1, "height": 1408, "width": 512}
        write_run(tmp_path / "a", [1, 120, 150, 400, 300], [0, 0, 1, 1, 1], dilation=9, **size)
        write_run(tmp_path / "b", [1, 2, 90, 80, 300], [0, 0, 1, 1, 1], dilation=0, **size)
        # At 100 pixels a calls Part1 defective, b misses Part2 and Part3: p = 2 (1 + 3) / 8. At its best threshold
        # neither errs. Both rank perfectly, in every draw.
        assert self.lines(script, "a", "b") == [
            "5 images, 3 defective",
            "paper: 1 and 2 errors; right alone 2 and 1, p = 1",
            "  wrong for the first alone: kos00/Part1.jpg",
            "  wrong for the second alone: kos00/Part2.jpg, kos00/Part3.jpg",
            "best_f (oracle): 0 and 0 errors; right alone 0 and 0, p = 1",
            "best_f per fold (oracle): 0 and 0 errors; right alone 0 and 0, p = 1",
            "AP: 1.0000 and 1.0000, difference +0.0000 (+0.0000 to +0.0000)",
        ]

    def test_the_difference_in_ap_is_scikit_learns(self, script: ModuleType, tmp_path: Path) -> None:
        label, size = [0, 0, 1, 1, 0, 1], {"fold": 0, "folds": 1, "height": 1408, "width": 512}
        scores = {"a": [1, 500, 150, 400, 3, 30], "b": [7, 2, 90, 300, 200, 5]}
        for name, values in scores.items():
            write_run(tmp_path / name, values, label, **size)
        a, b = (average_precision_score(label, scores[name]) for name in "ab")
        assert self.lines(script, "a", "b")[-1].startswith(f"AP: {a:.4f} and {b:.4f}, difference {a - b:+.4f} (")

    def test_other_images_are_refused(self, script: ModuleType, tmp_path: Path) -> None:
        for fold in (0, 1):
            write_run(tmp_path / str(fold), [1, 120], [0, 1], fold=fold, folds=2, height=1408, width=512)
        with pytest.raises(InputError, match="no image in common"):
            self.lines(script, "0", "1")

    def test_the_mean_of_two_pairs_by_hand(self, script: ModuleType, tmp_path: Path) -> None:
        """Two parts, a defective and a good image each. The second part's good image outscores its defective one in a.

        So AP of a is 5/6, with one part drawn twice 1 or 1/2; of b, c and d it is 1 always.
        """
        for name, first in {"a": (2, 3), "b": (4, 3), "c": (4, 3), "d": (4, 3)}.items():
            write_run(tmp_path / name, [4, 1], [1, 0], fold=0, folds=2, height=1408, width=512)
            write_run(tmp_path / name, first, [1, 0], fold=1, folds=2, height=1408, width=512)
        pairs = [script.pair(script.read_row(x), script.read_row(y)) for x, y in ("ab", "cd")]
        assert script.ranking(pairs[:1]) == "AP: 0.8333 and 1.0000, difference -0.1667 (-0.5000 to +0.0000)"
        assert script.ranking(pairs[1:]) == "AP: 1.0000 and 1.0000, difference +0.0000 (+0.0000 to +0.0000)"
        assert script.ranking(pairs) == "AP: 0.9167 and 1.0000, difference -0.0833 (-0.2500 to +0.0000)"

    def test_no_mean_over_pairs_of_other_images(self, script: ModuleType, tmp_path: Path) -> None:
        for name, images in {"a": 2, "b": 3}.items():
            write_run(
                tmp_path / name, [1, 2, 3][-images:], [0, 1, 1][-images:], fold=0, folds=1, height=1408, width=512
            )
        pairs = [script.pair(script.read_row(name), script.read_row(name)) for name in "ab"]
        with pytest.raises(InputError, match="not of the same images"):
            script.ranking(pairs)
