"""The published study: runs.csv, a row a run, and curves.csv, its evaluations and some single steps.

Plain text that diffs. Of the training steps only those are kept that a figure of the page draws one by one;
each evaluation has the mean loss and accuracy of the training steps since the one before.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from triptych.describe.spec import BackendName
from triptych.errors import UserError
from triptych.store.files import write_atomically
from triptych.store.records import Record
from triptych.study import plan
from triptych.study.results import Failure, Result, check_settings, failures, load, run_folder

PUBLISHED = Path("docs/study-results")
COLUMNS = [column.name for column in fields(Result) if column.name != "records"]
FAILED = "failed"
"""A column more: the message of a run that stopped being finite; "" for a finished one."""
KEY = ("name", "backend", "seed")
TRAIN = ("train_loss", "train_accuracy")
EVALUATED = (*TRAIN, "test_loss", "test_accuracy", "validation_loss", "validation_accuracy")
CURVES = (*KEY, "step", *EVALUATED)
"""A row without test_loss is one training step, of whose batch train_loss and train_accuracy are."""
_BETWEEN = " | "
"""Between the texts of one cell."""
_AGAIN = "restore the file, such as by git checkout"

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Table:
    """Runs of the study."""

    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def by_key(self) -> dict[Key, Result | Failure]:
        every: list[Result | Failure] = [*self.results, *self.failures]
        return {key_of(one): one for one in every}

    def updated(self, newer: Table) -> Table:
        """These runs, and the newer ones, each in the place of the older one of its name and seed; but a
        finished run stays where the newer one failed.
        """
        kept = {key_of(result) for result in self.results}
        more = [one for one in newer.failures if key_of(one) not in kept]
        merged = self.by_key() | Table(newer.results, more).by_key()
        return Table(
            [one for one in merged.values() if isinstance(one, Result)],
            [one for one in merged.values() if isinstance(one, Failure)],
        )


def key_of(one: Result | Failure) -> Key:
    """Name, backend and seed."""
    return one.name, one.backend, one.seed


def of_folder(root: Path, names: Iterable[str]) -> Table:
    """The finished and failed runs of those names in a study's folder."""
    names = list(names)
    return Table(load(root, names), failures(root, names))


# --- publish -------------------------------------------------------------------------------------


def publish(root: Path, words: Sequence[str], folder: Path) -> tuple[int, int, int]:
    """Write the finished and failed runs under `root` into the table in `folder`; no word stands for all.

    Returns how many rows are new, how many were replaced, and how many there are. Rows of other runs stay,
    and so does a finished run that failed under `root`. Raises UserError for a word that stands for no name,
    a name without such a run, and a run that is damaged or not the plan's.
    """
    asked = plan.select(words or ["all"])
    own = of_folder(root, asked)
    absent = set(asked) - {one.name for one in own.by_key().values()} if words else set()
    if not own.by_key() or absent:
        of = f" of {', '.join(sorted(absent)[:3])}" if absent else ""
        raise UserError(
            f"root {root}: no finished run{of}; train it (python -m triptych study run), or name the study's "
            "folder with --root"
        )
    for result in own.results:
        _check_curve(result, str(run_folder(root, *key_of(result))))
    before = read(folder) if (folder / "runs.csv").exists() else Table()
    merged = before.updated(own)
    write(folder, merged)
    there, now = before.by_key(), merged.by_key()
    replaced = sum(key in there and there[key] != one for key, one in now.items())
    return len(now) - len(there), replaced, len(now)


def write(folder: Path, table: Table) -> None:
    """Write both files, in the plan's order."""
    order = list(plan.PLAN)
    runs = sorted(table.by_key().items(), key=lambda item: (order.index(item[0][0]), *item[0][1:]))
    rows = [_cells(one) for _, one in runs]
    curves = [row for _, one in runs if isinstance(one, Result) for row in _curve(one)]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "curves.csv", _text(CURVES, curves))
    write_atomically(folder / "runs.csv", _text([*COLUMNS, FAILED], rows))


def _cells(one: Result | Failure) -> list[str]:
    if isinstance(one, Failure):
        values = {**dict.fromkeys(COLUMNS, ""), **vars(one)}
        return [str(values[name]) for name in COLUMNS] + [one.message]
    return [_cell(getattr(one, name)) for name in COLUMNS] + [""]


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return _BETWEEN.join(value)
    return "" if value is None else str(value)


def _curve(result: Result) -> Iterator[list[str]]:
    """Rows of the evaluations, and of the first steps of the runs that the page draws step by step."""
    single = plan.PLAN[result.name].single_steps if result.seed == 0 else 0
    key = [_cell(part) for part in key_of(result)]
    for record in result.records:
        if record["kind"] == "eval":
            yield [*key, str(record["step"]), *(_number(name, record.get(name)) for name in EVALUATED)]
        elif record["step"] <= single:
            # Nine digits give back a float32: rounding of its last place is what is compared there.
            yield [
                *key,
                str(record["step"]),
                *(f"{record[name]:.9g}" for name in ("loss", "accuracy")),
                *[""] * 4,
            ]


def _number(name: str, value: float | None) -> str:
    """As it is where the page computes with it, seven digits where it draws it."""
    if value is None:
        return ""
    return str(value) if name in ("test_accuracy", "validation_accuracy") else f"{value:.7g}"


def _text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([columns, *rows])
    return buffer.getvalue().encode()


# --- read ----------------------------------------------------------------------------------------


def read(folder: Path) -> Table:
    """The table in a folder. Raises UserError, with file and line, for one that `write` does not write."""
    curves: dict[Key, list[Record]] = {}
    for where, row in _rows(folder / "curves.csv", CURVES):
        curves.setdefault(_key(row, where), []).append(_record(row, where))
    table, seen = Table(), set[Key]()
    for where, row in _rows(folder / "runs.csv", [*COLUMNS, FAILED]):
        key = _key(row, where)
        if key in seen:
            raise UserError(f"{where}: {' '.join(map(str, key))} is there twice; {_AGAIN}")
        seen.add(key)
        check_settings(key[0], row["settings"], where)
        if row[FAILED]:
            table.failures.append(Failure(*key, row["settings"], row[FAILED]))
            continue
        values = {name: _value(name, row[name], _HINTS[name], where) for name in COLUMNS}
        result = Result(**values, records=curves.pop(key, []))
        _check_curve(result, where)
        table.results.append(result)
    if curves:
        raise UserError(
            f"{folder / 'curves.csv'}: has a curve of {' '.join(map(str, next(iter(curves))))}, which is no "
            f"finished run of runs.csv; {_AGAIN}"
        )
    return table


_HINTS = get_type_hints(Result)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("path: line n", cells by column) of each row."""
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        header = next(reader, [])
        if header != list(columns):
            raise UserError(f"{path}: expected the columns {', '.join(columns)}; {_AGAIN}")
        for cells in reader:
            where = f"{path}: line {reader.line_num}"
            if len(cells) != len(columns):
                raise UserError(f"{where}: expected {len(columns)} cells, got {len(cells)}; {_AGAIN}")
            yield where, dict(zip(columns, cells, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the published table's folder with --published") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file ({error}); {_AGAIN}") from None


def _key(row: dict[str, str], where: str) -> Key:
    if row["name"] not in plan.PLAN:
        raise UserError(f"{where}: name: expected a run of the plan, got {row['name'][:80]!r}; {_AGAIN}")
    if row["backend"] not in get_args(BackendName):
        raise UserError(
            f"{where}: backend: expected numpy, jax or torch, got {row['backend'][:80]!r}; {_AGAIN}"
        )
    return row["name"], row["backend"], _value("seed", row["seed"], int, where)


def _value(name: str, cell: str, kind: Any, where: str) -> Any:
    if kind is str:
        return cell
    if kind == tuple[str, ...]:
        return tuple(cell.split(_BETWEEN)) if cell else ()
    if kind == float | None and not cell:
        return None
    if kind is int and cell.isascii() and cell.isdigit() and len(cell) < 10:
        return int(cell)
    try:
        number = math.nan if kind is int else float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: {name}: expected {what}, got {cell[:80]!r}; {_AGAIN}")
    return number


def _record(row: dict[str, str], where: str) -> Record:
    step = _value("step", row["step"], int, where)
    if not row["test_loss"]:
        loss, accuracy = (_value(name, row[name], float, where) for name in TRAIN)
        return {"kind": "train", "step": step, "loss": loss, "accuracy": accuracy}
    values = {name: _value(name, row[name], float, where) for name in EVALUATED if row[name]}
    return {"kind": "eval", "step": step, **values}


def _check_curve(result: Result, where: str) -> None:
    """Raises UserError unless the run's evaluations reach to its end and give the accuracies that it has."""
    found = {record["step"]: record.get("test_accuracy") for record in result.evaluations}
    wanted = (result.steps, result.test_accuracy), (result.best_step, result.best_test_accuracy)
    for step, accuracy in wanted:
        if found.get(step) != accuracy:
            raise UserError(
                f"{where}: {' '.join(map(str, key_of(result)))}: expected an evaluation of step {step} with "
                f"test accuracy {accuracy}, found {found.get(step, 'none')}; {_AGAIN}"
            )
    needed = [*EVALUATED[:4], *(["validation_accuracy"] if "validation=" in result.settings else [])]
    for record in result.evaluations:
        if missing := [name for name in needed if name not in record]:
            raise UserError(f"{where}: step {record['step']}: expected a {missing[0]}, found none; {_AGAIN}")
