"""An experiment as data: which network, loss, optimizer, batches and precision. No framework in it.

Every backend interprets the same description. Field names are the command line's option names.
Canonical forms: images channel-first (3, 32, 32); Linear weights (out, in), convolution weights (out, in,
kh, kw); parameters a flat dict from `"<layer>.<parameter>"` to a NumPy array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from triptych.describe.layers import Layer
from triptych.describe.network import Model, values_per_channel
from triptych.describe.require import require, require_choice, require_count, require_number
from triptych.errors import UserError

BackendName = Literal["numpy", "jax", "torch"]
Device = Literal["auto", "cpu", "gpu", "tpu"]
Dtype = Literal["float32", "float64", "bfloat16"]


# --- the experiment's parts ----------------------------------------------------------------------


@dataclass(frozen=True)
class Initialization:
    """Where the parameters start; drawn once in NumPy, the same for all backends."""

    init: Literal["normal", "framework", "he", "glorot"] = "normal"
    """normal: W ~ N(0, init-std^2), b = 0. framework: torch's default, W and b uniform in
    +-1/sqrt(fan_in). he: W ~ N(0, 2 / ((1 + slope^2) fan_in)), b = 0. glorot: W uniform in
    +-sqrt(6 / (fan_in + fan_out)), b = 0. A network of one's own (--hidden, --channels) has framework
    where the experiment has normal, whose small values no deeper network gets away from."""
    init_std: float = 1e-4
    """Standard deviation for init normal."""

    def __post_init__(self) -> None:
        require_choice("init", self.init, ("normal", "framework", "he", "glorot"))
        require_number("init_std", self.init_std, low=0.0)


@dataclass(frozen=True)
class Objective:
    """What is minimised; always the mean over the batch."""

    loss: Literal["cross_entropy", "squared_error", "hinge"] = "cross_entropy"
    """cross_entropy: softmax cross-entropy in nats. squared_error: sum over classes of
    (softmax - target)^2. hinge: sum over wrong classes of max(0, 1 - s_true + s_wrong) / 10."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes (cross_entropy and squared_error)."""
    l2: float = 0.0
    """L2 regularization in the loss: adds l2 / 2 * (sum of squared weights); biases are left out."""

    def __post_init__(self) -> None:
        require_choice("loss", self.loss, ("cross_entropy", "squared_error", "hinge"))
        require_number("label_smoothing", self.label_smoothing, low=0.0, below=1.0)
        require_number("l2", self.l2, low=0.0)
        if self.loss == "hinge" and self.label_smoothing:
            raise UserError(
                "label_smoothing: the hinge loss has no target distribution to smooth; "
                "set --label-smoothing 0 or use --loss cross_entropy"
            )


@dataclass(frozen=True)
class Optimization:
    """How parameters move. Conventions are torch's; `schedule` sets the rate of each step."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd; adam (weight decay is L2 added to the gradient); adamw (decoupled weight decay)."""
    learning_rate: float = 2e-3
    """Learning rate (the peak, where a schedule changes it)."""
    momentum: float = 0.0
    """Momentum of sgd: buffer = momentum * buffer + gradient."""
    nesterov: bool = False
    """Nesterov's form of momentum: step along gradient + momentum * buffer."""
    beta1: float = 0.9
    """Adam: decay of the mean of the gradient."""
    beta2: float = 0.999
    """Adam: decay of the mean of its square."""
    epsilon: float = 1e-8
    """Adam: added to the root of the second moment."""
    amsgrad: bool = False
    """AMSGrad: Adam and AdamW divide by the largest second moment so far, so that steps never grow back."""
    weight_decay: float = 0.0
    """Weight decay on all parameters, biases too (as torch's optimizers have it)."""

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        require_number("learning_rate", self.learning_rate, low=0.0)
        require_number("momentum", self.momentum, low=0.0, below=1.0)
        require_number("beta1", self.beta1, low=0.0, below=1.0)
        require_number("beta2", self.beta2, low=0.0, below=1.0)
        require_number("epsilon", self.epsilon, above=0.0)
        require_number("weight_decay", self.weight_decay, low=0.0)
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise UserError(
                f"momentum and nesterov belong to sgd, but the optimizer is {self.optimizer}; "
                "use --beta1 for Adam's, or --optimizer sgd"
            )
        if self.optimizer == "sgd" and self.amsgrad:
            raise UserError("amsgrad belongs to adam and adamw; use --optimizer adam, or leave it out")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov needs a momentum above 0, for example --momentum 0.9")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that the optimizer keeps for each parameter."""
        if self.optimizer == "sgd":
            return ("momentum",) if self.momentum else ()
        return ("first_moment", "second_moment", *(("largest_second_moment",) if self.amsgrad else ()))


@dataclass(frozen=True)
class Schedule:
    """The learning rate over time: a warm-up, then constant, step or cosine."""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    """constant; step: times decay-factor every decay-every steps; cosine: down to
    final-learning-rate at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up from learning-rate / warmup-steps to learning-rate."""
    decay_every: int = 500
    """Steps between two decays of schedule step."""
    decay_factor: float = 0.5
    """Factor of each decay of schedule step."""
    final_learning_rate: float = 0.0
    """Where schedule cosine ends."""

    def __post_init__(self) -> None:
        require_choice("schedule", self.schedule, ("constant", "step", "cosine"))
        require_count("warmup_steps", self.warmup_steps, low=0)
        require_count("decay_every", self.decay_every, low=1)
        require_number("decay_factor", self.decay_factor, above=0.0, most=1.0)
        require_number("final_learning_rate", self.final_learning_rate, low=0.0)


@dataclass(frozen=True)
class Data:
    """Which images, how they are prepared and batched."""

    dataset: Literal["auto", "cifar10", "torchvision", "tfds", "generated"] = "auto"
    """auto: local CIFAR-10 files, else a download, else, without --data-dir, the generated set (loudly).
    cifar10: local files or a download, never the generated set. torchvision and tfds: through those
    packages. generated: ten classes made by this program from a seed."""
    preprocess: Literal["mean-image", "standardize"] = "mean-image"
    """mean-image: raw 0..255 minus the training set's mean image (the study's). standardize: per
    channel, minus mean, divided by standard deviation."""
    batch_size: int = 200
    """Images a step. Each epoch is a fresh seeded shuffle; a batch may straddle two epochs, so no
    image is dropped."""
    validation: int = 0
    """Training images held out (the last ones) for validation and early stopping."""
    random_crop: int = 0
    """Augmentation: surround each training image by so many black pixels and cut 32x32 at a random place;
    4 is usual, 0 turns it off."""
    random_flip: bool = False
    """Augmentation: mirror half of the training images, at random, left to right."""

    def __post_init__(self) -> None:
        require_choice("dataset", self.dataset, ("auto", "cifar10", "torchvision", "tfds", "generated"))
        require_choice("preprocess", self.preprocess, ("mean-image", "standardize"))
        require_count("batch_size", self.batch_size, low=1)
        require_count("validation", self.validation, low=0)
        require_count("random_crop", self.random_crop, low=0)
        require(self.random_crop <= 32, "random_crop", "at most the image's 32 pixels", self.random_crop)


@dataclass(frozen=True)
class Training:
    """How long, how exactly, and how often to look."""

    steps: int = 1500
    """Training steps (batches)."""
    eval_every: int = 100
    """Steps between two evaluations on the whole test set; the last step is always evaluated."""
    early_stopping: int = 0
    """Stop after this many evaluations in a row without a better accuracy (on the validation images
    where there are some, else on the test set); 0 never stops early."""
    seed: int = 0
    """Seed of initial parameters, batch order, augmentation and dropout masks."""
    dtype: Dtype = "float32"
    """float32; float64 (for comparing backends); bfloat16: products in bfloat16 over float32 master
    weights (jax and torch)."""
    tf32: bool = False
    """Let a GPU use TF32 in float32 products. Off pins full float32 in jax and torch alike."""

    def __post_init__(self) -> None:
        require_count("steps", self.steps, low=1)
        require_count("eval_every", self.eval_every, low=1)
        require_count("early_stopping", self.early_stopping, low=0)
        require_count("seed", self.seed, low=0)
        require_choice("dtype", self.dtype, get_args(Dtype))


@dataclass(frozen=True)
class Experiment:
    """One experiment, whole. The defaults are the study's run 1 (report figure 1)."""

    model: Model = field(default_factory=Model)
    initialization: Initialization = field(default_factory=Initialization)
    objective: Objective = field(default_factory=Objective)
    optimization: Optimization = field(default_factory=Optimization)
    schedule: Schedule = field(default_factory=Schedule)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        values = values_per_channel(self.layers())
        if values is not None and self.data.batch_size * values < 2:
            raise UserError(
                f"batch_size: batch norm needs two images or more to take a variance of, got "
                f"{self.data.batch_size}; raise --batch-size or set --batch-norm none"
            )
        if self.schedule.warmup_steps > self.training.steps:
            raise UserError(
                f"warmup_steps: expected at most the number of steps ({self.training.steps}), "
                f"got {self.schedule.warmup_steps}; lower --warmup-steps or raise --steps"
            )

    def layers(self) -> tuple[Layer, ...]:
        """The network as a tuple of layer descriptions, input to logits."""
        return self.model.layers()
