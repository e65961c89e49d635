"""Optional TensorBoard event files, through tensorboardX (it needs neither TensorFlow nor torch)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.store.records import Record


class BoardWriter:
    """Writes metrics records as scalars; with no folder it does nothing."""

    def __init__(self, folder: Path | None, past: Iterable[Record]) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise UserError(
                "tensorboard: the package tensorboardX is not installed; pip install tensorboardX, "
                "or leave out --tensorboard"
            ) from None
        # Event files are only ever added to: the viewer drops what a resumed run writes again.
        step = max((record["step"] for record in past), default=0)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, records: Iterable[Record]) -> None:
        if self._writer is None:
            return
        for record in records:
            for name, value in record.items():
                if isinstance(value, float) and name not in ("time", "train_seconds"):
                    tag = name if "_" in name and record["kind"] == "eval" else f"batch/{name}"
                    self._writer.add_scalar(tag, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
