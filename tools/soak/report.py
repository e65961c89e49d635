"""A part's figures: printed, written as JSON with date, versions and machine, and judged."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "jax", "torch", "safetensors")
SHOWN = 10
"""Findings printed in full."""


@dataclass
class Report:
    """What one part of the soak counted, and each broken promise in a line."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def count(self, figure: str, by: int = 1) -> None:
        self.figures[figure] = self.figures.get(figure, 0) + by

    def found(self, what: str) -> None:
        self.findings.append(what)

    def write(self, folder: Path, seconds: float) -> None:
        """<folder>/<name>.json."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "part": self.name,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "seconds": round(seconds, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "figures": self.figures,
            "findings": self.findings,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=2) + "\n")

    def show(self) -> None:
        for name, value in self.figures.items():
            print(f"{self.name}: {name}: {value}")
        for line in self.findings[:SHOWN]:
            print(f"{self.name}: BROKEN PROMISE: {line}")
        print(f"{self.name}: {len(self.findings)} broken promises", flush=True)
