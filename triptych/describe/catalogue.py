"""The study's runs as data: what each trains, and what the report says came out.

Where the report leaves a setting open, the note says which value stands in for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from triptych.describe.network import Model
from triptych.describe.plain import to_dict
from triptych.describe.spec import Data, Experiment, Initialization, Optimization, Training
from triptych.errors import UserError

SIZE_7 = Model(hidden=(600, 500, 275))
SIZE_11 = Model(hidden=(600, 500, 388, 275, 163))
FRAMEWORK = Initialization(init="framework")
_BATCH_STATISTICS = "reported with the evaluated images' statistics; --norm-statistics batch does that"
_VGG = "the report shows a curve and no number: the assignment's expectation stands in"
_OPEN = "rate and steps are not in the report: Adam's default 1e-3 and 1,500 steps"


@dataclass(frozen=True)
class Entry:
    """One run of the study."""

    experiment: Experiment
    title: str
    reported: float
    """Test accuracy in the report."""
    note: str = ""
    by_assignment: bool = False
    """Whether the number is what the assignment expects, where the report gives none."""


def _adam(learning_rate: float, weight_decay: float = 0.0) -> Optimization:
    return Optimization(optimizer="adam", learning_rate=learning_rate, weight_decay=weight_decay)


FIG1 = Experiment()
FIG2 = replace(FIG1, initialization=FRAMEWORK)
ADAM = replace(FIG2, optimization=_adam(1e-3))
FIG3 = Experiment(
    model=SIZE_11,
    initialization=FRAMEWORK,
    optimization=_adam(1e-4, 5e-4),
    training=Training(steps=4000),
)

FIG4 = Experiment(
    model=replace(SIZE_11, batch_norm="autodiff"),
    initialization=FRAMEWORK,
    optimization=_adam(2e-3),
)
FIG5 = replace(FIG4, model=replace(SIZE_11, batch_norm="manual"))

VGG = Model(
    hidden=(),
    channels=("64", "M", "128", "M", "256", "256", "M", "512", "512", "M", "512", "512", "M"),
    slope=0.0,
    batch_norm="autodiff",
)
FIG7 = Experiment(
    model=VGG,
    initialization=FRAMEWORK,
    optimization=_adam(1e-4),
    data=Data(batch_size=32),
    training=Training(steps=5000, eval_every=500),
)
FIG8 = replace(FIG7, model=replace(VGG, head_norm=True))

# Table 1 of the report: (learning rate, weight decay) to accuracy of size 7 and of size 11.
TABLE_1 = {
    ("1e-2", "1e-4"): (0.5243, 0.47), ("1e-2", "5e-4"): (0.5162, 0.459),
    ("1e-2", "1e-5"): (0.5211, 0.3913), ("1e-2", "5e-5"): (0.5154, 0.3138),
    ("1.5e-3", "1e-4"): (0.5111, 0.5242), ("1.5e-3", "5e-4"): (0.5134, 0.5073),
    ("1.5e-3", "1e-5"): (0.5151, 0.5261), ("1.5e-3", "5e-5"): (0.5233, 0.5289),
    ("1.25e-3", "1e-4"): (0.5131, 0.5335), ("1.25e-3", "5e-4"): (0.5194, 0.524),
    ("1.25e-3", "1e-5"): (0.5133, 0.5399), ("1.25e-3", "5e-5"): (0.5172, 0.5372),
    ("1e-3", "1e-4"): (0.5188, 0.5389), ("1e-3", "5e-4"): (0.5232, 0.5231),
    ("1e-3", "1e-5"): (0.5234, 0.5382), ("1e-3", "5e-5"): (0.5187, 0.5354),
    ("1e-4", "1e-4"): (0.5197, 0.5434), ("1e-4", "5e-4"): (0.5181, 0.5448),
    ("1e-4", "1e-5"): (0.5135, 0.5404), ("1e-4", "5e-5"): (0.5107, 0.5416),
}  # fmt: skip


def _table_1() -> dict[str, Entry]:
    entries = {}
    for (rate, decay), reported in TABLE_1.items():
        for size, model, accuracy in zip((7, 11), (SIZE_7, SIZE_11), reported, strict=True):
            experiment = Experiment(
                model=model,
                initialization=FRAMEWORK,
                optimization=_adam(float(rate), float(decay)),
                training=Training(steps=2500),
            )
            title = f"table 1: size {size}, Adam {rate}, weight decay {decay}"
            entries[f"table1-size{size}-lr{rate}-wd{decay}"] = Entry(experiment, title, accuracy)
    return entries


CATALOGUE: dict[str, Entry] = {
    "fig1": Entry(FIG1, "figure 1: MLP 3072-100-10, SGD, by hand in NumPy", 0.46),
    "fig2": Entry(FIG2, "figure 2: the same network with the framework's initialization", 0.44),
    "adam": Entry(ADAM, "figure 2 with Adam in place of SGD, reported as +0.003", 0.443, _OPEN),
    "size7": Entry(replace(ADAM, model=SIZE_7), "hidden 600 500 275, Adam", 0.501, _OPEN),
    "size11": Entry(replace(ADAM, model=SIZE_11), "hidden 600 500 388 275 163, Adam", 0.508, _OPEN),
    "size11-decay": Entry(
        replace(ADAM, model=SIZE_11, optimization=_adam(1e-3, 1e-6)),
        "the same with weight decay 1e-6",
        0.5113,
        _OPEN,
    ),
    "fig3": Entry(FIG3, "figure 3: size 11, Adam, 16 epochs", 0.55),
    "fig4": Entry(FIG4, "figure 4: size 11 with batch norm by autodiff", 0.55, _BATCH_STATISTICS),
    "fig5": Entry(FIG5, "figure 5: size 11 with batch norm's backward by hand", 0.544, _BATCH_STATISTICS),
    "fig7": Entry(FIG7, "figure 7: VGG-like CNN, Adam, batch 32", 0.75, _VGG, True),
    "fig8": Entry(
        FIG8, "figure 8: the CNN with batch norm and ReLU before the last Linear", 0.75, _VGG, True
    ),
    **_table_1(),
}


def find(name: str) -> Entry:
    """The entry of that name; raises UserError that lists the names."""
    if name not in CATALOGUE:
        names = [known for known in CATALOGUE if not known.startswith("table1-")]
        raise UserError(
            f"experiment: no {name!r} in the catalogue; expected one of {', '.join(names)}, or a "
            "table1-... name; `python train.py list` shows all"
        )
    return CATALOGUE[name]


_FREE = ("seed", "dtype", "tf32", "dataset", "eval_every", "norm_statistics")


def changes(name: str, experiment: Experiment) -> list[str]:
    """Names of the settings in which `experiment` departs from the entry, and so from the report.

    Seed, precision, data source, and how and how often to evaluate do not count: the report's number is
    meant for all of them.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        return []
    there, here = to_dict(entry.experiment), to_dict(experiment)
    return [
        field
        for group, values in here.items()
        for field, value in values.items()
        if value != there[group].get(field) and field not in _FREE
    ]


_NETWORK = {"hidden", "channels", "batch_norm", "head_norm", "optimizer"}
"""Settings that make a run one's own: with another of these it is no run of the study any more."""
MOST_SIZES = 6


def is_own(changed: Iterable[str]) -> bool:
    """Whether these `changes` make it a network of one's own."""
    return not _NETWORK.isdisjoint(changed)


def called(name: str, experiment: Experiment) -> str:
    """The catalogue's name, or of a network of one's own what it is, such as mlp-600-500-275-adam."""
    if not is_own(changes(name, experiment)):
        return name
    model = experiment.model
    sizes = [*model.channels, *map(str, model.hidden)]
    if len(sizes) > MOST_SIZES:
        sizes = [f"{len(sizes)}", "layers"]
    kind = "cnn" if model.channels else "mlp" if model.hidden else "linear"
    norm = ["bn"] if model.batch_norm != "none" else []
    return "-".join([kind, *sizes, *norm, experiment.optimization.optimizer])


def title(name: str, experiment: Experiment) -> str:
    """What it is called, and whether the study's run has other settings."""
    changed = changes(name, experiment)
    return called(name, experiment) + (" with changed settings" if changed and not is_own(changed) else "")


def listing(everything: bool = True) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """The catalogue as a table's header and rows, and the notes that these name by number; table 1 in one
    row, or all of it.
    """
    notes = list(dict.fromkeys(entry.note for entry in CATALOGUE.values() if entry.note))
    rows: list[tuple[str, ...]] = []
    for name, entry in CATALOGUE.items():
        if name.startswith("table1-") and not everything:
            continue
        what = entry.title + (f" [{notes.index(entry.note) + 1}]" if entry.note else "")
        rows.append((name, f"{entry.reported:.4f}", str(entry.experiment.training.steps), what))
    if not everything:
        reported = [value for pair in TABLE_1.values() for value in pair]
        spread = f"{min(reported):.4f}-{max(reported):.4f}"
        rows.append(("table1-...", spread, "2500", f"table 1: {len(reported)} runs; list --all names them"))
    numbered = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    return ("experiment", "reported", "steps", "what"), rows, numbered
