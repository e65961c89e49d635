"""`python -m parity`: how far apart runs are, and how far rounding alone can drive them."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

import cifar10
from cifar10.preprocess import prepare
from experiment.catalogue import find
from experiment.errors import UserError
from experiment.spec import BackendName
from parity import perturbation, trajectory


def runs(folders: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Hold finished runs of one experiment beside each other; the first is the reference.

    Args:
        folders: Run folders, two or more.
    """
    if len(folders) < 2:
        raise UserError(f"runs: expected two run folders or more, got {len(folders)}")
    print(trajectory.table([trajectory.read(path) for path in folders]))


def perturb(
    experiment: str = "fig1",
    relative: tuple[float, ...] = (1e-12, 1e-9, 1e-7),
    backend: BackendName = "jax",
    dataset: str = "auto",
    data_dir: Path | None = None,
    flips: bool = False,
) -> None:
    """Show how a tiny change of the initial parameters grows over a run in float64, beside float32.

    Args:
        experiment: A run of the study.
        relative: Sizes of the change, relative to each parameter.
        backend: Which backend trains.
        dataset: As for train.py.
        data_dir: As for train.py.
        flips: Also find the first step in which a LeakyReLU input has another sign (slower).
    """
    spec = find(experiment).experiment
    data = prepare(cifar10.load(dataset, data_dir), spec.data.preprocess, spec.data.validation)
    print(perturbation.table(spec, data, backend, relative))
    for size in relative if flips else ():
        flip = perturbation.first_flip(spec, data, backend, size)
        if flip is None:
            print(f"{size:.0e}: no LeakyReLU input ever changes sign")
        else:
            print(
                f"{size:.0e}: in step {flip.step} {flip.count} of {flip.inputs} LeakyReLU inputs "
                f"changes sign, {flip.distance:.1e} from 0; parameters are {flip.before:.1e} apart "
                f"before that step, {flip.after:.1e} after"
            )


def main(argv: list[str]) -> int:
    """The command; returns its exit code: 0, or 2 for a user's mistake."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"runs": runs, "perturb": perturb}, args=argv, prog="python -m parity", description=__doc__
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
