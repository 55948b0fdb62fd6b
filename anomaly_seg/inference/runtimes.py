"""The three runtimes of a sealed model behind one small interface. Each imports its library only when it is used."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.extras import imported

CARD_KEY = "anomaly_seg_card"
"""Name of the card in ONNX's metadata, in OpenVINO's rt_info and, with ".json", among the extra files of a .pt2."""

WEIGHTS_KEY = "anomaly_seg_weights"
"""In OpenVINO's rt_info: the SHA-256 of the .bin that belongs to the .xml."""

MEMBER_SCORES = "member_scores"
"""Output of a model of several runs: what each of them scores."""

Outputs = dict[str, np.ndarray]


class Runtime(NamedTuple):
    """An opened model.

    card: its text, None where it has none. infer: (n, h, w, c) uint8 -> outputs by name; safe to call from threads.
    """

    card: str | None
    infer: Callable[[np.ndarray], Outputs]


def open_onnx(path: Path, threads: int | None = None) -> Runtime:
    """By ONNX Runtime, on the CPU. Its sessions may be run from several threads."""
    ort = imported("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are for whoever wrote the graph
    options.enable_mem_pattern = False  # one is kept for every size of image seen, for ever
    options.intra_op_num_threads = threads or 0
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # no common base: InvalidProtobuf, Fail, InvalidGraph, ...
        raise _damaged(path, error) from error
    names = [output.name for output in session.get_outputs()]
    card = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    return Runtime(card, lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True)))


def open_openvino(path: Path, threads: int | None = None) -> Runtime:
    """By OpenVINO, on the CPU, in float32: by default it would round to bfloat16 where the processor knows it.

    It is opened for one image at a time, which fixes the sizes of all maps: OpenVINO then leaves out most of the
    transpositions around `WinogradConv`. Several images are computed one by one.
    """
    openvino = imported("openvino", "openvino")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; an OpenVINO model is two files, keep {path.name} and it together")
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        # Read here, for OpenVINO would map the file: one replaced meanwhile would mix its weights with these.
        graph, values = path.read_bytes(), weights.read_bytes()
        core = openvino.Core()
        model = core.read_model(graph, values)
        card = str(model.get_rt_info(CARD_KEY).value) if model.has_rt_info(CARD_KEY) else None
        named = str(model.get_rt_info(WEIGHTS_KEY).value) if model.has_rt_info(WEIGHTS_KEY) else None
        names = [output.get_any_name() for output in model.outputs]
        if card is not None:
            height, width, channels = list(model.input("image").get_partial_shape())[1:]
            model.reshape({"image": openvino.PartialShape([openvino.Dimension(1), height, width, channels])})
        request = core.compile_model(model, "CPU", options).create_infer_request()
    except Exception as error:  # RuntimeError with a page of its sources
        raise _damaged(path, error) from error
    if named is not None and named != hashlib.sha256(values).hexdigest():
        raise InputError(f"{weights}: the weights of another model than {path.name}, or damaged; copy both files again")
    lock = threading.Lock()  # one image uses all cores; a request for each thread would only use more memory

    def infer(images: np.ndarray) -> Outputs:
        with lock:
            results = [list(request.infer({"image": image[None]}).values()) for image in images]
        return {name: np.concatenate([result[i] for result in results]) for i, name in enumerate(names)}

    return Runtime(card, infer)


def open_torch(path: Path, threads: int | None = None) -> Runtime:
    """By torch.export.load, on the CPU. threads is torch's own, for the whole process, so it is not set here."""
    torch = imported("torch")
    names, card = _archive(path)
    try:
        program = torch.export.load(io.BytesIO(path.read_bytes()))
        module = program.module(check_guards=False)
    except Exception as error:  # whatever a foreign archive makes the reader stumble over
        raise _damaged(path, error) from error

    def infer(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            values = module(torch.from_numpy(images))
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    return Runtime(card, infer)


def _archive(path: Path) -> tuple[list[str], str | None]:
    """Names of the outputs and the card, from the extra files of a .pt2."""
    try:
        with zipfile.ZipFile(path) as archive:
            extra = {Path(name).name: name for name in archive.namelist() if Path(name).parent.name == "extra"}
            found = {key: archive.read(extra[key]).decode() for key in (f"{CARD_KEY}.json", OUTPUTS) if key in extra}
            settings = [archive.read(name) for name in archive.namelist() if name.endswith("_config.json")]
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, RuntimeError) as error:
        raise _damaged(path, error) from error
    if any(PICKLED.search(text) for text in settings):
        raise InputError(f"{path}: holds pickled parts, which could run code; only export writes files that are safe")
    return found.get(OUTPUTS, "").split(), found.get(f"{CARD_KEY}.json")


PICKLED = re.compile(rb'"use_pickle"\s*:\s*true')
OUTPUTS = "outputs.txt"
"""Extra file of a .pt2: the outputs' names, for torch.export keeps only their order."""


def _damaged(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return InputError(f"{path}: damaged, or no model of this kind ({reason}); export or copy it again")
