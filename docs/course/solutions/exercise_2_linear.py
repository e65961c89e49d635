"""Linear, eq. 25, 38, 43 and 44."""


def forward(x, W, b):
    return x @ W.T + b, (x, W)


def backward(dy, cache):
    x, W = cache
    dx = dy @ W
    dW = dy.T @ x
    db = dy.sum(axis=0)
    return dx, dW, db
