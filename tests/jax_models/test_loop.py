"""The compiled loop: the same bits in inner loops of a known length, an accelerator's, as in one loop."""

import numpy as np
import pytest

from jax_models.backend import CHUNK, JaxBackend
from tests.helpers import small


@pytest.mark.parametrize("cuts", [(2 * CHUNK + 7,), (CHUNK - 1, CHUNK, 8), (2 * CHUNK, 7)])
def test_inner_loops_change_no_bit(cuts):
    spec = small.experiment()
    data = small.data()
    one, chunked = small.started("jax", spec, data), small.started("jax", spec, data)
    assert isinstance(chunked, JaxBackend)
    chunked._chunked = True
    chunked.capacity = 2 * CHUNK + 7
    losses, first = [], 0
    for count in cuts:
        losses.append(chunked.train(small.steps(spec, data, first, count)).losses)
        first += count
    wanted = one.train(small.steps(spec, data, 0, first)).losses
    np.testing.assert_array_equal(np.concatenate(losses), wanted)
    assert one.export_state().parameters.keys() == chunked.export_state().parameters.keys()
    for key, theta in one.export_state().parameters.items():
        np.testing.assert_array_equal(chunked.export_state().parameters[key], theta)
