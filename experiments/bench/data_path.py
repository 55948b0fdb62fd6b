"""Samples a second from a warm cache to the loader's output, on one core, at the paper's size.

What is timed is one pass over the training loader of a FoldDataModule: the sampler's order, reading the memory-mapped
arrays, augmentation, batches of one image. Not timed: decoding and resizing, which happen once, and the network. The
first pass is a warm-up that brings the arrays into the system's file cache.

    python experiments/bench/data_path.py --images 150 --repeats 9
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from anomaly_seg.data.cache import Preparation
from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.readers.synthetic import read
from anomaly_seg.results.environment import describe

HEIGHT, WIDTH = 1408, 512
TARGET = 150  # samples/s without augmentation


def measure(data: FoldDataModule, repeats: int) -> dict[str, float | list[float]]:
    """Samples a second of each pass, and their median and quartiles."""
    loader, rates = data.train_dataloader(), []
    for epoch in range(repeats + 1):
        data.sampler.set_epoch(epoch)
        start = time.perf_counter()
        count = sum(len(batch.image) for batch in loader)
        if epoch > 0:
            rates.append(count / (time.perf_counter() - start))
    low, median, high = np.percentile(rates, (25, 50, 75)).tolist()
    return {
        "median": round(median, 1),
        "quartiles": [round(low, 1), round(high, 1)],
        "all": [round(r, 1) for r in rates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=150, help="images of the data set; two thirds are a pass")
    parser.add_argument("--repeats", type=int, default=9, help="timed passes, after one that is not")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="where the JSON goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset, preparation = read(options.images // 5, 5, 0.2, HEIGHT, WIDTH), Preparation(HEIGHT, WIDTH, dilation=9)
    results = {}
    with tempfile.TemporaryDirectory() as cache:
        for recipe in ("none", "flips", "light"):
            data = FoldDataModule(dataset, preparation, fold=0, augmentation=recipe, cache_dir=cache)
            results[recipe] = measure(data, options.repeats)
            print(f"{recipe:6} {results[recipe]['median']:7.1f} samples/s, quartiles {results[recipe]['quartiles']}")
    about = {"size": [HEIGHT, WIDTH], "images_per_pass": len(data.split.train), "repeats": options.repeats, "cores": 1}
    about["load_average"] = round(os.getloadavg()[0], 1)  # above the number of cores: others slowed this down
    facts = {"what": __doc__.splitlines()[0], **about, "target": TARGET, "samples_per_second": results}
    text = json.dumps(facts | {"environment": describe().model_dump()}, indent=2)
    options.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
