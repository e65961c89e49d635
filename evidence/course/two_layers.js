function compute() {
  const x = read("x", 2), w = read("w", 4), v = read("v", 4), t = read("t", 2), a = read("a", 1)[0];
  const times = (m, c) => [m[0] * c[0] + m[1] * c[1], m[2] * c[0] + m[3] * c[1]];
  const back = (r, m) => [r[0] * m[0] + r[1] * m[2], r[0] * m[1] + r[1] * m[3]];
  const outer = (r, c) => [r[0] * c[0], r[0] * c[1], r[1] * c[0], r[1] * c[1]];
  const z = times(w, x), h = z.map(q => q > 0 ? q : a * q), s = times(v, h);
  const top = Math.max(...s), e = s.map(q => Math.exp(q - top)), total = sum(e), p = e.map(q => q / total);
  const L = [sum(t.map((q, i) => q * (Math.log(total) + top - s[i])))];
  const ds = p.map((q, i) => sum(t) * q - t[i]), dh = back(ds, v), dz = dh.map((q, i) => z[i] > 0 ? q : a * q);
  return {
    x, W1: w, W2: v, t, z, h, s, p, L, "dL/ds": ds, "dL/dW2": outer(ds, h), "dL/dh": dh, "dL/dz": dz,
    "dL/dW1": outer(dz, x), "dL/dx": back(dz, w),
  };
}
