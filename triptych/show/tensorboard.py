"""Optional TensorBoard event files, through tensorboardX (it needs neither TensorFlow nor torch): scalars, on
the disk at every evaluation, and the settings for the HPARAMS page.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.store.records import Record

METRICS = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
"""Scalars that the HPARAMS page sets beside the settings."""


class BoardWriter:
    """Writes metrics records as scalars; with no folder it does nothing."""

    def __init__(self, folder: Path | None, past: Iterable[Record], settings: dict[str, Any]) -> None:
        self._events: Any = None
        if folder is None:
            return
        try:
            # Not SummaryWriter: its flush() leaves what its queue still holds; its add_hparams makes a run
            # of its own in a folder below this one.
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import Summary, hparams
        except ModuleNotFoundError:
            raise UserError(
                "tensorboard: the package tensorboardX is not installed; pip install tensorboardX, "
                "or leave out --tensorboard"
            ) from None
        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        # Event files are only ever added to: the viewer drops what a resumed run writes again.
        step = max((record["step"] for record in past), default=0)
        if step:
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        plain = {
            name: " ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in settings.items()
        }
        experiment, start, self._end = hparams(plain, dict.fromkeys(METRICS, 0.0))
        self._add(summary=experiment)
        self._add(summary=start)
        self._events.flush()

    def write(self, records: Iterable[Record]) -> None:
        if self._events is None:
            return
        for record in records:
            for name, value in record.items():
                if isinstance(value, float) and name not in ("time", "train_seconds"):
                    tag = name if "_" in name and record["kind"] == "eval" else f"batch/{name}"
                    scalar = self._summary.Value(tag=tag, simple_value=value)
                    self._add(step=record["step"], summary=self._summary(value=[scalar]))
        self._events.flush()

    def close(self, finished: bool) -> None:
        if self._events is not None:
            if finished:
                self._add(summary=self._end)
            self._events.close()

    def _add(self, **event: Any) -> None:
        self._events.write_event(self._event(wall_time=time.time(), **event))
