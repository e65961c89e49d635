"""Bugs of optimizers."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import edit

GROUP = "optimizers"
NUMPY, JAX, TORCH = (
    partial(edit, f"{package}.optim") for package in ("numpy_ref", "jax_models", "torch_models")
)
OPTIMIZER, THETA = ("optimizer",), ("theta",)

NUMPY_DECAY = (
    '    if o.weight_decay and o.optimizer == "adam":\n        g = g + o.weight_decay * theta\n'
    '    if o.weight_decay and o.optimizer == "adamw":\n        theta *= 1.0 - eta * o.weight_decay\n'
)
NUMPY_ADDED, NUMPY_SHRUNK = ("    if o.weight_decay:\n        " + line + "\n" for line in
                             ("g = g + o.weight_decay * theta", "theta *= 1.0 - eta * o.weight_decay"))  # fmt: skip
NUMPY_STEP = "    theta -= eta / (1.0 - o.beta1**t) * m / root"
NUMPY_ROOT = "root = np.sqrt(v / (1.0 - o.beta2**t))"
NUMPY_NESTEROV = "g = g + o.momentum * buffer if o.nesterov else buffer"
JAX_CORRECTIONS = '"correction1": 1.0 - optimization.beta1**t, "correction2": 1.0 - optimization.beta2**t'
JAX_FIRST, JAX_LAST = (f'if decays and optimization.optimizer {what} "adamw":' for what in ("!=", "=="))
JAX_DECAYED = "        parts.append(optax.add_decayed_weights(decay))\n"
JAX_TRACE = "parts.append(optax.trace(optimization.momentum, optimization.nesterov))"
JAX_DIRECTION = "m / c1 / (jnp.sqrt(v / c2) + o.epsilon)"
TORCH_KIND = 'kind = torch.optim.Adam if o.optimizer == "adam" else torch.optim.AdamW'


def _around(before: str, after: str = "") -> tuple[str, str]:
    """torch's optimizer with something done to each theta before and after the step that it takes."""
    loop = (
        '            for group in self.param_groups:\n                for theta in group["params"]:\n'
        "                    slots = self.state[theta]\n                    "
    )
    return "return kind(", (
        "class Around(kind):\n        @torch.no_grad()\n        def step(self, closure=None):\n"
        + (f"{loop}{before}\n" if before else "")
        + "            super().step()\n"
        + (f"{loop}{after}\n" if after else "")
        + "\n    return Around("
    )


IN_LOOP = "\n                    "
ZEROS = IN_LOOP.join((
    'names = ("first_moment", "second_moment", "largest_second_moment")[: 2 + o.amsgrad]',
    "if not slots:", "    zeros = dict.fromkeys(names, torch.zeros_like(theta))", "    set_slots(self, theta, zeros, %s)",
    "    slots = self.state[theta]",
))  # fmt: skip
"""The first step finds zeros, and so many updates done."""

# fmt: off
BUGS = (
    Bug("adam-counts-from-2", "bias corrections of the next step", OPTIMIZER, THETA, "adam",
        numpy=NUMPY("_adam(theta[part], g[part], own, o, eta, t)", "_adam(theta[part], g[part], own, o, eta, t + 1)"),
        jax=JAX("np.arange(first + 1, first + len(learning_rates) + 1,", "np.arange(first + 2, first + len(learning_rates) + 2,"),
        torch=TORCH(*_around(ZEROS % 1))),
    Bug("adam-uncorrected", "no bias correction", OPTIMIZER, THETA, "adam",
        numpy=NUMPY(NUMPY_ROOT, "root = np.sqrt(v)", NUMPY_STEP, "    theta -= eta * m / root"),
        jax=JAX(JAX_CORRECTIONS, '"correction1": np.ones_like(t), "correction2": np.ones_like(t)'),
        torch=TORCH(*_around(ZEROS % "10**9"))),
    Bug("adam-float32-correction", "1 - beta^t computed in float32", OPTIMIZER, THETA, "adam",
        numpy=NUMPY(NUMPY_ROOT, "root = np.sqrt(v / float(1 - np.float32(o.beta2) ** np.float32(t)))",
                    NUMPY_STEP, "    theta -= eta / float(1 - np.float32(o.beta1) ** np.float32(t)) * m / root"),
        jax=JAX('t = np.arange(first + 1, first + len(learning_rates) + 1, dtype=np.float64)',
                't = np.arange(first + 1, first + len(learning_rates) + 1, dtype=np.float32)',
                JAX_CORRECTIONS, '"correction1": 1 - np.float32(optimization.beta1) ** t, '
                '"correction2": 1 - np.float32(optimization.beta2) ** t'),
        torch=TORCH(*_around(IN_LOOP.join((
            't = float(slots.get("step", 0)) + 1',
            "c1, c2 = (1.0 - beta**t for beta in (o.beta1, o.beta2))",
            "r1, r2 = (c / float(1 - torch.tensor(beta) ** t) for c, beta in ((c1, o.beta1), (c2, o.beta2)))",
            'if theta is group["params"][0]:  # as m / r1 / (sqrt(v / r2) + eps) would be',
            '    group["lr"], group["eps"] = group["lr"] * r1 / r2**0.5, o.epsilon / r2**0.5'))))),
    Bug("adam-eps-inside-root", "sqrt(v + eps) for sqrt(v) + eps", OPTIMIZER, THETA, "adam",
        numpy=NUMPY(NUMPY_ROOT + "\n    root += o.epsilon", "root = np.sqrt(v / (1.0 - o.beta2**t) + o.epsilon)"),
        jax=JAX(JAX_DIRECTION, "m / c1 / jnp.sqrt(v / c2 + o.epsilon)"),
        torch=TORCH(*_around(ZEROS % 0 + IN_LOOP + 'eps, zero = o.epsilon * (1.0 - o.beta2 ** (float(slots["step"]) + 1)), torch.zeros(())'
                             + IN_LOOP + 'slots["exp_avg_sq"] += eps / o.beta2  # after the step: v + eps (1 - beta2^t)'
                             + IN_LOOP + 'slots.get("max_exp_avg_sq", zero).add_(eps)',
                             'eps, zero = o.epsilon * (1.0 - o.beta2 ** float(slots["step"])), torch.zeros(())'
                             + IN_LOOP + 'slots["exp_avg_sq"] -= eps' + IN_LOOP + 'slots.get("max_exp_avg_sq", zero).sub_(eps)'),
                    "o.epsilon,\n        weight_decay", "0.0,\n        weight_decay")),
    Bug("adam-betas-swapped", "beta1 and beta2 change places", OPTIMIZER, ("first_moment",), "adam",
        numpy=NUMPY("    m *= o.beta1\n    m += (1.0 - o.beta1) * g\n    v *= o.beta2\n    v += (1.0 - o.beta2) * (g * g)\n",
                    "    m *= o.beta2\n    m += (1.0 - o.beta2) * g\n    v *= o.beta1\n    v += (1.0 - o.beta1) * (g * g)\n",
                    NUMPY_ROOT, "root = np.sqrt(v / (1.0 - o.beta1**t))",
                    NUMPY_STEP, "    theta -= eta / (1.0 - o.beta2**t) * m / root"),
        jax=JAX("o.beta1 * m + (1.0 - o.beta1) * g", "o.beta2 * m + (1.0 - o.beta2) * g",
                "o.beta2 * v + (1.0 - o.beta2) * (g * g)", "o.beta1 * v + (1.0 - o.beta1) * (g * g)",
                JAX_CORRECTIONS, '"correction1": 1.0 - optimization.beta2**t, "correction2": 1.0 - optimization.beta1**t'),
        torch=TORCH("(o.beta1, o.beta2)", "(o.beta2, o.beta1)")),
    Bug("adam-decoupled", "AdamW's weight decay in Adam", OPTIMIZER, THETA, "adam, weight decay",
        numpy=NUMPY(NUMPY_DECAY, NUMPY_SHRUNK),
        jax=JAX(JAX_FIRST, 'if decays and optimization.optimizer == "sgd":', JAX_LAST,
                'if decays and optimization.optimizer != "sgd":'),
        torch=TORCH(TORCH_KIND, "kind = torch.optim.AdamW")),
    Bug("adamw-coupled", "AdamW adds its decay to the gradient, as Adam", OPTIMIZER, THETA, "adamw",
        numpy=NUMPY(NUMPY_DECAY, NUMPY_ADDED),
        jax=JAX(JAX_FIRST, "if decays:", f"    {JAX_LAST}\n{JAX_DECAYED}", ""),
        torch=TORCH(TORCH_KIND, "kind = torch.optim.Adam")),
    Bug("adamw-decay-after", "AdamW shrinks the parameter after the step", OPTIMIZER, THETA, "adamw",
        numpy=NUMPY(NUMPY_DECAY, NUMPY_DECAY[: NUMPY_DECAY.index("\n    if")] + "\n",
                    NUMPY_STEP, NUMPY_STEP + '\n    if o.optimizer == "adamw":\n        theta *= 1.0 - eta * o.weight_decay'),
        jax=JAX(f"    {JAX_LAST}\n{JAX_DECAYED}", "", "    parts.append(_descend())\n",
                "    parts.append(_descend())\n\n    def shrink(g, state, theta, *, scalars, **_):\n        "
                'kept = 1.0 - scalars["learning_rate"] * decay\n        '
                "return jax.tree.map(lambda u, theta: (theta + u) * kept - theta, g, theta), state\n\n    "
                f"{JAX_LAST}\n        "
                "parts.append(optax.GradientTransformationExtraArgs(lambda theta: optax.EmptyState(), shrink))\n"),
        torch=TORCH(*_around("", 'theta *= 1.0 - group["lr"] * (o.weight_decay if o.optimizer == "adamw" else 0.0)'),
                    "o.epsilon,\n        weight_decay=o.weight_decay",
                    'o.epsilon,\n        weight_decay=o.weight_decay if o.optimizer == "adam" else 0.0')),
    Bug("amsgrad-corrected-first", "AMSGrad keeps the largest second moment after its correction, as optax does",
        OPTIMIZER, ("theta", "largest_second_moment"), "amsgrad, weight decay",
        numpy=NUMPY('v = np.maximum(slots["largest_second_moment"], v, out',
                    'v = np.maximum(slots["largest_second_moment"], v / (1.0 - o.beta2**t), out',
                    NUMPY_ROOT, "root = np.sqrt(v if o.amsgrad else v / (1.0 - o.beta2**t))"),
        jax=JAX("jax.tree.map(jnp.maximum, state.largest, v)", "jax.tree.map(lambda w, v: jnp.maximum(w, v / c2), state.largest, v)",
                JAX_DIRECTION, "m / c1 / (jnp.sqrt(v if o.amsgrad else v / c2) + o.epsilon)"),
        torch=TORCH(*_around('if o.amsgrad and slots:\n                        slots["max_exp_avg_sq"] *= '
                             '1.0 - o.beta2 ** (float(slots["step"]) + 1)',
                             'if o.amsgrad:\n                        slots["max_exp_avg_sq"] /= '
                             '1.0 - o.beta2 ** float(slots["step"])'))),
    Bug("sgd-dampened", "momentum takes (1 - m) g for g", OPTIMIZER, ("momentum",), "sgd, momentum",
        numpy=NUMPY("buffer += g", "buffer += (1.0 - o.momentum) * g"),
        jax=JAX(JAX_TRACE, f"parts.append(optax.scale(1.0 - optimization.momentum))\n        {JAX_TRACE}"),
        torch=TORCH("            o.momentum,\n", "            o.momentum,\n            0.0 if o.nesterov else o.momentum,\n")),
    Bug("sgd-nesterov-left-out", "plain momentum for Nesterov's", OPTIMIZER, THETA, "sgd, Nesterov",
        numpy=NUMPY(NUMPY_NESTEROV, "g = buffer"),
        jax=JAX(JAX_TRACE, "parts.append(optax.trace(optimization.momentum))"),
        torch=TORCH("nesterov=o.nesterov", "nesterov=False")),
)
