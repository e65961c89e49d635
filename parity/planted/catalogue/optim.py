"""Bugs of optimizers."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

# fmt: off
GROUP = "optimizers"
NUMPY, JAX, TORCH = (partial(edit, f"{name}.optim") for name in ("numpy_ref", "jax_models", "torch_models"))
FAST = partial(edit, "numpy_ref.fast")
OPTIMIZER, THETA = ("optimizer",), ("theta",)

NUMPY_COUPLED = '    if o.weight_decay and o.optimizer == "adam":\n        g = g + o.weight_decay * theta\n'
NUMPY_DECOUPLED = (
    '    if o.weight_decay and o.optimizer == "adamw":\n        theta *= 1.0 - eta * o.weight_decay\n'
)
NUMPY_STEP = "theta -= eta / (1.0 - o.beta1**t) * m / (np.sqrt(v / (1.0 - o.beta2**t)) + o.epsilon)"
NUMPY_MOMENTS = "m *= o.beta1\nm += (1.0 - o.beta1) * g\nv *= o.beta2\nv += (1.0 - o.beta2) * (g * g)"
JAX_CORRECTIONS = '"correction1": 1.0 - o.beta1**t, "correction2": 1.0 - o.beta2**t'
JAX_DIRECTION = "m / c1 / (jnp.sqrt(v / c2) + o.epsilon)"
JAX_ORDER = 'if o.optimizer == "adamw":\n    order.reverse()'
JAX_CHAIN = 'return optax.chain(*order, optax.scale_by_learning_rate(scalars["learning_rate"]))'
TORCH_KIND = '(torch.optim.Adam if o.optimizer == "adam" else torch.optim.AdamW)('


def _swapped(text: str) -> str:
    """beta1 and beta2 in each other's place."""
    return text.replace("beta1", "beta_").replace("beta2", "beta1").replace("beta_", "beta2")


def _around(before: str, after: str = "") -> tuple[str, str]:
    """torch's own step, with something done to each `theta` and its `slots` before and after it."""

    def each(code: str) -> str:
        loop = 'for theta in (theta for group in self.param_groups for theta in group["params"]):\n'
        lines = ["slots = self.state[theta]", *code.rstrip("\n").split("\n")]
        return 8 * " " + loop + "".join(f"{12 * ' '}{line}\n" for line in lines) if code else ""

    step = f"{each(before)}        super().step()\n{each(after)}"
    head = f"class Around{TORCH_KIND[:-1]}:\n    @torch.no_grad()\n    def step(self, closure=None):\n"
    return f"return {TORCH_KIND}", f"{head}{step}\nreturn Around("


ZEROS = (
    'names = ("first_moment", "second_moment", "largest_second_moment")[: 2 + o.amsgrad]\n'
    "if not slots:\n    set_slots(self, theta, dict.fromkeys(names, torch.zeros_like(theta)), %s)\n"
)
"""The first step finds zeros, and so many updates done."""

BUGS = (
    Bug("optimizer-first-block-only", "of a large parameter each pass begins at the first block", OPTIMIZER, THETA,
        "sgd, a large parameter", numpy=FAST("part = slice(first, first + rows)", "part = slice(first + rows)")),
    Bug("adam-counts-from-2", "bias corrections of the next step", OPTIMIZER, THETA, "adam",
        numpy=NUMPY("theta, g, slots, o, eta, t)\n", "theta, g, slots, o, eta, t + 1)\n"),
        jax=JAX("np.arange(first + 1, first + len(learning_rates) + 1,", "np.arange(first + 2, first + len(learning_rates) + 2,"),
        torch=TORCH(*_around(ZEROS % 1))),
    Bug("adam-uncorrected", "no bias correction", OPTIMIZER, THETA, "adam",
        numpy=NUMPY(NUMPY_STEP, "theta -= eta * m / (np.sqrt(v) + o.epsilon)"),
        jax=JAX(JAX_CORRECTIONS, '"correction1": np.ones_like(t), "correction2": np.ones_like(t)'),
        torch=TORCH(*_around(ZEROS % "10**9"))),
    Bug("adam-float32-correction", "1 - beta^t computed in float32", OPTIMIZER, THETA, "adam",
        numpy=NUMPY(NUMPY_STEP, "c1, c2 = (float(1 - np.float32(beta) ** np.float32(t)) for beta in (o.beta1, o.beta2))\n"
                    "theta -= eta / c1 * m / (np.sqrt(v / c2) + o.epsilon)"),
        jax=JAX("dtype=np.float64)", "dtype=np.float32)", JAX_CORRECTIONS,
                '"correction1": 1 - np.float32(o.beta1) ** t, "correction2": 1 - np.float32(o.beta2) ** t'),
        torch=TORCH(*_around('t, group = float(slots.get("step", 0)) + 1, self.param_groups[0]\n'
                             "c1, c2 = ((1.0 - b**t) / float(1 - torch.tensor(b) ** t) for b in (o.beta1, o.beta2))\n"
                             'if theta is group["params"][0]:  # as m / c1 / (sqrt(v / c2) + eps) would be\n'
                             '    group["lr"], group["eps"] = group["lr"] * c1 / c2**0.5, o.epsilon / c2**0.5'))),
    Bug("adam-eps-inside-root", "sqrt(v + eps) for sqrt(v) + eps", OPTIMIZER, THETA, "adam",
        numpy=NUMPY("(np.sqrt(v / (1.0 - o.beta2**t)) + o.epsilon)", "np.sqrt(v / (1.0 - o.beta2**t) + o.epsilon)"),
        jax=JAX(JAX_DIRECTION, "m / c1 / jnp.sqrt(v / c2 + o.epsilon)"),
        torch=TORCH(*_around(ZEROS % 0 + 'slots = self.state[theta]\neps = o.epsilon * (1.0 - o.beta2 ** (float(slots["step"]) + 1))\n'
                             'slots["exp_avg_sq"] += eps / o.beta2  # v + eps (1 - beta2^t) after the step\n'
                             'if o.amsgrad:\n    slots["max_exp_avg_sq"] += eps',
                             'for name in ("exp_avg_sq", "max_exp_avg_sq")[: 1 + o.amsgrad]:\n'
                             '    slots[name] -= o.epsilon * (1.0 - o.beta2 ** float(slots["step"]))'),
                    "o.epsilon,\nweight_decay", "0.0,\nweight_decay")),
    Bug("adam-betas-swapped", "beta1 and beta2 change places", OPTIMIZER, ("first_moment",), "adam",
        numpy=NUMPY(NUMPY_MOMENTS, _swapped(NUMPY_MOMENTS), NUMPY_STEP, _swapped(NUMPY_STEP)),
        jax=JAX("(g, state.mu, o.beta1, 1)", "(g, state.mu, o.beta2, 1)", "(g, state.nu, o.beta2, 2)",
                "(g, state.nu, o.beta1, 2)", JAX_CORRECTIONS, _swapped(JAX_CORRECTIONS)),
        torch=TORCH("(o.beta1, o.beta2)", "(o.beta2, o.beta1)")),
    Bug("adam-decoupled", "AdamW's weight decay in Adam", OPTIMIZER, THETA, "adam, weight decay",
        numpy=NUMPY(NUMPY_COUPLED + NUMPY_DECOUPLED, NUMPY_DECOUPLED.replace(' and o.optimizer == "adamw"', "")),
        jax=JAX(JAX_ORDER, "order.reverse()"),
        torch=TORCH(TORCH_KIND, "torch.optim.AdamW(")),
    Bug("adamw-coupled", "AdamW adds its decay to the gradient, as Adam", OPTIMIZER, THETA, "adamw",
        numpy=NUMPY(NUMPY_COUPLED + NUMPY_DECOUPLED, NUMPY_COUPLED.replace(' and o.optimizer == "adam"', "")),
        jax=JAX(f"{JAX_ORDER}\n{JAX_CHAIN}", JAX_CHAIN),
        torch=TORCH(TORCH_KIND, "torch.optim.Adam(")),
    Bug("adamw-decay-after", "AdamW shrinks the parameter after the step", OPTIMIZER, THETA, "adamw",
        numpy=NUMPY(NUMPY_DECOUPLED, "", f"    {NUMPY_STEP}\n", f"    {NUMPY_STEP}\n{NUMPY_DECOUPLED}"),
        jax=JAX(f"{JAX_ORDER}\n{JAX_CHAIN}", 'step, kept = optax.scale_by_learning_rate(scalars["learning_rate"]), 1.0 - '
                'scalars["learning_rate"] * decay\n'
                "shrink = optax.stateless(\n    lambda g, theta: jax.tree.map(lambda u, theta: (theta + u) * kept - theta, g, theta)\n)\n"
                'return optax.chain(order[1], step, shrink) if o.optimizer == "adamw" else optax.chain(*order, step)'),
        torch=TORCH(*_around("", 'if o.optimizer == "adamw":\n    theta *= 1.0 - self.param_groups[0]["lr"] * o.weight_decay'),
                    "o.epsilon,\nweight_decay=o.weight_decay",
                    'o.epsilon,\nweight_decay=o.weight_decay if o.optimizer == "adam" else 0.0')),
    Bug("amsgrad-corrected-first", "AMSGrad keeps the largest second moment after its correction, as optax does",
        OPTIMIZER, ("theta", "largest_second_moment"), "amsgrad, weight decay",
        numpy=NUMPY('["largest_second_moment"], v, out', '["largest_second_moment"], v / (1.0 - o.beta2**t), out',
                    "np.sqrt(v / (1.0 - o.beta2**t))", "np.sqrt(v if o.amsgrad else v / (1.0 - o.beta2**t))"),
        jax=JAX("(jnp.maximum, state.nu_max, v)", '(lambda w, v: jnp.maximum(w, v / scalars["correction2"]), state.nu_max, v)',
                JAX_DIRECTION, "m / c1 / (jnp.sqrt(v if o.amsgrad else v / c2) + o.epsilon)"),
        torch=TORCH(*_around('if o.amsgrad and slots:\n    slots["max_exp_avg_sq"] *= 1.0 - o.beta2 ** (float(slots["step"]) + 1)',
                             'if o.amsgrad:\n    slots["max_exp_avg_sq"] /= 1.0 - o.beta2 ** float(slots["step"])'))),
    Bug("sgd-dampened", "momentum takes (1 - m) g for g", OPTIMIZER, ("momentum",), "sgd, momentum",
        numpy=NUMPY("buffer += g", "buffer += (1.0 - o.momentum) * g"),
        jax=JAX("chain(_decay(decay), optax.sgd(", "chain(_decay(decay), optax.scale(1.0 - o.momentum if o.momentum else 1.0), optax.sgd("),
        torch=TORCH("o.learning_rate, o.momentum, ", "o.learning_rate, o.momentum, 0.0 if o.nesterov else o.momentum, ")),
    Bug("sgd-nesterov-left-out", "plain momentum for Nesterov's", OPTIMIZER, THETA, "sgd, Nesterov",
        numpy=NUMPY("g = g + o.momentum * buffer if o.nesterov else buffer", "g = buffer"),
        jax=JAX(", o.momentum or None, o.nesterov)", ", o.momentum or None)"),
        torch=TORCH("nesterov=o.nesterov", "nesterov=False")),
    Bug("optimizer-gradient-in-place", "weight decay is added into the gradient itself", OPTIMIZER, ("g",), "sgd, momentum",
        numpy=NUMPY("    if o.weight_decay:\n        g = g + o.weight_decay * theta", "    if o.weight_decay:\n        g += o.weight_decay * theta")),
    Bug("sgd-buffer-is-the-step", "the step is formed in the momentum buffer", OPTIMIZER, ("momentum",), "sgd, Nesterov",
        numpy=NUMPY("g = g + o.momentum * buffer if o.nesterov else buffer",
                    "g = np.add(g, o.momentum * buffer, out=buffer) if o.nesterov else buffer")),
    Bug("adam-moments-not-kept", "the second moment is computed but not stored", OPTIMIZER, ("second_moment",), "adam",
        numpy=NUMPY("v *= o.beta2", "v = o.beta2 * v")),
    Bug("amsgrad-largest-not-kept", "the largest second moment is not stored", OPTIMIZER, ("largest_second_moment",),
        "amsgrad, weight decay",
        numpy=NUMPY('v, out=slots["largest_second_moment"])', "v)"),
        jax=JAX("return direction, Moments(m, v, largest)", "return direction, Moments(m, v, state.nu_max)")),
    Bug("block-without-its-start", "every block of a large parameter starts at 0", ("model",), ("updated", "first_moment"),
        numpy=FAST("part = slice(first, first + rows)", "part = slice(0, rows)")),
    Bug("block-one-row-short", "a block ends one row early", ("model",), ("updated", "first_moment"),
        numpy=FAST("part = slice(first, first + rows)", "part = slice(first, first + rows - 1)")),
)
