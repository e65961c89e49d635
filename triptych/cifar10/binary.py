"""Reads the official binary batch files: rows of 3073 bytes, the label first, then 3072 pixels."""

from __future__ import annotations

import numpy as np

from triptych.cifar10.dataset import DataError
from triptych.cifar10.official import CHANNELS, CLASSES, PIXELS, SIDE

ROW = 1 + PIXELS
NEXT_STEP = "restore this file from the official archive (cifar-10-binary.tar.gz), or delete the folder"


def parse(data: bytes, name: str, rows: int) -> tuple[np.ndarray, np.ndarray, bytes | None]:
    """Images uint8 (rows, 3, 32, 32), labels uint8 (rows,) and None (a binary file has no title).

    data: the whole file; name: how to call it in messages. Raises DataError when the size is not
    rows x 3073 bytes or a label is above 9, with the byte offset.
    """
    if len(data) != rows * ROW:
        whole, rest = divmod(len(data), ROW)
        raise DataError(
            f"{name}: expected {rows * ROW} bytes ({rows} rows of {ROW}), got {len(data)}: {whole} whole "
            f"rows and {rest} bytes, wrong from byte offset {min(whole, rows) * ROW} on; {NEXT_STEP}"
        )
    table = np.frombuffer(data, np.uint8).reshape(rows, ROW)
    wrong = np.flatnonzero(table[:, 0] >= CLASSES)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{name}: expected a label from 0 to {CLASSES - 1} at byte offset {row * ROW} (row {row}), "
            f"got {table[row, 0]}; {NEXT_STEP}"
        )
    return table[:, 1:].reshape(rows, CHANNELS, SIDE, SIDE), table[:, 0], None
