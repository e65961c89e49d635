"""CIFAR-10 from files that tensorflow-datasets has prepared, read without TensorFlow.

tensorflow-datasets stores the images shuffled. Each record's id ("train_00042") carries its place in the
official order, because its builder counts through the official files; the images are put back there.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from triptych.cifar10.dataset import CLASS_NAMES, DataError, Dataset
from triptych.cifar10.official import CHANNELS, CLASSES, SIDE, Official


def read(data_dir: Path | None, official: Official) -> Dataset:
    """CIFAR-10 prepared under `data_dir` (None: the package's own, ~/tensorflow_datasets), official order.

    Reads the formats with random access (array_record, parquet). Raises DataError when the package is
    missing, the data is not prepared or is in another format, or a record is wrong.
    """
    tfds = _import()
    sources = _open(tfds, data_dir)
    train = _arrays(sources[0], "train", official.train_rows)
    test = _arrays(sources[1], "test", official.rows)
    return Dataset.of((*train, *test), "tfds")


def _import() -> ModuleType:
    try:
        return importlib.import_module("tensorflow_datasets")
    except (ImportError, AttributeError) as problem:
        reason = " ".join(str(problem).split())
        raise DataError(
            f"dataset tfds: the package tensorflow-datasets cannot be imported ({reason}); run "
            "`python -m pip install tensorflow-datasets array_record importlib_resources`, or take "
            "--dataset cifar10"
        ) from None


def _how_to_prepare(data_dir: Path | None) -> str:
    where = f"data_dir='{data_dir}', " if data_dir else ""
    return (
        "preparing needs TensorFlow, once (reading does not): `python -m pip install tensorflow "
        'tensorflow-datasets array_record`, then `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('cifar10', {where}file_format='array_record').download_and_prepare()\"`; "
        "or take --dataset cifar10"
    )


def _open(tfds: ModuleType, data_dir: Path | None) -> list[Sequence[Any]]:
    """The record sequences of train and test."""
    place = str(data_dir) if data_dir else "~/tensorflow_datasets"
    prepare = _how_to_prepare(data_dir)
    try:
        builder = tfds.builder("cifar10", data_dir=data_dir)
        if not Path(builder.data_dir, "dataset_info.json").is_file():
            raise DataError(f"dataset tfds: no prepared CIFAR-10 under {place}; {prepare}")
        names = list(builder.info.features["label"].names)
        if names != list(CLASS_NAMES):
            raise DataError(
                f"dataset tfds: {builder.data_dir}: expected the classes {list(CLASS_NAMES)}, got {names}"
            )
        return [builder.as_data_source(split=split) for split in ("train", "test")]
    except DataError:
        raise
    except NotImplementedError:
        raise DataError(
            f"dataset tfds: CIFAR-10 under {place} is prepared in a format that cannot be read without "
            f"TensorFlow; expected array_record; {prepare}"
        ) from None
    except ImportError as problem:
        raise DataError(
            f"dataset tfds: reading needs one more package ({' '.join(str(problem).split())}); run "
            "`python -m pip install array_record importlib_resources pillow`"
        ) from None
    except Exception as problem:  # broken metadata comes up as any of tfds's, protobuf's or etils's errors
        reason = " ".join(str(problem).split())[:300]
        raise DataError(
            f"dataset tfds: the data under {place} cannot be opened: {reason}; delete its folder cifar10 "
            f"and prepare it again; {prepare}"
        ) from None


def _arrays(source: Sequence[Any], split: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (rows, 3, 32, 32) and labels uint8 (rows,) in the official order."""
    where = f"dataset tfds, split {split}"
    images = np.empty((rows, SIDE, SIDE, CHANNELS), np.uint8)
    labels = np.empty(rows, np.uint8)
    filled = np.zeros(rows, bool)
    try:
        if len(source) != rows:
            raise DataError(f"{where}: expected {rows} records, got {len(source)}; prepare the data again")
        for record in tqdm(range(rows), desc=f"tfds {split}", unit="image", disable=None):
            example = source[record]
            place = _place(example, split, rows, f"{where}, record {record}")
            if filled[place]:
                raise DataError(f"{where}, record {record}: expected each id once, got place {place} twice")
            images[place], labels[place], filled[place] = example["image"], example["label"], True
    except DataError:
        raise
    except ImportError as problem:
        raise DataError(
            f"{where}: decoding needs one more package: {' '.join(str(problem).split())}"
        ) from None
    except Exception as problem:  # so do broken records: array_record's, protobuf's, the PNG decoder's
        reason = " ".join(str(problem).split())[:300]
        raise DataError(
            f"{where}: damaged files: {reason}; delete the folder and prepare the data again"
        ) from None
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _place(example: Any, split: str, rows: int, where: str) -> int:
    """The place in the official order, after checking the record."""
    name = example["id"]
    name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    match = re.fullmatch(rf"{split}_(\d{{1,9}})", name)
    if not match or int(match[1]) >= rows:
        raise DataError(
            f"{where}: expected an id from {split}_{0:05d} to {split}_{rows - 1:05d}, got '{name[:40]}'"
        )
    image, label = np.asarray(example["image"]), int(example["label"])
    if image.shape != (SIDE, SIDE, CHANNELS) or image.dtype != np.uint8:
        raise DataError(f"{where}: expected an image uint8 (32, 32, 3), got {image.dtype} {image.shape}")
    if not 0 <= label < CLASSES:
        raise DataError(f"{where}: expected a label from 0 to {CLASSES - 1}, got {label}")
    return int(match[1])
