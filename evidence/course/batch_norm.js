function compute() {
  const x = read("x", 4), dy = read("d", 4), n = 4, [gamma, beta, eps] = ["gamma", "beta", "eps"].map(k => read(k, 1)[0]);
  const mu = sum(x) / n, c = x.map(v => v - mu), variance = sum(c.map(v => v * v)) / n;
  const inverse = 1 / Math.sqrt(variance + eps), xhat = c.map(v => v * inverse);
  const g = dy.map(v => gamma * v), dvariance = sum(g.map((v, i) => v * c[i])) * -0.5 * inverse ** 3;
  const dmu = -inverse * sum(g);
  const one = g.map(v => v * inverse), two = g.map(() => dmu / n), three = c.map(v => dvariance * 2 * v / n);
  return {
    x, dy, "μ, the mean": [mu], "σ², the variance": [variance], "x̂": xhat, "y": xhat.map(v => gamma * v + beta),
    "dγ": [sum(dy.map((v, i) => v * xhat[i]))], "dβ": [sum(dy)], "g = dL/dx̂": g, "dL/dσ²": [dvariance],
    "dL/dμ": [dmu], "path 1: directly": one, "path 2: through μ": two, "path 3: through σ²": three,
    "dL/dx": one.map((v, i) => v + two[i] + three[i]),
  };
}
