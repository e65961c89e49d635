"""What is compared: each item's truth, the formats it is judged in, and its measure."""

from __future__ import annotations

from parity.suite.truth import augment, conv, data, dense, loss, norm, optim, winograd
from parity.verification.judge import Item

NETWORK = ("float64", "float32", "bfloat16")
"""What layers compute in."""
INTEGERS = ("float32",)
"""What moves integers below 2^24, which float32 carries as they are."""
HOST = ("float64",)
"""What is computed once, on the host."""


ITEMS = {
    item.name: item
    for item in (
        Item("linear", dense.linear, NETWORK, products=True),
        Item("leaky_relu", dense.leaky_relu, NETWORK, elementwise=True),
        Item("dropout", dense.dropout, NETWORK, elementwise=True),
        Item("flatten", dense.flatten, NETWORK, elementwise=True),
        Item("conv2d", conv.conv2d, NETWORK, products=True),
        Item("conv2d_winograd", winograd.conv2d, ("float32",), products=True),
        Item("max_pool2d", conv.max_pool2d, NETWORK),
        Item("batch_norm_manual", norm.train, NETWORK),
        Item("batch_norm_autodiff", norm.train, NETWORK),
        Item("batch_norm_evaluate", norm.evaluate, NETWORK),
        Item("linear_norm", norm.linear_then_norm, NETWORK, products=True),
        Item("softmax", loss.softmax),
        Item("cross_entropy", loss.cross_entropy),
        Item("squared_error", loss.squared_error),
        Item("hinge", loss.hinge),
        Item("l2", loss.l2),
        Item("optimizer", optim.steps, elementwise=True),
        Item("learning_rate", data.learning_rates, HOST, elementwise=True),
        Item("initial_draws", data.draws, HOST),
        Item("initial_parameters", data.start, NETWORK, elementwise=True),
        Item("augmentation", augment.augment, INTEGERS, elementwise=True),
        Item("augmentation_draws", data.augmentation_draws, HOST),
        Item("preprocessing", data.pixels, NETWORK, elementwise=True),
    )
}
