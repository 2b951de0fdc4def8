"""What a value depends on is followed through loops, round after round."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdl.testing.dataflow import flow_of


def inputs_of(function, *arguments) -> list[set[int]]:
    """The arguments that each output depends on."""
    flow = flow_of(jax.make_jaxpr(function)(*arguments))
    return [
        {index for index in range(len(arguments)) if value.inputs >> index & 1}
        for value in flow.outputs
    ]


def test_what_a_scan_carries_arrives_rounds_later():
    def scanned(constant, first, second, rows):
        def body(carry, row):
            return (carry[1], constant), row * 2.0

        (last, _), made = jax.lax.scan(body, (first, second), rows)
        return last, made

    # The constant reaches the first carry by way of the second.
    assert inputs_of(scanned, 1.0, 2.0, 3.0, jnp.ones(4)) == [{0, 2}, {3}]


def test_rows_are_told_from_constants_of_their_shape():
    def scanned(constant, carry, rows):
        return jax.lax.scan(lambda c, row: (c + jnp.sum(constant), row), carry, rows)

    assert inputs_of(scanned, jnp.ones(3), 0.0, jnp.ones((3, 3))) == [{0, 1}, {2}]


def test_a_while_loop_carries_too_and_may_make_no_round():
    def looped(constant, first, second):
        def body(carry):
            return carry[1], constant, carry[2] + 1

        return jax.lax.while_loop(lambda c: c[2] < 3, body, (first, second, 0))[0]

    assert inputs_of(looped, 1.0, 2.0, 3.0) == [{0, 1, 2}]
