"""What the report left open, answered from the finished runs: every number and every claim is computed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from triptych.study.answers import Answer
from triptych.study.comparison import LAST_STEPS, accuracy
from triptych.study.evidence import (
    COLUMNS,
    Contrast,
    Evidence,
    contrast,
    curve,
    final,
    missing,
    row,
    sentence,
)
from triptych.study.faster_loss import faster_loss
from triptych.study.large_rate import large_rate
from triptych.study.plan import PLAN
from triptych.study.results import Result

QUESTIONS = {
    "faster-loss": "Why did the loss drop significantly faster in the framework than by hand?",
    "jagged": "Are the curves of figure 1 jagged because of the learning rate, and does a decay smooth them?",
    "early-stopping": "Would early stopping have helped figure 3?",
    "dropout": "Would dropout have helped figure 3?",
    "low-rates": "Would learning rates below 1e-4 have helped figure 3?",
    "large-rate": "Where do table 1's 0.52 of size 7 at rate 1e-2 come from?",
    "statistics": "What does it change that the report's batch norm used batch statistics in evaluation?",
    "hand-derived": "Does the hand-derived backward of batch norm train as well as autodiff's?",
    "head-norm": "Does batch norm before the last linear layer change the CNN (figure 8 against 7)?",
}
"""By the key that `Planned.question` holds."""


def answers(results: Iterable[Result]) -> list[Answer]:
    """An answer to each question, in the order above, from the runs that are there."""
    found = Evidence(results)
    return [_ANSWERS[key](question, found) for key, question in QUESTIONS.items()]


# --- variants of one run, paired by seed ---------------------------------------------------------


def _against(
    question: str,
    found: Evidence,
    base: str,
    labels: Mapping[str, str],
    conclude: Callable[[list[Contrast]], str],
    among: tuple[str, ...] = ("jax", "torch", "numpy"),
) -> Answer:
    """Runs (name to label) held against the base's by final test accuracy."""
    needed = [name for name in labels if PLAN[name].seeds > 1]
    backend = found.backend([base, *needed], among)
    runs, against = {name: found.runs(name, backend) for name in labels}, found.runs(base, backend)
    measured = {name: contrast(label, runs[name], against) for name, label in labels.items()}
    contrasts = [item for item in measured.values() if item is not None]
    if any(measured[name] is None or len(set(runs[name]) & set(against)) < 2 for name in needed):
        return missing(question, [base, *labels])
    seeds = found.common([base, *needed], backend)
    plot = [curve(PLAN[base].title, [against[seed] for seed in seeds])]
    plot += [curve(label, runs[name].values()) for name, label in labels.items() if runs[name]]
    text = f"{conclude(contrasts)} Test accuracy against {base} ({backend}): {_listed(contrasts)}."
    return Answer(
        question, text, None, COLUMNS, [row(item) for item in contrasts], plot, "step", "test accuracy"
    )


def _listed(contrasts: Iterable[Contrast]) -> str:
    return "; ".join(map(sentence, contrasts))


def _verdict(contrasts: list[Contrast]) -> str:
    """Yes or no to "would it have helped?"."""
    helped = [item.label for item in contrasts if item.direction > 0]
    harmed = [item.label for item in contrasts if item.direction < 0]
    if helped:
        return f"Yes: {' and '.join(helped)}." + (f" But not {' and '.join(harmed)}." if harmed else "")
    if harmed:
        rest = "" if len(harmed) == len(contrasts) else ", and nothing here gains"
        return f"No: accuracy falls with {' and '.join(harmed)}{rest}."
    return "No gain that stands out of the noise of seeds."


def _dropout(question: str, found: Evidence) -> Answer:
    labels = {"dropout-0.2": "dropout 0.2", "dropout-0.5": "dropout 0.5"}
    return _against(question, found, "fig3", labels, _verdict)


def _low_rates(question: str, found: Evidence) -> Answer:
    labels = {"lr3e-5": "rate 3e-5", "lr1e-5": "rate 1e-5", "lr3e-5-long": "rate 3e-5, 12,000 steps"}
    return _against(question, found, "fig3", labels, _verdict)


def _hand_derived(question: str, found: Evidence) -> Answer:
    def conclude(contrasts: list[Contrast]) -> str:
        words = {1: "It ends higher than autodiff's.", -1: "It ends lower than autodiff's.", 0: "Yes."}
        return words[contrasts[0].direction]

    # NumPy has no autodiff: its figure 4 is computed by the same code as its figure 5.
    labels = {"fig5": "backward by hand"}
    return _against(question, found, "fig4", labels, conclude, among=("jax", "torch"))


def _head_norm(question: str, found: Evidence) -> Answer:
    def conclude(contrasts: list[Contrast]) -> str:
        words = {1: "Yes, for the better.", -1: "Yes, for the worse.", 0: "Not that these runs show."}
        return words[contrasts[0].direction]

    return _against(question, found, "fig7", {"fig8": "with that batch norm"}, conclude)


# --- early stopping: what it hands over, and how soon --------------------------------------------


def _early_stopping(question: str, found: Evidence) -> Answer:
    backend = found.backend(["fig3", "early-stopping"])
    stopped, whole = found.runs("early-stopping", backend), found.runs("fig3", backend)
    pairs = contrast("best validation accuracy", stopped, whole, _chosen, final)
    last = contrast("where it stopped", stopped, whole)
    if pairs is None or last is None or pairs.difference is None:
        return missing(question, ["fig3", "early-stopping"])
    steps = [run.summary["steps"] for run in stopped.values()]
    asked = PLAN["early-stopping"].experiment.training.steps
    text = (
        f"{_verdict([pairs])} Its runs ended after {statistics.fmean(steps):.0f} of {asked} steps on average "
        f"({min(steps)} to {max(steps)}). Test accuracy against the last step of fig3 ({backend}), whose "
        f"runs also train on the images held out here: {_listed([pairs, last])}."
    )
    plot = [curve("figure 3", whole.values()), curve("with early stopping", stopped.values())]
    return Answer(question, text, None, COLUMNS, [row(pairs), row(last)], plot, "step", "test accuracy")


def _chosen(result: Result) -> float:
    """Test accuracy where the validation accuracy is best: the model that early stopping hands over."""
    evaluations = [record for record in result.records if record["kind"] == "eval"]
    value: float = max(evaluations, key=lambda record: record["validation_accuracy"])["test_accuracy"]
    return value


# --- jagged curves -------------------------------------------------------------------------------


def jaggedness(result: Result) -> float:
    """Standard deviation (ddof 1) of the differences between successive evaluations' test accuracies, over
    the last 500 steps.
    """
    late = [
        record["test_accuracy"]
        for record in result.records
        if record["kind"] == "eval" and record["step"] > result.summary["steps"] - LAST_STEPS
    ]
    return statistics.stdev(b - a for a, b in pairwise(late))


def _jagged(question: str, found: Evidence) -> Answer:
    labels = {"decay-step": "halved every 500 steps", "decay-cosine": "cosine to 0"}
    names = ["fig1-dense", *labels]
    backend = found.backend(names)
    if len(found.common(names, backend)) < 2:
        return missing(question, names)
    runs = {name: found.runs(name, backend) for name in names}
    jumps = [contrast(label, runs[name], runs["fig1-dense"], jaggedness) for name, label in labels.items()]
    ends = [contrast(label, runs[name], runs["fig1-dense"]) for name, label in labels.items()]
    smoother = [item for item in jumps if item is not None]
    accuracies = [item for item in ends if item is not None]
    calmer = [item.label for item in smoother if item.direction < 0]
    if calmer:
        lead = f"Yes: the smaller rate at the end smooths them ({' and '.join(calmer)})."
    else:
        lead = "No decay tried here smooths them beyond the noise of seeds."
    every = PLAN["fig1-dense"].experiment.training.eval_every
    text = (
        f"{lead} Standard deviation of the step from one evaluation to the next ({every} steps later, over "
        f"the last {LAST_STEPS}; {backend}; {smoother[0].base.mean:.4f} at the constant rate): "
        f"{_listed(smoother)}. Final test accuracy: {_listed(accuracies)}."
    )
    rows = [("jaggedness", *row(item)[:-1]) for item in smoother]
    rows += [("test accuracy", *row(item)[:-1]) for item in accuracies]
    seed = found.common(names, backend)[0]
    plot = [curve("constant rate", [runs["fig1-dense"][seed]])]
    plot += [curve(label, [runs[name][seed]]) for name, label in labels.items()]
    columns = ("measure", COLUMNS[0], COLUMNS[1], "value", *COLUMNS[3:-1])
    return Answer(question, text, None, columns, rows, plot, "step", f"test accuracy, seed {seed}")


# --- running or batch statistics -----------------------------------------------------------------


def _statistics(question: str, found: Evidence) -> Answer:
    names = ("fig4", "fig5", "fig7", "fig8")
    contrasts = []
    for name in names:
        runs = found.runs(name, found.backend([name]))
        item = contrast(
            name, runs, runs, lambda run: accuracy(run, "batch"), lambda run: accuracy(run, "running")
        )
        if item is not None and item.difference is not None:
            contrasts.append(item)
    if not contrasts:
        return missing(question, names)
    moved = [item for item in contrasts if item.direction]
    lead = "No difference beyond noise."
    if moved:
        largest = max(moved, key=lambda item: abs(item.mean))
        lead = f"Beyond noise at most {abs(largest.mean):.4f} ({largest.label}, where batch statistics give "
        lead += "more)." if largest.direction > 0 else "less)."
    text = f"{lead} The same weights by batch statistics against running ones: {_listed(contrasts)}."
    columns = (*COLUMNS[:2], "by batch statistics", "by running statistics", *COLUMNS[4:-1])
    return Answer(question, text, None, columns, [row(item)[:-1] for item in contrasts])


_ANSWERS: dict[str, Callable[[str, Evidence], Answer]] = {
    "faster-loss": faster_loss,
    "jagged": _jagged,
    "early-stopping": _early_stopping,
    "dropout": _dropout,
    "low-rates": _low_rates,
    "large-rate": large_rate,
    "statistics": _statistics,
    "hand-derived": _hand_derived,
    "head-norm": _head_norm,
}
