"""Whatever happens to one file of a data set, no defective image is counted as good without a word."""

import json
import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.field_sets import (
    BOX4,
    DEFECTIVE,
    IMAGES,
    SIDE,
    FieldSet,
    Heard,
    bar,
    encoded,
    labelme,
    listen,
    shape,
)
from support.helpers import PUBLISHED_ITEMS, write_dagm, write_image, write_kolektor, write_kolektor2

from anomaly_seg.data.readers import dagm, folder, kolektor, kolektor2

Damage = Callable[[Path], None]
"""Does something to a file; what becomes of it may lie beside it."""


def content(data: bytes) -> Damage:
    return lambda path: _put(path, data)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def pixels(array: np.ndarray, kind: str = ".png", *options: int) -> Damage:
    """Other pixels under the name, in the format of the name or another one."""
    return content(encoded(array, kind, *options))


def renamed(change: Callable[[str], str]) -> Damage:
    def damage(path: Path) -> None:
        path.rename(path.with_name(change(path.name)))

    return damage


def moved(suffix: str, array: np.ndarray | None = None) -> Damage:
    """The same in the format of another suffix."""

    def damage(path: Path) -> None:
        path.unlink()
        path.with_suffix(suffix).write_bytes(encoded(bar() if array is None else array, suffix))

    return damage


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        archive.write(path)
    path.unlink()


def apart(path: Path) -> None:
    (path.parent / "old").mkdir(exist_ok=True)
    path.rename(path.parent / "old" / path.name)


def cut(share: float) -> Damage:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return damage


def flipped(path: Path) -> None:
    """A bit in the middle: PNG has a checksum there, JSON a letter."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))


def paged(path: Path) -> None:
    path.unlink()
    whole, data = cv2.imencodemulti(".tif", [np.zeros_like(bar()), bar()])
    assert whole
    path.with_suffix(".tif").write_bytes(data.tobytes())


def split_in_two(path: Path) -> None:
    """Two masks of half the defect each, under other names."""
    for name, half in (("left", np.arange(SIDE) < 16), ("right", np.arange(SIDE) >= 16)):
        write_image(path.with_name(f"{path.stem}_{name}.png"), bar() * half.astype(np.uint8))
    path.unlink()


def transparent(colour: int) -> np.ndarray:
    return np.dstack([np.full_like(bar(), colour)] * 3 + [bar()])


def floats(path: Path) -> None:
    path.unlink()
    path.with_suffix(".tif").write_bytes(encoded(np.where(bar() > 0, np.float32("nan"), np.float32(0)), ".tif"))


ANY: dict[str, Damage] = {
    "link to nowhere": linked,
    "link to itself": to_itself,
    "folder": to_folder,
    "pipe": pipe,
    "empty": content(b""),
    "zeros": content(bytes(4096)),
    "text": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    "cut to 8 bytes": lambda path: _put(path, path.read_bytes()[:8]),
    "cut to a third": cut(0.3),
    "cut to 95 %": cut(0.95),
    "a bit flipped": flipped,
    "upper case": renamed(str.upper),
    "taken apart letters": renamed(lambda name: unicodedata.normalize("NFD", name)),
    "hidden": renamed(lambda name: f".{name}"),
    "no extension": renamed(lambda name: name.rpartition(".")[0]),
    "extension twice": renamed(lambda name: name + "." + name.rpartition(".")[2]),
    "unknown extension": renamed(lambda name: name.rpartition(".")[0] + ".msk"),
    "kept copy": renamed(lambda name: name + ".bak"),
    "half-written": renamed(lambda name: name + ".part"),
    "blank before the extension": renamed(lambda name: name.replace(".", " .")),
    "in a folder of its own": apart,
    "zipped": zipped,
    "as HEIC": renamed(lambda name: name.rpartition(".")[0] + ".heic"),
}
MASKS: dict[str, Damage] = {
    "WebP": moved(".webp"),
    "JPEG 2000": moved(".jp2"),
    "PBM": moved(".pbm"),
    "PAM": moved(".pam"),
    "Sun raster": moved(".ras"),
    "one bit of 16": pixels((bar() > 0).astype(np.uint16)),
    "dim": pixels(bar() // 255),
    "black strokes": pixels(transparent(0)),
    "white strokes": pixels(transparent(255)),
    "wholly transparent": pixels(np.dstack([bar()] * 3 + [np.zeros_like(bar())])),
    "red": pixels(np.dstack([np.zeros_like(bar()), np.zeros_like(bar()), bar()])),
    "inverted": pixels(255 - bar()),
    "JPEG": pixels(bar(), ".jpg"),
    "JPEG at its worst": pixels(bar(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 1),
    "dim JPEG": pixels(bar() // 3, ".jpg"),
    "lossy WebP": pixels(bar(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 20),
    "AVIF": pixels(bar(), ".avif"),
    "no numbers": floats,
    "two pages": paged,
    "another size": pixels(bar()[:-1]),
    "in two parts": split_in_two,
    "numbered": renamed(lambda name: name.replace(".", "_1.")),
    "other word": renamed(lambda name: name.replace("_mask", "_maske")),
    "misspelt": renamed(lambda name: name.replace("_mask", "_maks")),
    "NumPy": lambda path: (path.unlink(), np.save(path.with_suffix(".npy"), bar()))[0],
}
DRAWN: dict[str, Callable[[dict], object]] = {
    "no shapes": lambda found: found.pop("shapes"),
    "other key": lambda found: found | {"objects": found.pop("shapes")} and None,
    "only a line": lambda found: found["shapes"][0].update(shape_type="line"),
    "only a point": lambda found: found["shapes"][0].update(shape_type="point", points=[[3, 3]]),
    "unknown shape": lambda found: found["shapes"][0].update(shape_type="blob"),
    "rotation": lambda found: found["shapes"][0].update(shape_type="rotation"),
    "no points": lambda found: found["shapes"][0].update(points=[]),
    "points as text": lambda found: found["shapes"][0].update(points=[[str(x), str(y)] for x, y in BOX4]),
    "outside": lambda found: found["shapes"][0].update(points=[[x + 99, y] for x, y in BOX4]),
    "other label": lambda found: found["shapes"][0].update(label="Crack "),
    "no label": lambda found: found["shapes"][0].update(label=None),
    "label for the ground": lambda found: found["shapes"][0].update(label="_background_"),
    "another size": lambda found: found.update(imageHeight=SIDE + 1),
    "another image": lambda found: found.update(imagePath="C:\\elsewhere\\other.png"),
    "a flag alone": lambda found: found.update(shapes=[], flags={"crack": True}),
}


def edited(change: Callable[[dict], object]) -> Damage:
    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return damage


LABELS = {how: ANY | MASKS for how in ("beside", "parallel", "mvtec", "jpeg")} | {
    "labelme": ANY | {f"annotation: {name}": edited(change) for name, change in DRAWN.items()}
}
EVERY = [(how, name) for how, damages in LABELS.items() for name in damages]


def silent(data: FieldSet, heard: Heard) -> list[str]:
    """Defective images that are counted as good, or not at all, while nothing that is said names them."""
    if heard.refused:
        return (
            []
            if any(stem.lower() in unicodedata.normalize("NFC", heard.text).lower() for stem in data.stems)
            else ["?"]
        )
    counted = {Path(name).stem.lower(): count for name, count in heard.pixels.items()}
    text = unicodedata.normalize("NFC", heard.text).lower()
    return [s for s in data.stems[:DEFECTIVE] if not counted.get(s.lower(), 0) and s.lower() not in text]


def test_enough_kinds_of_damage() -> None:
    assert len(ANY) + len(MASKS) + len(DRAWN) >= 60


@pytest.mark.parametrize(("how", "name"), EVERY, ids=[f"{how}: {name}" for how, name in EVERY])
def test_a_damaged_label(tmp_path: Path, cache: Path, how: str, name: str) -> None:
    data = FieldSet(tmp_path / "d", how).write()
    LABELS[how][name](data.label(0))
    heard = listen(data.root, cache)
    assert not silent(data, heard), heard.text
    assert heard.refused or all(data.stems[i] in {Path(n).stem for n in heard.pixels} for i in range(1, IMAGES))


@pytest.mark.parametrize("how", LABELS)
@pytest.mark.parametrize("name", ANY)
def test_a_damaged_image(tmp_path: Path, cache: Path, how: str, name: str) -> None:
    data = FieldSet(tmp_path / "d", how).write()
    ANY[name](data.image(0))
    heard = listen(data.root, cache)
    assert not silent(data, heard), heard.text


PUBLISHED = {
    "kolektor": (
        lambda root: write_kolektor(root, PUBLISHED_ITEMS[:4]),
        kolektor.read,
        "kos01/Part0_label.bmp",
        "Part0",
    ),
    "kolektor2": (write_kolektor2, kolektor2.read, "train/10000_GT.png", "10000"),
    "dagm": (write_dagm, dagm.read, "Class1/Train/Label/0001_label.PNG", "0001"),
}


@pytest.mark.parametrize("name", [name for name in ANY if name != "half-written"])
@pytest.mark.parametrize("which", PUBLISHED)
def test_a_damaged_label_of_a_published_set(tmp_path: Path, cache: Path, which: str, name: str) -> None:
    write, reader, label, said = PUBLISHED[which]
    root = write(tmp_path / "d")
    ANY[name](root / label)
    heard = listen(root, cache, reader, "grouped")
    record = label.replace("_label.bmp", "").replace("_GT.png", "").removeprefix("Class1/").replace("/Label/", "/")
    defective = any(n in record and count > 0 for n, count in heard.pixels.items())
    assert said.lower() in heard.text.lower() or defective, heard.text


names = st.text(
    st.characters(codec="utf-8", categories=["L", "N"], include_characters=" _-.()ß"), min_size=1, max_size=6
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    how=st.sampled_from(sorted(LABELS)),
    words=st.lists(names, min_size=IMAGES, max_size=IMAGES),
    order=st.permutations(range(IMAGES)),
    hurt=st.lists(
        st.tuples(st.integers(0, DEFECTIVE - 1), st.integers(0, 999)), max_size=3, unique_by=lambda one: one[0]
    ),
)
def test_any_names_order_and_damage(
    tmp_path: Path, cache: Path, how: str, words: list[str], order: list[int], hurt: list
) -> None:
    """The number before each name tells them apart, whatever the system does to letters."""
    stems = [f"q{i}x{unicodedata.normalize('NFC', word).strip().strip('.')}z" for i, word in enumerate(words)]
    shutil.rmtree(tmp_path / "d", ignore_errors=True)
    data = FieldSet(tmp_path / "d", how, stems).write(order)
    damages = sorted(LABELS[how])
    for image, number in hurt:
        LABELS[how][damages[number % len(damages)]](data.label(image))
    marks = FieldSet(data.root, how, [stem.split("x")[0] + "x" for stem in stems])
    heard = listen(data.root, cache)
    short = Heard(heard.text, heard.refused, heard.problems, {_mark(name): n for name, n in heard.pixels.items()})
    assert not silent(marks, short), heard.text
    assert hurt or (len(heard.pixels), heard.defective, heard.problems) == (IMAGES, DEFECTIVE, 0), heard.text


def _mark(name: str) -> str:
    return Path(name).name.split("x")[0] + "x"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_letters_beyond_ascii_in_labels(tmp_path: Path, cache: Path, encoding: str) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    text = json.dumps(labelme([shape(label="Riß")], "part00.png"), ensure_ascii=False)
    data.label(0).write_bytes(text.encode(encoding))
    heard = listen(data.root, cache, folder.read, categories=["crack", "Riß"])
    assert heard.defective == 4 or heard.complains("part00.json")
