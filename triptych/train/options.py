"""Where and how to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.describe.plain import to_dict
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.errors import UserError


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run; none of these changes what is learned."""

    backend: BackendName = "jax"
    """numpy: gradients by hand. jax: compiled, CPU, GPU and TPU. torch: eager PyTorch."""
    experiment: str = "fig1"
    """A run of the study to start from; `list` shows them all with their reported accuracy."""
    data_dir: Path | None = None
    """Folder with CIFAR-10 (python or binary files, or the official archive), or the archive itself;
    downloads go there too. Default: $TRIPTYCH_DATA_DIR, else ./data."""
    run_dir: Path | None = None
    """The run's folder. Default: a folder in ./runs named after experiment, backend and settings."""
    resume: Path | None = None
    """Go on from the last checkpoint of this run folder, whatever backend wrote it, in a new folder
    and with its settings except those given here. (A run that was interrupted needs no --resume:
    repeat its command.)"""
    device: Device = "auto"
    """auto takes the accelerator where the backend finds one."""
    checkpoint_every: int = 0
    """Steps between checkpoints besides those at every evaluation; 0 for none."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, at least 1; the one with the best test accuracy is kept as well. More
    of them guard against a disk that spoils the newest: the run goes back to the last that is whole."""
    deterministic: bool = False
    """On a GPU take only algorithms that give the same bits each time, which are slower; a CPU always does.
    docs/reliability.md says what it covers."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder too."""
    overwrite: bool = False
    """Start anew in a folder that holds a run, and drop what it holds."""
    sweep: tuple[str, ...] = ()
    """Train every combination of these values, such as learning_rate=1e-2,1e-3 weight_decay=0,1e-4 seed=0,1
    (only these three settings), each in a folder of its own in the run's folder; jax trains them together, as
    one program."""
    dry_run: bool = False
    """Print model, parameters, FLOPs and memory, take two steps, write nothing."""

    def __post_init__(self) -> None:
        for name, low in (("checkpoint_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < low:
                option = "--" + name.replace("_", "-")
                raise UserError(
                    f"{name}: expected at least {low}, got {getattr(self, name)}; change {option}"
                )


def config_of(
    options: RunOptions, experiment: Experiment, origin: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What config.json says of a run before its data is known; `origin` as `other_start` has it."""
    return {
        "name": options.experiment,
        "backend": options.backend,
        "experiment": to_dict(experiment),
        "resumed_from": origin,
    }
