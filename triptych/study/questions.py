"""What the report left open, answered from the finished runs: every number and every claim is computed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from triptych.study.comparison import LAST_STEPS, accuracy
from triptych.study.evidence import BACKENDS, Answer, Contrast, Evidence, Missing, contrast, curve, final
from triptych.study.faster_loss import faster_loss
from triptych.study.large_rate import large_rate
from triptych.study.plan import PLAN
from triptych.study.results import Result


@dataclass(frozen=True)
class Contrasts:
    """Runs against those of one name, paired by seed."""

    base: str
    backend: str
    all: list[Contrast]

    @property
    def helped(self) -> list[Contrast]:
        return [item for item in self.all if item.direction > 0]

    @property
    def harmed(self) -> list[Contrast]:
        return [item for item in self.all if item.direction < 0]


def answers(results: Iterable[Result]) -> dict[str, Answer | Missing]:
    """An answer to each question, in the order of `QUESTIONS`, from the runs that are there."""
    found = Evidence(results)
    return {key: answer(found) for key, answer in QUESTIONS.items()}


# --- variants of one run, paired by seed ---------------------------------------------------------


def against(
    base: str, labels: Mapping[str, str], among: tuple[str, ...] = BACKENDS
) -> Callable[[Evidence], Answer | Missing]:
    """The question whether runs (name to label) end with another test accuracy than the base's."""

    def answer(found: Evidence) -> Answer | Missing:
        needed = [name for name in labels if PLAN[name].seeds > 1]
        backend = found.backend([base, *needed], among)
        runs, theirs = {name: found.runs(name, backend) for name in labels}, found.runs(base, backend)
        contrasts = [contrast(label, runs[name], theirs) for name, label in labels.items()]
        if any(len(set(runs[name]) & set(theirs)) < 2 for name in needed):
            return Missing((base, *labels))
        seeds = found.common([base, *needed], backend)
        plot = [curve(PLAN[base].title, [theirs[seed] for seed in seeds])]
        plot += [curve(label, runs[name].values()) for name, label in labels.items() if runs[name]]
        return Answer(Contrasts(base, backend, [item for item in contrasts if item is not None]), plot)

    return answer


# --- early stopping: what it hands over, and how soon --------------------------------------------


def _early_stopping(found: Evidence) -> Answer | Missing:
    backend = found.backend(["fig3", "early-stopping"])
    stopped, whole = found.runs("early-stopping", backend), found.runs("fig3", backend)
    pairs = contrast("best validation accuracy", stopped, whole, _chosen, final)
    last = contrast("where it stopped", stopped, whole)
    if pairs is None or last is None or pairs.difference is None:
        return Missing(("fig3", "early-stopping"))
    values = {
        "backend": backend,
        "all": [pairs, last],
        "verdict": Contrasts("fig3", backend, [pairs]),
        "steps": [run.steps for run in stopped.values()],
        "asked": PLAN["early-stopping"].experiment.training.steps,
    }
    plot = [curve("figure 3", whole.values()), curve("with early stopping", stopped.values())]
    return Answer(values, plot)


def _chosen(result: Result) -> float:
    """Test accuracy where the validation accuracy is best: the model that early stopping hands over."""
    value: float = max(result.evaluations, key=lambda record: record["validation_accuracy"])["test_accuracy"]
    return value


# --- jagged curves -------------------------------------------------------------------------------


def jaggedness(result: Result) -> float:
    """Standard deviation (ddof 1) of the differences between successive evaluations' test accuracies, over
    the last 500 steps.
    """
    start = result.steps - LAST_STEPS
    late = [record["test_accuracy"] for record in result.evaluations if record["step"] > start]
    return statistics.stdev(b - a for a, b in pairwise(late))


def _jagged(found: Evidence) -> Answer | Missing:
    labels = {"decay-step": "halved every 500 steps", "decay-cosine": "cosine to 0"}
    names = ["fig1-dense", *labels]
    backend = found.backend(names)
    seeds = found.common(names, backend)
    if len(seeds) < 2:
        return Missing(tuple(names))
    runs = {name: found.runs(name, backend) for name in names}
    jumps = [contrast(label, runs[name], runs["fig1-dense"], jaggedness) for name, label in labels.items()]
    ends = [contrast(label, runs[name], runs["fig1-dense"]) for name, label in labels.items()]
    plot = [curve("constant rate", [runs["fig1-dense"][seeds[0]]])]
    plot += [curve(label, [runs[name][seeds[0]]]) for name, label in labels.items()]
    values = {
        "backend": backend,
        "jumps": jumps,
        "ends": ends,
        "calmer": [item for item in jumps if item is not None and item.direction < 0],
        "every": PLAN["fig1-dense"].experiment.training.eval_every,
    }
    return Answer(values, plot, y_label=f"test accuracy, seed {seeds[0]}")


# --- running or batch statistics -----------------------------------------------------------------


def _statistics(found: Evidence) -> Answer | Missing:
    names = ("fig4", "fig5", "fig7", "fig8")
    contrasts = []
    for name in names:
        runs = found.runs(name, found.backend([name]))
        item = contrast(
            name, runs, runs, lambda run: accuracy(run, "batch"), lambda run: accuracy(run, "running")
        )
        if item is not None and item.difference is not None:
            contrasts.append(item)
    moved = [item for item in contrasts if item.direction]
    largest = max(moved, key=lambda item: abs(item.mean), default=None)
    return Answer({"all": contrasts, "largest": largest}) if contrasts else Missing(names)


QUESTIONS: dict[str, Callable[[Evidence], Answer | Missing]] = {
    "faster-loss": faster_loss,
    "jagged": _jagged,
    "early-stopping": _early_stopping,
    "dropout": against("fig3", {"dropout-0.2": "dropout 0.2", "dropout-0.5": "dropout 0.5"}),
    "low-rates": against(
        "fig3", {"lr3e-5": "rate 3e-5", "lr1e-5": "rate 1e-5", "lr3e-5-long": "rate 3e-5, 12,000 steps"}
    ),
    "large-rate": large_rate,
    "statistics": _statistics,
    # NumPy has no autodiff: its figure 4 is computed by the same code as its figure 5.
    "hand-derived": against("fig4", {"fig5": "backward by hand"}, among=("jax", "torch")),
    "head-norm": against("fig7", {"fig8": "with that batch norm"}),
}
"""By the key that `Planned.question` holds; the page's template has their words."""
