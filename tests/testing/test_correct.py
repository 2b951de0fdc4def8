"""Every correct step of the park passes every check: no false findings.

Of time-major batches and of statistics of microbatches, whose rows have an order, there are none:
users leave out ``"row order"`` for those.
"""

from __future__ import annotations

import correct_equinox  # noqa: F401
import correct_jaxdl  # noqa: F401
import correct_linen  # noqa: F401
import correct_nnx  # noqa: F401
import correct_optax  # noqa: F401
import correct_plain  # noqa: F401
import jax
import pytest
from zoo import PARK, small_programs_cached

from jaxdl.testing import prove

# Half of a proof's time is the run operation by operation; these are of the most kinds.
EAGER = {
    "a_filtered_step_on_model_and_optimizer_state",
    "a_recurrent_network_over_a_scan",
    "a_shard_mapped_step_that_averages_gradients",
    "computing_in_bfloat16_with_masters_in_float32",
    "dropout_inside_remat_and_a_custom_gradient",
    "dropout_whose_stream_counts",
}


@pytest.fixture(autouse=True)
def strict_numerics():
    """Users add biases of one axis to activations of two."""
    with jax.numpy_rank_promotion("allow"), small_programs_cached():
        yield


def test_there_are_enough_steps():
    assert len(PARK) >= 50
    assert PARK.keys() >= EAGER


@pytest.mark.slow
@pytest.mark.parametrize("name", PARK)
def test_nothing_is_found_in_a_correct_step(name):
    options = PARK[name]()
    skip = [*options.pop("skip", []), *([] if name in EAGER else ["eager"])]
    report = prove(devices=(1, 2), skip=skip, **options)
    assert report.ok, str(report)
