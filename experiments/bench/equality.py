"""One sealed model, three runtimes: how far scores and verdicts are apart, and what 8-bit weights cost in F1.

Trained runs (a folder with one run for each fold) are sealed fold by fold and score their own test images, so that the
pooled figures are those of a report. At paper scale, where no trained run is needed to see whether arithmetic agrees,
the weights are random with plausible statistics, and the images are real.

    python experiments/bench/equality.py runs/train/kolektor/one_stage/D9 runs/train/kolektor/seg_dec/D9 --paper 4

Without --add the JSON is written anew.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import settle
from sealing import Models, convert
from tqdm import tqdm

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics, thresholds
from anomaly_seg.exporting import formats, int8
from anomaly_seg.exporting.ensemble import Member, held_out, read_members
from anomaly_seg.exporting.export import seal
from anomaly_seg.exporting.graph import InferenceGraph, Preprocess
from anomaly_seg.exporting.int8 import Pictures, find_pictures
from anomaly_seg.exporting.optimize import optimize
from anomaly_seg.inference.load import KINDS
from anomaly_seg.results.environment import describe
from anomaly_seg.training.build import make_network

FAINT = 1e-6
"""Below it a score is compared by difference: a product of sigmoids loses its last digits on the way to 1e-12."""
PAPER = (1408, 512)
Scores = dict[str, np.ndarray]


def read_folds(root: Path) -> list[Member]:
    """The runs below a folder. Raises InputError unless they are one for each of two folds or more."""
    members = read_members(root)
    folds = [member.result.run.fold for member in members]
    if len(folds) < 2 or len(set(folds)) < len(folds):
        raise InputError(f"{root}: runs of folds {folds}; give a folder with one run for each fold, of two or more")
    return members


def convert_int8(sealed: InferenceGraph, channels: int, pictures: Pictures) -> Models:
    """The same in 8 bits, for the runtimes that can, calibrated on training images."""
    found = {f"{name} INT8": model for name, model in convert(sealed, channels).items() if model[1] != "torch"}
    return {name: (int8.quantise(model, kind, pictures.batches()), kind) for name, (model, kind) in found.items()}


def score(models: Models, names: list[str], images: Sequence[np.ndarray], what: str) -> Scores:
    """Scores (n,) of images (h, w, c) by every runtime."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (model, kind)) in enumerate(models.items()):
            path = Path(folder) / f"{number}{formats.SUFFIX[kind]}"
            formats.write(model, kind, names, "{}", path)
            infer = KINDS[path.suffix](path).infer
            bar = tqdm(images, desc=f"{what}, {name}")
            found[name] = np.array([float(infer(image[None])["score"][0]) for image in bar])
    return found


def trained(members: list[Member], with_int8: bool) -> dict[str, Any]:
    """Rows by runtime of the runs of one network, each on its own test images, pooled."""
    reported = held_out(members)
    limit = thresholds.best_f(reported.score, reported.label)
    scores: dict[int, Scores] = {}
    labels: dict[int, np.ndarray] = {}
    for member in members:
        fold = member.result.run.fold
        pictures = find_pictures(member)
        test = pictures.data.split.test
        sealed, preparation = seal([member], limit)
        models = convert(sealed, preparation.channels)
        if with_int8:
            models |= convert_int8(seal([member], limit, fewer=False)[0], preparation.channels, pictures)
        images = [pictures.image(i) for i in test.tolist()]
        scores[fold] = score(models, sealed.names, images, f"{member.result.run.model} {fold}")
        scores[fold]["as trained"] = reported.score[reported.fold == fold]
        labels[fold] = pictures.data.arrays.labels[test]
    rows = {name: row(name, scores, labels, limit) for name in scores[members[0].result.run.fold]}
    return {"threshold": limit, "images": len(reported.label), "runtimes": rows}


def row(name: str, scores: dict[int, Scores], labels: dict[int, np.ndarray], limit: float) -> dict[str, Any]:
    """Differences from torch.export, and verdicts: at the float32 model's threshold, and at one of its own."""
    own, exact = ({fold: s[kind] for fold, s in scores.items()} for kind in (name, "torch.export"))
    pooled, truth, reference = (np.concatenate([*part.values()]) for part in (own, labels, exact))
    cuts = thresholds.cross_fold(own, labels)
    crossed = sum((metrics.confusion(own[f], labels[f], cuts[f]) for f in own), start=metrics.Confusion(0, 0, 0, 0))
    given = metrics.confusion(pooled, truth, limit)
    return {
        **apart(pooled, reference),
        "verdicts_changed": int(np.sum((pooled > limit) != (reference > limit))),
        "same_threshold": [given.fp, given.fn, given.f1],
        "cross_fold": [crossed.fp, crossed.fn, crossed.f1],
        "average_precision": metrics.average_precision(pooled, truth),
    }


def apart(scores: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The largest relative difference where both are above `FAINT`, the largest difference elsewhere."""
    seen = np.minimum(scores, reference) > FAINT
    relative, below = np.abs(scores - reference)[seen] / reference[seen], np.abs(scores - reference)[~seen]
    return {"relative": float(relative.max(initial=0)), "below_1e-6": float(below.max(initial=0))}


def untrained(member: Member, count: int) -> dict[str, Any]:
    """A network at paper scale with random weights and the running statistics of a real image."""
    pictures = find_pictures(member)
    picks = np.linspace(0, len(pictures.data.arrays.labels) - 1, count).round().astype(int)
    images = [pictures.image(i) for i in picks.tolist()]
    torch.manual_seed(0)
    model = member.settings.model
    full = model.model_copy(update={"network": model.network | {"width_multiplier": 1.0}})
    network = make_network(full)
    prepare = Preprocess(*PAPER, "resize", "area")
    settle(network, prepare(torch.from_numpy(images[0][None])))
    sealed = InferenceGraph([optimize(network)], prepare, 0.5).eval()
    sealed.find_maps(channels=1)
    scores = score(convert(sealed, 1), sealed.names, images, f"{member.result.run.model}, paper scale")
    limit = float(np.median(scores["torch.export"]))
    rows = {
        name: apart(s, scores["torch.export"])
        | {"verdicts_changed": int(np.sum((s > limit) != (scores["torch.export"] > limit)))}
        for name, s in scores.items()
    }
    return {"images": count, "scores": scores["torch.export"].tolist(), "runtimes": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folder with one trained run for each fold")
    parser.add_argument("--paper", type=int, default=0, help="images at paper scale, random weights")
    parser.add_argument("--int8", action="store_true", help="8-bit models too")
    parser.add_argument("--add", action="store_true", help="keep what stands in the JSON of other networks")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="where the JSON goes")
    options = parser.parse_args()
    facts: dict[str, Any] = {"what": __doc__.splitlines()[0], "trained": {}, "paper_scale": {}}
    if options.add:
        facts = json.loads(options.out.read_text(encoding="utf-8"))
    for members in [read_folds(folder) for folder in options.runs]:  # all, before hours of work
        name, about = members[0].result.run.model, {"environment": describe().model_dump()}
        facts["trained"][name] = trained(members, options.int8) | about
        if options.paper:
            facts["paper_scale"][name] = untrained(members[0], options.paper) | about
        options.out.write_text(f"{json.dumps(facts, indent=2)}\n", encoding="utf-8")
    print(json.dumps({key: facts[key] for key in ("trained", "paper_scale")}, indent=1))


if __name__ == "__main__":
    main()
