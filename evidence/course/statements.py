"""Every equation of docs/derivations.md in a line: number to statement, by section."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """Neighbouring equations."""

    title: str
    anchor: str
    """Of the heading in docs/derivations.md."""
    equations: dict[int, str]


def _numbered(first: int, text: str) -> dict[int, str]:
    lines = [line.strip() for line in text.strip().splitlines()]
    return dict(enumerate(lines, first))


SECTIONS = (
    Section(
        "Loss and softmax",
        "loss-and-softmax",
        _numbered(
            1,
            r"""
            L = -\sum_i t_i \log x_i
            \partial L/\partial x_i = -t_i / x_i
            \partial L/\partial x = [-t_1/x_1, \dots, -t_K/x_K]
            \partial L/\partial x = -t^\top \mathrm{diag}(1/x)
            x_k = e^{\tilde x_k} / \sum_j e^{\tilde x_j}
            \partial x/\partial \tilde x_i = [\partial x_1/\partial \tilde x_i, \dots, \partial x_K/\partial \tilde x_i]^\top
            x_k = g / S, \quad g = e^{\tilde x_k}, \quad S = \sum_j e^{\tilde x_j}
            \partial x_k/\partial \tilde x_i = (g' S - g S') / S^2, \quad k = i
            = (e^{\tilde x_k} S - e^{\tilde x_i} e^{\tilde x_k}) / S^2
            = e^{\tilde x_k} S / S^2 - e^{\tilde x_i} e^{\tilde x_k} / S^2
            = \mathrm{softmax}(\tilde x)_k - \mathrm{softmax}(\tilde x)_i\, \mathrm{softmax}(\tilde x)_k
            \partial x_k/\partial \tilde x_i = x_k - x_i x_k, \quad k = i
            \partial x_k/\partial \tilde x_i = (g' S - g S') / S^2, \quad k \ne i, \quad g' = 0
            = (0 \cdot S - e^{\tilde x_i} e^{\tilde x_k}) / S^2
            = -e^{\tilde x_i} e^{\tilde x_k} / S^2
            = -\mathrm{softmax}(\tilde x)_i\, \mathrm{softmax}(\tilde x)_k
            \partial x_k/\partial \tilde x_i = -x_i x_k, \quad k \ne i
            \partial x/\partial \tilde x = \mathrm{diag}(x) - x x^\top
            """,
        ),
    ),
    Section(
        "LeakyReLU and Linear",
        "linear-and-leakyrelu",
        _numbered(
            19,
            r"""
            x = \max(0, \tilde x) + a \min(0, \tilde x)
            \partial x/\partial \tilde x = [\partial x/\partial \tilde x_1, \dots, \partial x/\partial \tilde x_d]
            x_i = \tilde x_i \text{ if } \tilde x_i > 0, \quad a \tilde x_i \text{ if not}
            \partial x/\partial \tilde x_i = [\partial x_1/\partial \tilde x_i, \dots, \partial x_d/\partial \tilde x_i]^\top
            \partial x_i/\partial \tilde x_i = 1 \text{ if } \tilde x_i > 0, \quad a \text{ if not}
            \partial x/\partial \tilde x = \mathrm{diag}([\tilde x > 0] + a\,[\tilde x \le 0])
            \tilde x = W x + b
            \partial \tilde x/\partial x_k = [\partial \tilde x_1/\partial x_k, \dots, \partial \tilde x_d/\partial x_k]^\top
            \partial \tilde x/\partial x_k = w_k, \quad \partial \tilde x_i/\partial x_k = W_{ik}
            w_k = [W_{1k}, \dots, W_{dk}]^\top
            \partial \tilde x/\partial x = W
            \partial \tilde x_i/\partial W_{jk} = \partial/\partial W_{jk} \sum_m W_{im} x_m
            = [i = j]\, x_k
            \partial \tilde x_i/\partial W = e_i x^\top
            \partial \tilde x/\partial b = [\partial \tilde x/\partial b_1, \dots, \partial \tilde x/\partial b_d]
            \partial \tilde x/\partial b_i = e_i
            \partial \tilde x/\partial b = I
            """,
        ),
    ),
    Section(
        "The chain rule, layer by layer",
        "linear-and-leakyrelu",
        _numbered(
            36,
            r"""
            \partial L/\partial \tilde x^{(N)} = \partial L/\partial x^{(N)} (\mathrm{diag}(x) - x x^\top) = (x - t)^\top
            \partial L/\partial \tilde x^{(l)} = \partial L/\partial x^{(l)}\, \mathrm{diag}([\tilde x > 0] + a\,[\tilde x \le 0])
            \partial L/\partial x^{(l)} = \partial L/\partial \tilde x^{(l+1)}\, W^{(l+1)}
            \partial L/\partial W_{jk} = \sum_i \partial L/\partial \tilde x_i\; \partial \tilde x_i/\partial W_{jk}
            = \partial L/\partial \tilde x_j\; x_k
            \text{(empty in the report)}
            \partial L/\partial W_j = \partial L/\partial \tilde x_j\; x^\top
            \partial L/\partial W = (\partial L/\partial \tilde x)^\top x^\top
            \partial L/\partial b = \partial L/\partial \tilde x
            \partial L/\partial \tilde x^s = \partial L/\partial L^s\; \partial L^s/\partial \tilde x^s, \quad L = \frac1B \sum_s L^s
            = \frac1B\, \partial L^s/\partial \tilde x^s
            """,
        ),
    ),
    Section(
        "Batch normalization",
        "batch-normalization",
        _numbered(
            47,
            r"""
            \partial L/\partial \gamma = \sum_s \partial L/\partial y^s\; \hat x^s
            \partial L/\partial \beta = \sum_s \partial L/\partial y^s
            \partial L/\partial x^r = \sum_s \partial L/\partial y^s\; \partial y^s/\partial x^r
            = g^r\, \partial \hat x^r/\partial x^r + \partial L/\partial \mu\; \partial \mu/\partial x^r + \partial L/\partial \sigma^2\; \partial \sigma^2/\partial x^r
            g^s = \partial L/\partial \hat x^s = \gamma\, \partial L/\partial y^s
            \partial \hat x^s/\partial x^s = 1/\sqrt{\sigma^2 + \epsilon}
            \partial L/\partial \mu = \sum_s g^s\, \partial \hat x^s/\partial \mu + \partial L/\partial \sigma^2\; \partial \sigma^2/\partial \mu
            \partial \hat x^s/\partial \mu = -1/\sqrt{\sigma^2 + \epsilon}
            \partial \sigma^2/\partial \mu = -\frac2n \sum_s (x^s - \mu) = 0
            \partial L/\partial \sigma^2 = \sum_s g^s\, \partial \hat x^s/\partial \sigma^2
            \partial \hat x^s/\partial \sigma^2 = -\frac12 (x^s - \mu) (\sigma^2 + \epsilon)^{-3/2}
            \partial L/\partial \mu = -\sum_s g^s / \sqrt{\sigma^2 + \epsilon}
            \partial \mu/\partial x^r = 1/n
            \partial \sigma^2/\partial x^r = \frac2n (x^r - \mu)
            \partial L/\partial x^r \text{: the three paths added up}
            = g^r (\sigma^2 + \epsilon)^{-1/2} - \frac1n (\sigma^2 + \epsilon)^{-1/2} \sum_s g^s - \frac1n (\sigma^2 + \epsilon)^{-3/2} (x^r - \mu) \sum_s g^s (x^s - \mu)
            = \frac1n (\sigma^2 + \epsilon)^{-1/2} (n g^r - \sum_s g^s - \hat x^r \sum_s g^s \hat x^s)
            """,
        ),
    ),
    Section(
        "Convolution",
        "convolution",
        _numbered(
            64,
            r"""
            y_{o,i,j} = b_o + \sum_{c,k,l} W_{o,c,k,l}\, \bar x_{c,si+k,sj+l}
            Y = P M^\top + \mathbf{1} b^\top
            \partial y_{o',i,j}/\partial W_{o,c,k,l} = [o = o']\, \bar x_{c,si+k,sj+l}
            \partial L/\partial M = (\partial L/\partial Y)^\top P
            \partial L/\partial b_o = \sum_{i,j} \partial L/\partial y_{o,i,j}
            \partial y_{o,i,j}/\partial \bar x_{c,u,v} = W_{o,c,u-si,v-sj} \text{ inside the kernel, else } 0
            \partial L/\partial P = \partial L/\partial Y\; M
            \partial L/\partial \bar x_{c,u,v} = \text{the sum of } \partial L/\partial P \text{ over its copies}
            \partial L/\partial x_{c,h,w} = \partial L/\partial \bar x_{c,h+p,w+p}
            \partial L/\partial x \text{ at stride 1: a convolution of } \partial L/\partial y \text{ with the turned kernel}
            \partial L/\partial W_{\cdot,\cdot,k,l} = (\partial L/\partial Y)^\top X^{(k,l)}
            """,
        ),
    ),
    Section(
        "Max-pooling",
        "max-pooling",
        _numbered(
            75,
            r"""
            y_{c,i,j} = \max_{(k,l) \in K_{ij}} x_{c,si+k-p,sj+l-p}
            (k^*, l^*)_{c,i,j} = \text{the first place in reading order that attains it}
            \partial y_{c,i,j}/\partial x_{c,u,v} = [(u,v) = (si+k^*-p, sj+l^*-p)]
            \partial L/\partial x_{c,u,v} = \sum_{i,j} \partial L/\partial y_{c,i,j}\, [(u,v) = (si+k^*-p, sj+l^*-p)]
            """,
        ),
    ),
    Section(
        "The loss again: log-sum-exp and label smoothing",
        "loss-and-softmax",
        _numbered(
            79,
            r"""
            \log \sum_k e^{\tilde x_k} = m + \log \sum_k e^{\tilde x_k - m}, \quad m = \max_k \tilde x_k
            L = \sum_i t_i (\log \sum_k e^{\tilde x_k} - \tilde x_i)
            t = (1 - \alpha)\, e_y + \frac{\alpha}{K} \mathbf{1}, \quad \partial L/\partial \tilde x = x - t
            """,
        ),
    ),
    Section(
        "Winograd's convolution",
        "winograds-convolution",
        _numbered(
            82,
            r"""
            y_0 = m_1 + m_2 + m_3, \quad y_1 = m_2 - m_3 - m_4
            y = A^\top (B^\top d \odot G w)
            \partial L/\partial d = B ((A\, \partial L/\partial y\, A^\top) \odot G W G^\top) B^\top, \text{ and } \partial L/\partial W \text{ alike}
            """,
        ),
    ),
    Section(
        "Optimizers",
        "optimizers",
        _numbered(
            85,
            r"""
            \theta_t = \theta_{t-1} - \eta\, g_t
            b_t = \mu b_{t-1} + g_t, \quad \theta_t = \theta_{t-1} - \eta\, b_t
            \theta_t = \theta_{t-1} - \eta\, (g_t + \mu b_t)
            m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t
            v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2
            \hat m_t = m_t / (1 - \beta_1^t), \quad \hat v_t = v_t / (1 - \beta_2^t)
            \theta_t = \theta_{t-1} - \eta\, \hat m_t / (\sqrt{\hat v_t} + \epsilon)
            w_t = \max(w_{t-1}, v_t) \text{ in the place of } v_t
            g_t \leftarrow g_t + \lambda\, \theta_{t-1}
            \theta_t = (1 - \eta\lambda)\, \theta_{t-1} - \text{Adam's step}
            """,
        ),
    ),
    Section(
        "Initial values",
        "initial-values",
        _numbered(
            95,
            r"""
            \mathrm{Var}(y_i) = n\, w\, E[x^2]
            w = 2 / ((1 + a^2)\, n_{in})
            c = \sqrt{6 / (n_{in} + n_{out})}
            """,
        ),
    ),
)
ALL = {number: text for section in SECTIONS for number, text in section.equations.items()}

Anchors = dict[str, dict[str, str]]
PLACES: dict[int, Anchors] = {
    79: {
        "numpy_ref": {"loss.py": "log_p = shifted - np.log("},
        "jax_models": {"loss.py": "return optax.softmax_cross_entropy(s, t)"},
        "torch_models": {"loss.py": "return functional.cross_entropy("},
    },
    80: {
        "numpy_ref": {"loss.py": "def softmax_cross_entropy("},
        "jax_models": {"loss.py": "return optax.softmax_cross_entropy(s, t)"},
        "torch_models": {"loss.py": "return functional.cross_entropy("},
    },
    81: {
        "numpy_ref": {"loss.py": "t[np.arange(len(labels)), labels] += 1.0 - smoothing"},
        "jax_models": {"loss.py": "def targets("},
        "torch_models": {"loss.py": "def targets("},
    },
    82: {"jax_models": {"cpu/winograd.py": "np.array([[1, 1, 1, 0], [0, 1, -1, -1]])"}},
    83: {"jax_models": {"cpu/winograd.py": "def forward("}},
    84: {"jax_models": {"cpu/winograd.py": "def backward("}},
    85: {
        "numpy_ref": {"optim.py": "theta -= eta * g"},
        "jax_models": {"optim.py": "optax.sgd(scalars"},
        "torch_models": {"optim.py": "return torch.optim.SGD("},
    },
    86: {
        "numpy_ref": {"optim.py": "buffer *= o.momentum"},
        "jax_models": {"optim.py": "optax.sgd(scalars"},
        "torch_models": {"optim.py": "return torch.optim.SGD("},
    },
    87: {
        "numpy_ref": {"optim.py": "g = g + o.momentum * buffer if o.nesterov"},
        "jax_models": {"optim.py": "optax.sgd(scalars"},
        "torch_models": {"optim.py": "return torch.optim.SGD("},
    },
    88: {
        "numpy_ref": {"optim.py": "m += (1.0 - o.beta1) * g"},
        "jax_models": {"optim.py": "m = optax.tree.update_moment(g, state.mu"},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    89: {
        "numpy_ref": {"optim.py": "v += (1.0 - o.beta2) * (g * g)"},
        "jax_models": {"optim.py": "v = optax.tree.update_moment(g, state.nu"},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    90: {
        "numpy_ref": {"optim.py": "theta -= eta / (1.0 - o.beta1**t) * m"},
        "jax_models": {"optim.py": 'scalars |= {"correction1"'},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    91: {
        "numpy_ref": {"optim.py": "theta -= eta / (1.0 - o.beta1**t) * m"},
        "jax_models": {"optim.py": "direction = jax.tree.map("},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    92: {
        "numpy_ref": {"optim.py": "v = np.maximum(slots"},
        "jax_models": {"optim.py": "largest = jax.tree.map(jnp.maximum"},
        "torch_models": {"optim.py": "amsgrad=o.amsgrad"},
    },
    93: {
        "numpy_ref": {"optim.py": 'if o.weight_decay and o.optimizer == "adam"'},
        "jax_models": {"optim.py": "order = [_decay(decay), scale_by_adam"},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    94: {
        "numpy_ref": {"optim.py": "theta *= 1.0 - eta * o.weight_decay"},
        "jax_models": {"optim.py": "order.reverse()"},
        "torch_models": {"optim.py": "return (torch.optim.Adam if"},
    },
    96: {"triptych": {"describe/init.py": "gain = math.sqrt(2.0 / (1.0 + experiment.model.slope**2))"}},
    97: {"triptych": {"describe/init.py": "bound = math.sqrt(6.0 / (fan_in"}},
}
"""Where equations without a tag in the code are carried out: room and file to a piece of the line."""
