"""The exercises in order; their numbers count from 1."""

from triptych.course.catalogue import dense, images, loss, norm, single

EXERCISES = (
    loss.CROSS_ENTROPY,
    dense.LINEAR,
    dense.LEAKY_RELU,
    norm.BATCH_NORM,
    images.CONVOLUTION,
    images.MAX_POOL,
    single.ADAM,
    single.STANDARD_ERROR,
)
