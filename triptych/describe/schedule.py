"""Learning rates per step, computed once in float64 and handed to every backend as a table."""

from __future__ import annotations

import numpy as np

from triptych.describe.spec import Experiment


def learning_rates(experiment: Experiment, first: int, count: int) -> np.ndarray:
    """Rates of steps first .. first + count - 1 (counted from 0), float64 (count,).

    With peak a, warm-up of w steps and T steps in all, step s uses
    s < w:     a (s + 1) / w
    constant:  a
    step:      a factor^floor((s - w) / every)
    cosine:    f + (a - f) (1 + cos(pi (s - w) / (T - w))) / 2   (Loshchilov & Hutter 2017, SGDR, eq. 5)
    """
    schedule, peak = experiment.schedule, experiment.optimization.learning_rate
    steps = np.arange(first, first + count, dtype=np.float64)
    since = np.maximum(steps - schedule.warmup_steps, 0.0)
    if schedule.schedule == "constant":
        rates = np.full(count, peak)
    elif schedule.schedule == "step":
        rates = peak * schedule.decay_factor ** np.floor(since / schedule.decay_every)
    else:
        span = max(experiment.training.steps - schedule.warmup_steps, 1)
        share = np.minimum(since / span, 1.0)
        final = schedule.final_learning_rate
        rates = final + (peak - final) * (1.0 + np.cos(np.pi * share)) / 2.0
    if schedule.warmup_steps:
        rates = np.where(steps < schedule.warmup_steps, peak * (steps + 1) / schedule.warmup_steps, rates)
    return rates
