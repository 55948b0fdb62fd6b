"""The command line: verbs with help of their own; heavy imports only inside the verb that needs them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from anomaly_seg import __version__
from anomaly_seg.errors import InputError

VERBS = {
    "train": (
        "train and score one fold, or with -m every combination of the values given",
        "anomaly-seg train data=kolektor data.root=KolektorSDD.zip dilation=9 fold=0,1,2 -m",
        "Arguments are Hydra overrides (key=value). --cfg job prints the whole configuration without running; "
        "-m (--multirun) runs every combination of comma-separated values. The same command again resumes it: finished "
        "runs are skipped. --profile writes where a step's time goes into the run's folder.",
    ),
    "check": (
        "look at a data set before training: counts, sizes, defects, folds, twins, problems",
        "anomaly-seg check data=kolektor data.root=KolektorSDD.zip",
        "Arguments are the same overrides as for train.",
    ),
    "report": (
        "pool the folds of all runs below a folder into tables, figures and one page",
        "anomaly-seg report runs/train",
        "Reads result files only; writes report.md, report.html and tables/ into the folder, or into --out.",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `anomaly-seg`. Returns 0: done, 1: a run failed, 2: unusable input, 130: interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    verb = options.verb
    if verb is None:
        parser.print_help()
        return 2
    if verb == "report" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return {"train": _train, "check": _check, "report": _report}[verb](options, rest)
    except InputError as error:
        print(f"anomaly-seg {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nanomaly-seg {verb}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def config_folder() -> Path:
    """The configuration: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.exists() else Path(__file__).parent.parent / "conf"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("anomaly-seg", description="Surface-defect segmentation from few labelled images.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, (summary, example, detail) in VERBS.items():
        verb = verbs.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {detail}", epilog=f"example: {example}"
        )
        if name == "report":
            verb.add_argument("directory", type=Path, help="folder with runs in it")
            verb.add_argument("--out", type=Path, help="where to write (default: the folder itself)")
    return parser


def _train(options: argparse.Namespace, overrides: list[str]) -> int:
    from anomaly_seg.sweep import train

    words = ["profile=true" if word == "--profile" else word for word in overrides]
    return train(config_folder(), words)


def _check(options: argparse.Namespace, overrides: list[str]) -> int:
    from omegaconf import OmegaConf

    from anomaly_seg.check import check
    from anomaly_seg.data.readers import read_dataset
    from anomaly_seg.sweep import compose

    settings: Any = OmegaConf.to_container(compose(config_folder(), overrides), resolve=True)
    report = check(settings, read_dataset(settings["data"]["reader"]))
    print(report.text)
    return 1 if report.problems else 0


def _report(options: argparse.Namespace, overrides: list[str]) -> int:
    from anomaly_seg.report import build

    report = build(options.directory, options.out)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    text = report.markdown.read_text(encoding="utf-8")
    for section in text.split("\n## "):
        title, glance, rest = section.partition("### At a glance")
        if glance:
            print(f"{title.splitlines()[0]}{rest.split('### ')[0]}")
    print(f"\n{report.markdown}\n{report.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
