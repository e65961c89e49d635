"""What lies below the backends: initial parameters, schedules, random streams, batches, preprocessing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.cifar10.batches import BatchOrder
from triptych.cifar10.preprocess import fit, prepare
from triptych.describe import cost, streams
from triptych.describe.catalogue import CATALOGUE, TABLE_1, called, changes, find, title
from triptych.describe.init import initial_parameters
from triptych.describe.layers import Conv2d, parameter_shapes
from triptych.describe.network import Model
from triptych.describe.plain import from_dict, to_dict
from triptych.describe.schedule import learning_rates
from triptych.describe.spec import Data, Experiment, Initialization, Optimization, Schedule, Training
from triptych.errors import UserError
from triptych.train.command import parse


def weights(init: str, **fields: object) -> dict[str, np.ndarray]:
    model = Model(hidden=(400, 300), slope=0.1)
    initialization = Initialization(init, **fields)  # type: ignore[arg-type]
    return initial_parameters(Experiment(model=model, initialization=initialization))


def test_normal():
    parameters = weights("normal", init_std=0.5)
    assert parameters["linear1.weight"].std() == pytest.approx(0.5, rel=0.01)
    assert abs(parameters["linear1.weight"].mean()) < 0.01
    assert not parameters["linear1.bias"].any()


def test_framework_is_torchs_default():
    """Uniform in +-1/sqrt(fan_in), biases too: the same bounds and moments as torch.nn.Linear draws."""
    parameters, theirs, bound = weights("framework"), torch.nn.Linear(3072, 400), 1 / np.sqrt(3072)
    for name, tensor in theirs.named_parameters():
        ours, torchs = parameters[f"linear1.{name}"], tensor.detach().numpy()
        for draw in (ours, torchs):
            assert np.abs(draw).max() <= bound * (1 + 1e-6)
            assert np.abs(draw).max() > 0.98 * bound
        assert ours.std() == pytest.approx(torchs.std(), rel=0.1)
    assert parameters["linear2.bias"].max() > 1 / np.sqrt(3072)  # linear2's fan_in is 400


def test_he_and_glorot():
    he, glorot = weights("he"), weights("glorot")
    assert he["linear1.weight"].std() == pytest.approx(np.sqrt(2 / (1.01 * 3072)), rel=0.01)
    bound = np.sqrt(6 / (3072 + 400))
    assert np.abs(glorot["linear1.weight"]).max() == pytest.approx(bound, rel=1e-3)
    assert glorot["linear1.weight"].std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert not he["linear2.bias"].any()
    assert not glorot["linear2.bias"].any()


def test_initial_parameters_depend_on_the_seed_and_name_only():
    shallow = Experiment(model=Model(hidden=(50,)))
    deep = replace(shallow, model=Model(hidden=(50, 40)))
    a, b = initial_parameters(shallow), initial_parameters(deep)
    np.testing.assert_array_equal(a["linear1.weight"], b["linear1.weight"])
    other = initial_parameters(replace(shallow, training=Training(seed=1)))
    assert not np.array_equal(a["linear1.weight"], other["linear1.weight"])
    assert list(b) == list(parameter_shapes(deep.layers()))


def test_batch_norm_begins_as_the_identity():
    """gamma 1 and beta 0, whatever draws the weights."""
    for init in ("framework", "he", "normal"):
        model = Model(hidden=(5, 4), batch_norm="manual")
        found = initial_parameters(Experiment(model=model, initialization=Initialization(init)))
        gammas = {name: array.tolist() for name, array in found.items() if name.endswith("gamma")}
        betas = {name: array.tolist() for name, array in found.items() if name.endswith("beta")}
        assert list(gammas.values()) == [[1.0] * 5, [1.0] * 4]
        assert list(betas.values()) == [[0.0] * 5, [0.0] * 4]


# --- schedules: worked by hand ---


def rates(steps: int = 10, **fields: object) -> list[float]:
    spec = Experiment(
        optimization=Optimization(learning_rate=1.0),
        schedule=Schedule(**fields),  # type: ignore[arg-type]
        training=Training(steps=steps),
    )
    table = learning_rates(spec, 0, steps)
    np.testing.assert_array_equal(table[3:7], learning_rates(spec, 3, 4))
    return table.tolist()


def test_schedules():
    assert rates(4 + 3) == [1.0] * 7
    assert rates(8, schedule="step", decay_every=3, decay_factor=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    cosine = rates(8, schedule="cosine", final_learning_rate=0.2)
    assert cosine[0] == 1.0
    assert cosine[4] == pytest.approx(0.6)
    assert cosine[7] == pytest.approx(0.2 + 0.8 * (1 + np.cos(np.pi * 7 / 8)) / 2)
    warm = rates(10, schedule="step", warmup_steps=4, decay_every=3, decay_factor=0.1)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1])


# --- random streams: pinned, so that every machine and NumPy version trains on the same batches ---


def test_streams_are_pinned():
    assert streams.words(0, "batches", 0, 2).tolist() == [571989835312804943, 1350179496313209279]
    assert streams.permutation(3, "batches", 1, 8).tolist() == [2, 7, 6, 4, 3, 1, 5, 0]


def test_streams_are_independent():
    keys = ((0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0))
    assert len({tuple(streams.words(*key, 4).tolist()) for key in keys}) == 4


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_keep_mask_rate(rate):
    mask = streams.keep_mask(0, "mask", 0, (301, 333), rate)
    assert mask.dtype == bool
    assert mask.shape == (301, 333)
    deviation = 4 * np.sqrt(rate * (1 - rate) / mask.size)
    assert abs((~mask).mean() - rate) <= deviation


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_no_image_is_dropped_or_doubled(size, batch, seed):
    """Whatever divides or not: the batches laid end to end are whole epochs, each every image once."""
    batch = min(batch, size)
    order = BatchOrder(size, batch, seed)
    count = -(-3 * size // batch)
    flat = order.table(0, count).reshape(-1)[: 3 * size].reshape(3, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in flat.tolist())
    if size >= 20:
        assert len({tuple(epoch) for epoch in flat.tolist()}) == 3  # each epoch has an order of its own


def test_batches_do_not_depend_on_how_they_are_asked_for():
    order = BatchOrder(50, 16, 0)
    whole = order.table(0, 20)
    again = BatchOrder(50, 16, 0)
    np.testing.assert_array_equal(whole[7:9], again.table(7, 2))
    np.testing.assert_array_equal(np.concatenate([order.table(i, 1) for i in range(20)]), whole)
    assert whole.dtype == np.int32
    assert not np.array_equal(whole, BatchOrder(50, 16, 1).table(0, 20))
    assert order.table(5, 0).shape == (0, 16)


def test_batch_larger_than_the_data():
    with pytest.raises(UserError, match=r"at most the 50 training images, got 51.*--batch-size"):
        BatchOrder(50, 51, 0)


def test_mean_image(rng):
    images = rng.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    mean, scale = fit(images, "mean-image")
    np.testing.assert_allclose(mean, images.astype(np.float64).mean(axis=0), rtol=1e-15)
    assert scale is None


def test_standardize(rng):
    images = rng.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8) // np.array([1, 2, 5])[:, None, None]
    images = images.astype(np.uint8)
    mean, scale = fit(images, "standardize")
    assert scale is not None
    prepared = (images - mean) * scale
    np.testing.assert_allclose(prepared.mean(axis=(0, 2, 3)), 0, atol=1e-13)
    np.testing.assert_allclose(prepared.std(axis=(0, 2, 3)), 1, rtol=1e-13)


def test_standardize_refuses_a_constant_channel():
    with pytest.raises(UserError, match="constant"):
        fit(np.full((4, 3, 32, 32), 7, np.uint8), "standardize")


def test_validation_images_come_from_the_end_and_leave_the_statistics(rng):
    from triptych import cifar10

    images = rng.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    dataset = cifar10.Dataset(images, labels, images[:5], labels[:5], "test", "sha256:0")
    data = prepare(dataset, "mean-image", validation=6)
    np.testing.assert_array_equal(data.images["validation"], images[14:])
    np.testing.assert_array_equal(data.labels["train"], labels[:14])
    np.testing.assert_allclose(data.mean, images[:14].mean(axis=0), rtol=1e-14)
    with pytest.raises(UserError, match="--validation"):
        prepare(dataset, "mean-image", validation=20)


def test_every_catalogue_entry_survives_json():
    for name, entry in CATALOGUE.items():
        assert from_dict(json.loads(json.dumps(to_dict(entry.experiment))), name) == entry.experiment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"hidden": "100"}}, "model.hidden: expected"),
        ({"model": {"hidden": [True]}}, "model.hidden: expected"),
        ({"model": {"hidden": [0]}}, "hidden: expected positive sizes"),
        ({"model": []}, "expected a JSON object, got list"),
        ({"modle": {}}, "unknown field 'modle'"),
        ({"training": {"steps": 1.5}}, "training.steps: expected int, got 1.5"),
        ({"training": {"dtype": "float16"}}, "training.dtype: expected"),
        ({"training": {"tf32": 1}}, "training.tf32: expected bool"),
        ({"optimization": {"learning_rate": float("nan")}}, "learning_rate: expected a finite number"),
        ([], "expected a JSON object, got list"),
    ],
)
def test_bad_config_is_named(change, message):
    with pytest.raises(UserError) as caught:
        from_dict(change, "config.json")
    assert "config.json" in str(caught.value)
    assert message in str(caught.value)


def test_catalogue_holds_the_studys_runs():
    fig1 = find("fig1").experiment
    assert fig1.model == Model(hidden=(100,), slope=0.02)
    assert (fig1.initialization.init, fig1.initialization.init_std) == ("normal", 1e-4)
    assert (fig1.optimization.optimizer, fig1.optimization.learning_rate) == ("sgd", 2e-3)
    assert (fig1.data.batch_size, fig1.training.steps, fig1.training.eval_every) == (200, 1500, 100)
    fig3 = find("fig3").experiment
    assert fig3.model.hidden == (600, 500, 388, 275, 163)
    assert fig3.training.steps * fig3.data.batch_size == 16 * 50_000
    fig7, fig8 = (find(name).experiment for name in ("fig7", "fig8"))
    widths = [str(layer.out_channels) for layer in fig7.layers() if isinstance(layer, Conv2d)]
    assert widths == ["64", "128", "256", "256", "512", "512", "512", "512"]
    last = [layer.name for layer in fig8.layers()][-4:]
    assert last == ["flatten", "head_norm", "head_leaky_relu", "linear1"]
    assert (fig7.training.steps, fig7.data.batch_size, fig7.optimization.learning_rate) == (5000, 32, 1e-4)
    assert len(TABLE_1) == 20
    assert sum(name.startswith("table1-") for name in CATALOGUE) == 40
    assert find("table1-size11-lr1e-4-wd5e-4").reported == 0.5448
    with pytest.raises(UserError, match=r"no 'fig99'.*fig1"):
        find("fig99")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("fig1", [], "fig1"),
        ("fig1", ["--seed", "3"], "fig1"),
        ("fig1", ["--steps", "3"], "fig1 with changed settings"),
        ("fig1", ["--hidden", "600", "500", "275", "--optimizer", "adam"], "mlp-600-500-275-adam"),
        ("size7", ["--steps", "3"], "size7 with changed settings"),
        ("fig5", ["--optimizer", "sgd"], "mlp-600-500-388-275-163-bn-sgd"),
        ("fig1", ["--channels", "32", "M", "64", "--hidden", "128"], "cnn-32-M-64-128-sgd"),
        ("fig7", ["--optimizer", "adamw"], "cnn-13-layers-bn-adamw"),
        ("fig1", ["--hidden"], "linear-sgd"),
    ],
)
def test_a_network_of_one_s_own_is_called_by_what_it_is(name, words, said):
    experiment = parse(["--experiment", name, *words]).settings
    assert title(name, experiment) == said
    assert called(name, experiment) == said.removesuffix(" with changed settings")


def test_changes_name_what_departs_from_the_report():
    fig4 = find("fig4").experiment
    free = replace(
        fig4,
        model=replace(fig4.model, norm_statistics="batch"),
        training=replace(fig4.training, seed=3, dtype="float64", eval_every=7),
    )
    assert changes("fig4", fig4) == changes("fig4", free) == []
    assert changes("fig4", replace(free, optimization=Optimization("adam", 1e-3))) == ["learning_rate"]


def test_cost_of_fig1_by_hand():
    fig1 = find("fig1").experiment
    assert sum(c.parameters for c in cost.layer_costs(fig1)) == 3072 * 100 + 100 + 100 * 10 + 10
    forward = 2 * 3072 * 100, 2 * 100 * 10
    assert cost.step_flops(fig1) == 200 * (3 * sum(forward) - forward[0])
    assert cost.memory_bytes(fig1)["optimizer state"] == 0
    adam = replace(fig1, optimization=Optimization("adam"), data=Data(batch_size=1))
    assert cost.memory_bytes(adam)["optimizer state"] == 2 * 308310 * 4
    assert 1 <= cost.steps_per_call(find("fig3").experiment, "cpu") <= 100
    assert cost.steps_per_call(find("fig7").experiment, "cpu") == 14
    assert cost.steps_per_call(find("fig7").experiment, "gpu (a GPU)") == 200
