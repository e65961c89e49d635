"""The bugs, by family: each a mistake that someone has made, or could have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parity.planted import Bug
from triptych.errors import UserError

NORM = ("batch_norm_manual", "batch_norm_autodiff")
BY_HAND = ("batch_norm_manual",)
CONV, POOL = ("conv2d",), ("max_pool2d",)
AUTODIFF = ("jax", "torch")
"""Backends that derive gradients themselves."""
ONCE = ("shared",)
"""Computed once for all three."""


def _group(name: str, *bugs: Bug) -> tuple[Bug, ...]:
    return tuple(replace(bug, group=name) for bug in bugs)


DENSE = _group(
    "dense layers",
    Bug(
        "linear-weight-transposed", "x W for x W^T, where W is square and fits", ("linear",), ("y",), "square"
    ),
    Bug(
        "linear-weight-gradient-transposed",
        "dW = x^T dy for dy^T x, where W is square and fits",
        ("linear",),
        ("dW",),
        "square",
    ),
    Bug("linear-bias-gradient-averaged", "db averages over the batch, for a sum", ("linear",), ("db",)),
    Bug(
        "linear-tf32", "TF32 left on: factors of the product rounded to 10 fraction bits", ("linear",), ("y",)
    ),
    Bug("linear-float16", "x passes through float16 on its way into the product", ("linear",), ("y",)),
    Bug(
        "bfloat16-sums",
        "a gradient's sum is rounded to bfloat16 at every term",
        ("conv2d", "linear", "max_pool2d"),
        ("db", "dx"),
        dtypes=("bfloat16",),
        backends=AUTODIFF,
    ),
    Bug(
        "leaky-relu-slope-1-at-zero",
        "the derivative at exactly 0 is 1, for the slope",
        ("leaky_relu",),
        ("dx",),
    ),
    Bug("leaky-relu-slope-forgotten", "ReLU for LeakyReLU", ("leaky_relu",), ("y", "dx")),
    Bug(
        "leaky-relu-derivative-from-output",
        "the derivative asks y >= 0, as an in-place activation has no x left",
        ("leaky_relu",),
        ("dx",),
    ),
    Bug("activation-derivative-skipped", "dy passes the activation unchanged", ("leaky_relu",), ("dx",)),
    Bug("dropout-unscaled", "what is kept is not divided by 1 - p", ("dropout",), ("y",)),
    Bug("dropout-mask-inverted", "what should be kept is dropped", ("dropout",), ("y",)),
    Bug("dropout-mask-not-in-backward", "dy is scaled but not masked", ("dropout",), ("dx",)),
    Bug(
        "flatten-channels-last",
        "images are flattened pixel by pixel, for channel by channel",
        ("flatten",),
        ("y",),
    ),
)

CONVOLUTION = _group(
    "convolution and pooling",
    Bug("conv-rows-columns-swapped", "the kernel's rows and columns change places", CONV, ("y",)),
    Bug("conv-flipped", "true convolution for cross-correlation: the kernel is flipped", CONV, ("y",)),
    Bug("conv-dx-not-flipped", "dx correlates dy with the kernel as it is, for flipped", CONV, ("dx",)),
    Bug(
        "conv-channels-swapped",
        "in and out channels change places where they are as many",
        CONV,
        ("y",),
        "square",
    ),
    Bug(
        "conv-same-padding",
        "stride 2 with SAME padding for 1 on each side",
        CONV,
        ("y",),
        "stride 2, even image",
    ),
    Bug("conv-bias-gradient-averages-width", "db averages over the width, for a sum", CONV, ("db",)),
    Bug("conv-dw-last-image", "dW is overwritten image by image: = for +=", CONV, ("dW",)),
    Bug("conv-dx-overwritten", "dx is overwritten where windows overlap: = for +=", CONV, ("dx",)),
    Bug("conv-tf32", "TF32 left on in convolutions: factors rounded to 10 fraction bits", CONV, ("y",)),
    Bug("pool-splits-ties", "equal maxima share the gradient", POOL, ("dx",)),
    Bug("pool-counts-ties", "each of several equal maxima gets the whole gradient", POOL, ("dx",)),
    Bug("pool-last-maximum", "the last of equal maxima gets the gradient, for the first", POOL, ("dx",)),
    Bug("pool-padding-wins", "padding with 0 for -inf: it beats negative values", POOL, ("y",)),
    Bug("pool-same-padding", "stride 2 with SAME padding for 1 on each side", POOL, ("y",)),
)

NORMALIZATION = _group(
    "batch normalization",
    Bug("norm-biased-running-variance", "the running variance takes the biased one", NORM, ("running_var",)),
    Bug(
        "norm-running-deviation", "the running variance takes the standard deviation", NORM, ("running_var",)
    ),
    Bug(
        "norm-momentum-reversed",
        "m r + (1 - m) now for (1 - m) r + m now",
        NORM,
        ("running_mean", "running_var"),
    ),
    Bug(
        "norm-without-xhat-term",
        "dx lacks - xhat sum g xhat: the variance counts as constant",
        BY_HAND,
        ("dx",),
    ),
    Bug("norm-without-mean-term", "dx lacks - sum g: the mean counts as constant", BY_HAND, ("dx",)),
    Bug("norm-statistics-detached", "no gradient flows through mean and variance", NORM, ("dx",)),
    Bug("norm-zero-gradient", "dx is 0: right for a loss that sums y", BY_HAND, ("dx",)),
    Bug("norm-gamma-left-out", "dx lacks the factor gamma", BY_HAND, ("dx",)),
    Bug("norm-eps-outside-root", "sqrt(variance) + eps for sqrt(variance + eps)", NORM, ("y",)),
    Bug("norm-eps-missing", "no eps at all", NORM, ("y",)),
    Bug("norm-one-pass-variance", "E[x^2] - E[x]^2 for the mean of (x - mean)^2", NORM, ("y", "running_var")),
    Bug("norm-unbiased-normalizes", "normalises by the variance over n - 1", NORM, ("y",)),
    Bug("norm-evaluates-by-batch", "evaluation normalises by the batch", ("batch_norm_evaluate",), ("y",)),
)

LOSSES = _group(
    "losses",
    Bug(
        "loss-sum-for-mean",
        "1/B is missing: the loss's gradient sums over the batch",
        ("model",),
        ("loss ds",),
    ),
    Bug("loss-labels-shifted", "labels count from 1", ("cross_entropy",), ("L", "ds")),
    Bug(
        "loss-smoothing-over-others",
        "smoothing goes to the K - 1 other classes, for all K",
        ("cross_entropy",),
        ("L", "ds"),
        "ordinary, smoothed",
    ),
    Bug(
        "softmax-without-maximum",
        "exp of the logits as they are: overflows near 89",
        ("cross_entropy",),
        ("L",),
    ),
    Bug("softmax-jacobian-sign", "p_i p_j for - p_i p_j off the diagonal", ("squared_error",), ("ds",)),
    Bug("softmax-zero-gradient", "ds is 0: right for a loss that sums p", ("squared_error",), ("ds",)),
    Bug(
        "softmax-jacobian-diagonal",
        "only the diagonal p (1 - p) of the Jacobian",
        ("squared_error",),
        ("ds",),
    ),
    Bug("hinge-counts-zero-margins", "a margin of exactly 0 counts as violated", ("hinge",), ("ds",)),
    Bug("l2-without-half", "l sum W^2 for l/2 sum W^2: the gradient doubles", ("l2",), ("penalty", "dW")),
)

OPTIMIZERS = _group(
    "optimizers and schedules",
    Bug("adam-counts-from-2", "bias corrections of the next step", ("optimizer",), ("theta",), "adam"),
    Bug("adam-uncorrected", "no bias correction", ("optimizer",), ("theta",), "adam"),
    Bug("adam-float32-correction", "1 - beta^t computed in float32", ("optimizer",), ("theta",), "adam"),
    Bug("adam-eps-inside-root", "sqrt(v + eps) for sqrt(v) + eps", ("optimizer",), ("theta",), "adam"),
    Bug("adam-betas-swapped", "beta1 and beta2 change places", ("optimizer",), ("first_moment",), "adam"),
    Bug("adam-decoupled", "AdamW's weight decay in Adam", ("optimizer",), ("theta",), "adam, weight decay"),
    Bug(
        "adamw-coupled", "AdamW adds its decay to the gradient, as Adam", ("optimizer",), ("theta",), "adamw"
    ),
    Bug(
        "adamw-decay-after", "AdamW shrinks the parameter after the step", ("optimizer",), ("theta",), "adamw"
    ),
    Bug(
        "amsgrad-corrected-first",
        "AMSGrad keeps the largest second moment after its correction, as optax does",
        ("optimizer",),
        ("theta", "largest_second_moment"),
        "amsgrad, weight decay",
    ),
    Bug("sgd-dampened", "momentum takes (1 - m) g for g", ("optimizer",), ("momentum",), "sgd, momentum"),
    Bug(
        "sgd-nesterov-left-out", "plain momentum for Nesterov's", ("optimizer",), ("theta",), "sgd, Nesterov"
    ),
    Bug(
        "schedule-off-by-one",
        "the rate of the next step",
        ("learning_rate",),
        ("rates",),
        dtypes=("float64",),
        backends=ONCE,
    ),
    Bug(
        "schedule-warm-up-from-zero",
        "warm-up starts with s/w for (s + 1)/w: the first step does nothing",
        ("learning_rate",),
        ("rates",),
        "constant, warm-up",
        ("float64",),
        ONCE,
    ),
)

PREPARATION = _group(
    "initial parameters and data",
    Bug(
        "init-fan-out",
        "uniform within 1/sqrt(fan_out) for fan_in",
        ("initial_draws",),
        ("variance", "beyond"),
        dtypes=("float64",),
        backends=ONCE,
    ),
    Bug(
        "init-gaussian",
        "a Gaussian of the right deviation for the uniform distribution",
        ("initial_draws",),
        ("beyond",),
        dtypes=("float64",),
        backends=ONCE,
    ),
    Bug(
        "init-he-without-slope",
        "He's gain of ReLU for LeakyReLU's",
        ("initial_draws",),
        ("variance",),
        dtypes=("float64",),
        backends=ONCE,
    ),
    Bug("pixels-channel-mean", "each channel's mean for the mean image", ("preprocessing",), ("x",)),
    Bug("pixels-mean-of-test", "the mean image of the test set", ("preprocessing",), ("x",)),
    Bug("pixels-scaled-twice", "divided by the deviation twice", ("preprocessing",), ("x",), "standardize"),
)

WHOLE = _group(
    "whole networks",
    Bug("labels-one-row-late", "each image has the label of the one before", ("model",), ("loss ds",)),
    Bug(
        "l2-on-biases", "the L2 penalty covers biases, gamma and beta", ("model",), ("db", "dgamma", "dbeta")
    ),
    Bug("running-statistics-stale", "running statistics are never updated", ("model",), ("running_mean",)),
    Bug(
        "evaluation-flag-forgotten",
        "evaluation runs in training mode",
        ("model",),
        ("predictions, running statistics",),
    ),
    Bug(
        "gradients-accumulate",
        "zero_grad is forgotten: gradients of earlier batches are added",
        ("model",),
        ("updated",),
        backends=("torch",),
    ),
    Bug(
        "upstream-of-another-layer",
        "a batch norm gets the upstream gradient of the layer behind it",
        ("model",),
        ("dx",),
        backends=("numpy",),
    ),
)

BUGS: dict[str, Bug] = {
    bug.name: bug
    for bug in (*DENSE, *CONVOLUTION, *NORMALIZATION, *LOSSES, *OPTIMIZERS, *PREPARATION, *WHOLE)
}
"""By name, in the order of the kill matrix."""


def find(names: Iterable[str]) -> list[Bug]:
    """These bugs, or all; raises UserError for a name that there is not."""
    names = list(names)
    for name in names:
        if name not in BUGS:
            raise UserError(f"bug: expected a name that --list shows, got {name!r}; change --bug")
    return [BUGS[name] for name in names] or list(BUGS.values())
