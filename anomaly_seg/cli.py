"""The command line: parse, call the API, print."""

import argparse
import sys
from pathlib import Path

from anomaly_seg import api
from anomaly_seg.errors import InputError
from anomaly_seg.version import __version__

VERBS = {
    "train": (
        "train and score one fold, or with -m every combination of the values given",
        "anomaly-seg train data=kolektor data.root=KolektorSDD.zip dilation=9 fold=0,1,2 -m",
        "Arguments are Hydra overrides (key=value). --cfg job prints the whole configuration without running; "
        "-m (--multirun) runs every combination of comma-separated values. The same command again resumes it: finished "
        "runs are skipped. --profile writes where a step's time goes into the run's folder.",
    ),
    "check": (
        "look at a data set before training: counts, sizes, defects, folds, near-duplicates, problems",
        "anomaly-seg check data=kolektor data.root=KolektorSDD.zip",
        "Arguments are the same overrides as for train.",
    ),
    "report": (
        "pool the folds of all runs below a folder into tables, figures and one page",
        "anomaly-seg report runs/train",
        "Reads result files only; writes report.md, report.html and tables/ into the folder, or into --out.",
    ),
    "export": (
        "seal a trained run, or the folds of one, into a model file that needs nothing else",
        "anomaly-seg export runs/train/kolektor/one_stage/D9 --to onnx",
        "Takes raw 8-bit images and gives score, verdict and heat map; the model card travels inside.",
    ),
    "predict": (
        "judge images with a sealed model",
        "anomaly-seg predict model.onnx new_parts/ --out verdicts",
        "Exit code 0: all good, 3: at least one defective, 4: some file could not be read (the rest was judged).",
    ),
    "demo": (
        "try a sealed model, or compare two, on a page in the browser",
        "anomaly-seg demo model.onnx",
        "Listens on this machine only unless --host says otherwise.",
    ),
    "serve": (
        "answer over HTTP",
        "anomaly-seg serve model.onnx --port 8000",
        "The API describes itself at /docs; /health and /metrics are for machines.",
    ),
}
HYDRA = ("train", "check")  # their arguments are overrides


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `anomaly-seg`. Returns 0: done, 1: a run failed, 2: unusable input, 130: interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    verb = options.verb
    if verb is None:
        parser.print_help()
        return 2
    if verb not in HYDRA and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return RUN[verb](options, rest)
    except InputError as error:
        print(f"anomaly-seg {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "without overwrite=true " if "overwrite=true" in rest else ""
        print(f"\nanomaly-seg {verb}: interrupted; the same command {again}goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("anomaly-seg", description="Surface-defect segmentation from few labelled images.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, (summary, example, detail) in VERBS.items():
        verb = verbs.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {detail}", epilog=f"example: {example}"
        )
        ARGUMENTS.get(name, lambda _: None)(verb)
    return parser


def _report_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("directory", type=Path, help="folder with runs in it")
    verb.add_argument("--out", type=Path, help="where to write (default: the folder itself)")


def _export_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", type=Path, help="folder of a finished run, or one that holds one run for each fold")
    verb.add_argument("--to", choices=("onnx", "openvino", "torch"), default="onnx", help="format (default: onnx)")
    verb.add_argument("--out", type=Path, help="file to write (default: model.onnx, model.xml or model.pt2 in RUN)")
    verb.add_argument(
        "--threshold",
        default="held_out",
        help="held_out (best F1 over the held-out scores of all folds; the default), paper, guarantee, or a number",
    )
    verb.add_argument("--miss-rate", type=float, default=0.1, help="with --threshold guarantee: largest share missed")
    verb.add_argument("--confidence", type=float, default=0.9, help="with --threshold guarantee: of the promise")
    verb.add_argument("--int8", action="store_true", help="quantise, calibrated on training images")
    verb.add_argument("--licence", help="of the training data, for the model card")


def _predict_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=Path, help="a sealed model")
    verb.add_argument("paths", nargs="+", help="images, folders, or globs")
    verb.add_argument("--out", type=Path, default=Path("predictions"), help="folder to write (default: predictions)")
    verb.add_argument("--threshold", type=float, help="instead of the model's own")
    verb.add_argument("--overlays", action="store_true", help="a picture with the defects marked for every image")
    verb.add_argument("--watch", action="store_true", help="stay, and judge what appears in the folders")


def _page_arguments(verb: argparse.ArgumentParser, port: int) -> None:
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    verb.add_argument("--port", type=int, default=port, help=f"default: {port}")
    verb.add_argument("--max-mb", type=float, default=32, help="largest upload in MB (default: 32)")


def _demo_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=Path, nargs="+", help="a sealed model, or two to compare")
    verb.add_argument("--samples", type=Path, help="folder of images to choose from")
    _page_arguments(verb, 7860)


def _serve_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=Path, help="a sealed model")
    _page_arguments(verb, 8000)


ARGUMENTS = {
    "report": _report_arguments,
    "export": _export_arguments,
    "predict": _predict_arguments,
    "demo": _demo_arguments,
    "serve": _serve_arguments,
}


def _train(options: argparse.Namespace, overrides: list[str]) -> int:
    words = [word for word in overrides if word != "--profile"]
    training = api.train(*words, profile=len(words) < len(overrides))
    if len(training.folders) + len(training.failures) > 1:
        for failure in training.failures:
            where = f"\n  {failure.traceback}" if failure.traceback else ""
            print(f"failed: {failure.run}\n  {failure.error}{where}", file=sys.stderr)
    if training.elsewhere:
        others = f"{len(training.elsewhere)} run{'s' * (len(training.elsewhere) > 1)} by another command"
        print(f"anomaly-seg train: {len(training.folders)} finished, {others}", file=sys.stderr)
    return training.exit_code


def _check(options: argparse.Namespace, overrides: list[str]) -> int:
    if {"-m", "--multirun"} & set(overrides):
        print("anomaly-seg check: looks at one job: without -m, and at the first of several values", file=sys.stderr)
    report = api.check(*overrides)
    print(report.text)
    return 1 if report.problems else 0


def _report(options: argparse.Namespace, rest: list[str]) -> int:
    report = api.report(options.directory, options.out)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    text = report.markdown.read_text(encoding="utf-8")
    for section in text.split("\n## "):
        title, glance, rest_of_it = section.partition("### At a glance")
        if glance:
            print(f"{title.splitlines()[0]}{rest_of_it.split('### ')[0]}")
    print(f"\n{report.markdown}\n{report.html}")
    return 0


def _export(options: argparse.Namespace, rest: list[str]) -> int:
    from anomaly_seg.exporting.export import summary

    exported = api.export(
        options.run, to=options.to, out=options.out, threshold=options.threshold, miss_rate=options.miss_rate,
        confidence=options.confidence, int8=options.int8, licence=options.licence,
    )  # fmt: skip
    for file in exported.files:
        print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    print(summary(exported.card))
    return 0


def _predict(options: argparse.Namespace, rest: list[str]) -> int:
    found = api.predict(
        options.model, options.paths, out=options.out, threshold=options.threshold, overlays=options.overlays,
        watch=options.watch,
    )  # fmt: skip
    images = found.good + found.defective + found.unreadable
    print(
        f"{images} images: {found.good} good, {found.defective} defective, {found.unreadable} unreadable; {found.table}"
    )
    return found.exit_code


def _demo(options: argparse.Namespace, rest: list[str]) -> int:
    api.demo(options.model, samples=options.samples, host=options.host, port=options.port, max_mb=options.max_mb)
    return 0


def _serve(options: argparse.Namespace, rest: list[str]) -> int:
    api.serve(options.model, host=options.host, port=options.port, max_mb=options.max_mb)
    return 0


RUN = {
    "train": _train,
    "check": _check,
    "report": _report,
    "export": _export,
    "predict": _predict,
    "demo": _demo,
    "serve": _serve,
}


if __name__ == "__main__":
    sys.exit(main())
