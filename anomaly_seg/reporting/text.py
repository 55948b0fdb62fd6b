"""Tables for the eye: columns joined, numbers rounded. The CSV files keep the full numbers."""

from collections.abc import Mapping, Sequence

import pandas as pd

from anomaly_seg.evaluation.metrics import RESAMPLES
from anomaly_seg.reporting import guarantees, tables
from anomaly_seg.reporting.collect import Collection, MethodRuns, Setting
from anomaly_seg.reporting.thresholding import EXPLAINED, LABELS

UNDEFINED = "n/a"
INTERVALS = {"R": "R 95 %", "false-alarm": "false-alarm 95 %", "AP": "AP 95 %", "difference": "difference 95 %"}
AP_INTERVALS = (
    f"95 % intervals of AP are bootstrap percentiles: groups, with all their images, are drawn {RESAMPLES:,} times "
    "with replacement. Where that of a difference holds 0, it is open which method ranks better."
)


def show(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of one setting as text: mean and std joined, intervals joined, what is the same everywhere left out."""
    out: dict[str, list[str]] = {}
    for name in frame.columns:
        stem, _, last = name.rpartition(" ")
        if name in Setting._fields or (name == "seed" and frame[name].nunique() == 1):
            continue  # the heading says it
        if last == "mean" and f"{stem} std" in frame:
            pairs = zip(frame[name], frame[f"{stem} std"], strict=True)
            out[f"{stem} mean ± std"] = [text(m) if pd.isna(s) else f"{text(m)} ± {text(s)}" for m, s in pairs]
        elif last == "low":
            pairs = zip(frame[name], frame[f"{stem} high"], strict=True)
            out[INTERVALS[stem]] = [UNDEFINED if pd.isna(low) else f"[{low:.3f}, {high:.3f}]" for low, high in pairs]
        elif last not in ("std", "high"):
            out[name] = [text(value) for value in frame[name]]
    return pd.DataFrame(out)


def text(value: object) -> str:
    """Counts whole, shares with three decimals, tiny and large numbers with three digits, "n/a" for undefined."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return UNDEFINED
    number = float(str(value))
    if number.is_integer() and not isinstance(value, float):
        return str(int(number))
    return f"{number:.3f}" if 0.001 <= abs(number) < 10 or number == 0 else f"{number:.3g}"


def markdown(frame: pd.DataFrame) -> str:
    """A shown table as Markdown."""
    return str(show(frame).to_markdown(index=False, disable_numparse=True)) if len(frame) else "(nothing to show)"


def report(collection: Collection, figures: Mapping[str, Sequence[str]]) -> str:
    """The whole ``report.md``; ``figures``: setting -> paths of its figures, relative to the report."""
    parts = [
        f"# Results of `{collection.directory.resolve().name}`",
        *_state(collection),
        "## How to read this",
        *_reading(),
    ]
    for setting, methods in collection.by_setting().items():
        parts += [f"## {setting}", *section(methods)]
        parts += [f"![{path}]({path})" for path in figures.get(str(setting), ())]
    parts += ["## Runs", provenance(collection), "Every image and every run: `tables/images.csv`, `tables/runs.csv`."]
    return "\n\n".join(parts) + "\n"


def section(methods: Sequence[MethodRuns]) -> list[str]:
    """The paragraphs and tables of one setting."""
    parts = [*facts(methods), "### At a glance (pooled over folds)", markdown(tables.overview(methods))]
    parts += ["### At each threshold", "Pooled over folds, with exact (Clopper-Pearson) 95 % intervals; then mean and"]
    parts[-1] += " sample standard deviation over folds."
    parts += [markdown(tables.at_thresholds(methods)), "### With a guarantee", guarantees.EXPLAINED]
    parts += [markdown(guarantees.shown(methods))]
    parts += ["### Ranking, pixels and duplicates", markdown(tables.ranking(methods))]
    compared = tables.comparisons(methods)
    if len(compared):
        parts += ["### Can the methods be told apart?", limits(methods), markdown(compared)]
        parts += [AP_INTERVALS, markdown(tables.ap_differences(methods))]
    ablated = tables.ablation(methods)
    if len(ablated):
        parts += ["### Readouts of the same networks, without retraining"]
        known = [f"- `{readout}`: {meaning}" for readout, meaning in meanings(methods)]
        parts += ["\n".join(known)] if known else []
        parts += [markdown(ablated)]
    return parts


def facts(methods: Sequence[MethodRuns]) -> list[str]:
    """Sentences on how many images were judged and how many of them have a duplicate in training."""
    sentences = []
    first = methods[0]
    counts = {(len(m.frame), int(m.frame["label"].sum())) for m in methods}
    scored = first.key.setting.scored
    amount = " or ".join(f"{n} {scored} images, {d} defective" for n, d in sorted(counts, reverse=True))
    present = min(len(m.runs) for m in methods)
    folds = f"{first.folds}" if present == first.folds else f"{present} of {first.folds}"
    sentences.append(f"{amount}, over {folds} fold{'s' if first.folds > 1 else ''}; each image is scored once.")
    duplicates = {
        tuple(
            sum(getattr(r.result.duplicates_across_split, kind) for r in method.runs.values())
            for kind in ("identical", "near")
        )
        for method in methods
    }
    identical, near = max(t[0] for t in duplicates), max(t[1] for t in duplicates)
    if identical or near:
        sentences.append(
            f"**Caution:** {identical} {scored} images have a byte-identical, and {near} a near-identical, image in "
            "their training part: scores on them say little about new images."
        )
    else:
        sentences.append(f"No {scored} image has an identical or near-identical image in its training part.")
    return sentences + _not_learned(methods) + _seen_before(methods)


def _seen_before(methods: Sequence[MethodRuns]) -> list[str]:
    """Runs that began with weights that may know their test images."""
    runs = [run.result for method in methods for run in method.runs.values()]
    seen = [r.start.test_images_seen for r in runs if r.start is not None and r.start.test_images_seen]
    if not seen:
        return []
    return [
        f"**Caution:** {len(seen)} of {len(runs)} runs began with the weights of an earlier run that may have trained "
        f"on {sum(seen)} of the images scored here (model.start): scores on them say little about new images."
    ]


def _not_learned(methods: Sequence[MethodRuns]) -> list[str]:
    """Runs whose loss stayed near that of a constant guess."""
    found, runs = [], 0
    for method in methods:
        for fold, run in sorted(method.runs.items()):
            runs += 1
            found += [
                f"{method.key.name}, D = {method.key.dilation}, seed {method.key.seed}, fold {fold} "
                f"(phase '{phase.phase}': loss {phase.loss:.3g}, a constant guess has {phase.constant_guess:.3g})"
                for phase in run.result.training.phases
                if not phase.learned
            ]
    if not found:
        return []
    return [f"**Caution:** of {runs} runs these hardly learned, so their figures say little: {'; '.join(found)}."]


def meanings(methods: Sequence[MethodRuns]) -> list[tuple[str, str]]:
    """Each readout with what its network says that it is; where networks differ about a name, with their titles."""
    said: dict[str, dict[str, list[str]]] = {}
    for method in methods:
        for readout, meaning in method.network.meanings.items():
            titles = said.setdefault(readout, {}).setdefault(meaning, [])
            titles += [] if method.network.title in titles else [method.network.title]
    return [
        (readout, f"{meaning} ({', '.join(titles)})" if len(by_meaning) > 1 else meaning)
        for readout, by_meaning in said.items()
        for meaning, titles in by_meaning.items()
        if meaning
    ]


def limits(methods: Sequence[MethodRuns]) -> str:
    """What the tests between methods can decide here, and how to read their p-values."""
    defective = max(int(m.frame["label"].sum()) for m in methods)
    return tables.limits_sentence(defective) + " The p-values are exact (McNemar) and not corrected for their number."


def provenance(collection: Collection) -> str:
    """Commits, machines and training time, as the runs give them."""
    results = [run.result for run in collection.runs]
    commits = sorted(
        {r.environment.commit[:12] + (" (with local changes)" if r.environment.dirty else "") for r in results}
    )
    machines = {", ".join(f"{k} {v}" for k, v in sorted(r.environment.hardware.items())) for r in results}
    dates = sorted({r.environment.date[:10] for r in results})
    hours = sum(r.training.train_seconds for r in results) / 3600
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{len(results)} finished run{'s' if len(results) > 1 else ''}, {span}, {hours:.2f} hours of training in all. "
        f"Commit: {'; '.join(commits)}. Hardware: {'; '.join(sorted(machines))}."
    )


def _state(collection: Collection) -> list[str]:
    if not collection.problems:
        return [f"Runs: {len(collection.runs)} finished, none missing."]
    head = f"**Runs: {len(collection.runs)} finished; the tables are incomplete:**"
    return [head, "\n".join(f"- {problem}" for problem in collection.problems)]


def _reading() -> list[str]:
    thresholds = "\n".join(f"- **{LABELS[kind]}**: {explained}" for kind, explained in EXPLAINED.items())
    return [
        "An image is called defective if its score lies above a threshold. P, R, F1: precision, recall and their "
        "harmonic mean; FP: false alarms; FN: misses; D: dilation of the training masks. The thresholds, never mixed:",
        thresholds,
        "Pooled: the counts of all folds added, or the scores of all folds ranked together. Pixel measures are against "
        "the undilated mask; pixel IoU and Dice are at their own best thresholds, so they are oracles too.",
    ]
