"""The study's plan: what is run, that names, groups and patterns find it, and in which backends."""

import pytest

from triptych.describe.catalogue import CATALOGUE, changes
from triptych.errors import UserError
from triptych.study import jobs as jobs_module
from triptych.study.__main__ import main as study
from triptych.study.jobs import jobs, state
from triptych.study.plan import PLAN, select
from triptych.study.questions import QUESTIONS
from triptych.study.readings import READINGS, runs


def test_every_run_of_the_report_is_planned_as_the_catalogue_has_it():
    for name, entry in CATALOGUE.items():
        planned = PLAN[name]
        reported = None if entry.by_assignment else entry.reported  # what the report gives itself
        assert (planned.experiment, planned.entry, planned.reported) == (entry.experiment, name, reported)
    assert sum(planned.reported is not None for planned in PLAN.values()) == 49
    assert sum(planned.group == "table1" for planned in PLAN.values()) == 40


@pytest.mark.parametrize(
    ("name", "entry", "changed"),
    [
        ("fig1-he", "fig1", ["init"]),
        ("fig1-dense", "fig1", []),  # how often a run is evaluated does not change what it learns
        ("decay-step", "fig1", ["schedule"]),
        ("decay-cosine", "fig1", ["schedule"]),
        ("early-stopping", "fig3", ["validation", "early_stopping"]),
        ("dropout-0.2", "fig3", ["dropout"]),
        ("dropout-0.5", "fig3", ["dropout"]),
        ("lr3e-5", "fig3", ["learning_rate"]),
        ("lr1e-5", "fig3", ["learning_rate"]),
        ("lr3e-5-long", "fig3", ["learning_rate", "steps"]),
        ("rate-standardize", "table1-size7-lr1e-2-wd1e-4", ["preprocess"]),
        ("rate-adamw", "table1-size7-lr1e-2-wd1e-4", ["optimizer"]),
        ("rate-epsilon", "table1-size7-lr1e-2-wd1e-4", ["epsilon"]),
        ("rate-cosine", "table1-size7-lr1e-2-wd1e-4", ["schedule"]),
        ("rate-he", "table1-size7-lr1e-2-wd1e-4", ["init"]),
        ("rate-he-size11-lr1e-2", "table1-size11-lr1e-2-wd1e-4", ["init"]),
        ("rate-sgd-size11-lr1e-4", "table1-size11-lr1e-4-wd1e-4", ["optimizer"]),
        ("rate-amsgrad-wd5e-4", "table1-size7-lr1e-2-wd5e-4", ["amsgrad"]),
        ("rate-amsgrad-size11-lr1e-2-wd1e-5", "table1-size11-lr1e-2-wd1e-5", ["amsgrad"]),
        ("rate-3e-3", "table1-size7-lr1e-2-wd1e-4", ["learning_rate"]),
    ],
)
def test_a_question_changes_what_it_asks_about_and_nothing_else(name, entry, changed):
    planned = PLAN[name]
    assert planned.entry == entry
    assert changes(entry, planned.experiment) == changed
    assert planned.question in QUESTIONS
    assert planned.reported is None


def test_every_question_run_is_listed_above_or_is_a_readings():
    """A reading's runs depart from table 1 in what the reading changes, and in nothing else."""
    questions = {name for name, planned in PLAN.items() if planned.group == "question"}
    of_readings = [name for key in READINGS for name in runs(key)]
    assert len(questions - set(of_readings)) == 10
    assert PLAN["decay-step"].experiment.training.eval_every == 20
    assert len(of_readings) == len(set(of_readings)) == 6 + 3 * 4 + (4 + 4 + 2)
    for key, reading in READINGS.items():
        for name, (entry, seeds) in runs(key).items():
            wanted = [setting for values in reading.changes.values() for setting in values]
            assert (PLAN[name].entry, PLAN[name].seeds) == (entry, seeds)
            assert changes(entry, PLAN[name].experiment) == wanted


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["fig1"], {"fig1"}),
        (["fig5", "fig1", "fig5"], {"fig1", "fig5"}),
        (["figures"], {"fig1", "fig2", "fig3", "fig4", "fig5", "fig7", "fig8"}),
        (["search"], {"adam", "size7", "size11", "size11-decay"}),
        (["table1"], {name for name in CATALOGUE if name.startswith("table1-")}),
        (["table1-size7-lr1e-2-*", "dropout-0.?"], {
            "table1-size7-lr1e-2-wd1e-4", "table1-size7-lr1e-2-wd5e-4", "table1-size7-lr1e-2-wd1e-5",
            "table1-size7-lr1e-2-wd5e-5", "dropout-0.2", "dropout-0.5",
        }),
        (["mlp"], set(PLAN) - {"fig7", "fig8"}),
        (["all"], set(PLAN)),
    ],
)  # fmt: skip
def test_names_groups_and_patterns(words, names):
    found = select(words)
    assert set(found) == names
    assert found == [name for name in PLAN if name in names], "in the plan's order, each once"


def test_an_unknown_name_lists_the_known_and_seeds_are_positive(capsys):
    listed = "questions.*fig1.*python -m triptych study list"
    with pytest.raises(UserError, match=f"no run is called 'figure1'.*{listed}"):
        select(["figure1"])
    assert study(["run", "nothing-*"]) == 2
    assert "no run is called 'nothing-*'" in capsys.readouterr().err
    assert study(["run", "fig1", "--seeds", "0"]) == 2
    assert "seeds: expected at least 1, got 0" in capsys.readouterr().err


def test_each_backend_in_turn_cheapest_first_and_figure_1_in_all(monkeypatch):
    found = jobs(["fig3", "fig1"], ["torch"], seeds=2)
    assert list(map(str, found)) == [
        "fig1 torch seed 0", "fig1 torch seed 1", "fig3 torch seed 0", "fig3 torch seed 1",
        "fig1 numpy seed 0", "fig1 jax seed 0",
    ]  # fmt: skip
    monkeypatch.setattr(jobs_module, "installed", lambda name: name != "jax")
    assert list(map(str, jobs(["fig1"], ["torch"], seeds=1))) == ["fig1 torch seed 0", "fig1 numpy seed 0"]
    assert len(jobs(["fig2"], ["jax"])) == PLAN["fig2"].seeds


def test_a_seed_changes_the_seed_alone():
    changed = PLAN["fig4"].with_seed(7)
    assert changed.training.seed == 7
    assert changes("fig4", changed) == []


def test_what_never_ran_is_open(tmp_path):
    assert {state(job, tmp_path) for job in jobs(PLAN, ["numpy", "jax", "torch"])} == {"open"}
