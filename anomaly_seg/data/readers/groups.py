"""Which images show the same part: from a pattern in their paths, or from a table."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from anomaly_seg.data.files import Names, content, some, trimmed
from anomaly_seg.data.image_io import FileSource, Source
from anomaly_seg.errors import InputError


def assign_groups(images: Iterable[str], groups: str | None, files: Mapping[str, Source]) -> dict[str, str] | None:
    """Group of every image, or None where each stands for itself.

    Args:
        images: paths below the data set's root.
        groups: None, a regular expression with one group that is searched for in the path (such as "(part[0-9]+)_"), or
            a CSV file with the columns `image` and `group`, on disk or in the data set.
        files: of the data set.

    Raises:
        InputError: no such table, or one without its columns, with images that are not there, or in two groups; no
            regular expression, or one with another number of groups; an image that has no group.
    """
    if groups is None:
        return None
    paths = sorted(images)
    found = _table(groups, paths, files) if groups.lower().endswith(".csv") else _pattern(groups, paths)
    if lacking := [path for path in paths if not found.get(path)]:
        raise InputError(f"data.groups={groups}: no group for {some(lacking)} ({len(lacking)} in all); complete it")
    return found


def _pattern(groups: str, paths: list[str]) -> dict[str, str]:
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise InputError(
            f"data.groups={groups}: not a regular expression ({error}); nor does it end in .csv"
        ) from error
    if pattern.groups != 1:
        raise InputError(
            f"data.groups={groups}: has {pattern.groups} groups in parentheses; use one, around what names the part"
        )
    return {path: trimmed(match[1] or "") for path in paths if (match := pattern.search(path))}


def _table(groups: str, paths: list[str], files: Mapping[str, Source]) -> dict[str, str]:
    place = Path(groups).expanduser()
    source = FileSource(place) if place.is_file() else files.get(groups)
    if source is None:
        raise InputError(f"data.groups={groups}: no such file, neither here nor in data.root")
    try:
        text = content(source).decode("utf-8-sig")
        head = text.partition("\n")[0]
        table = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in head and "," not in head else ",")
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        rows = [{name: trimmed(row.get(name) or "") for name in table.fieldnames} for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source.name}: not a CSV file in UTF-8 ({error}); save it as one") from error
    if not rows or not {"image", "group"} <= rows[0].keys():
        raise InputError(f"{source.name}: needs the columns image and group, and one row an image")
    names, found, unknown = Names(paths), dict[str, str](), []
    for row in rows:
        image = names.find(row["image"], source.name)
        if image is None:
            unknown.append(row["image"] or "(empty)")
        elif found.setdefault(image, row["group"]) != row["group"]:
            raise InputError(f"{source.name}: {image} has two groups, {found[image]} and {row['group']}; keep one")
    if unknown:
        raise InputError(
            f"{source.name}: {some(unknown)} not among the images ({len(unknown)} in all); remove the rows, or write "
            "the paths below data.root"
        )
    return found
