"""Where a value first goes bad: by primitive, layer, line, row and microbatch."""

from __future__ import annotations

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import ConfigError
from jaxdl.replay import Finding, find_nonfinite

ROWS = 6


def column(*bad: tuple[int, float]) -> jax.Array:
    """``[ROWS, 2]`` of 2, but for one entry of some rows."""
    x = np.full((ROWS, 2), 2.0, np.float32)
    for row, value in bad:
        x[row, 1] = value
    return jnp.asarray(x)


def found(fn, *args, rows: int | None = ROWS) -> Finding:
    finding = find_nonfinite(fn, *args, rows=rows)
    assert finding is not None
    return finding


def test_finite_function_has_no_finding():
    assert find_nonfinite(jnp.log, column(), rows=ROWS) is None
    assert find_nonfinite(lambda x, k: (x, k), column(), jax.random.key(0)) is None
    assert find_nonfinite(lambda n: n + 1, 3) is None


def test_log_of_zero_comes_before_the_nan_it_leads_to():
    finding = found(lambda x: jnp.log(x) * 0.0, column((4, 0.0)))
    assert (finding.kind, finding.source, finding.primitive) == ("inf", "equation", "log")
    assert (finding.shape, finding.dtype, finding.count) == ((ROWS, 2), "float32", 1)
    assert finding.rows == (4,)
    assert finding.direction is None
    assert finding.layer == finding.path == ""
    (operand,) = finding.operands
    assert (operand.low, operand.high, operand.entry) == (0.0, 2.0, 0.0)


def test_file_and_line_are_those_of_the_caller():
    def fn(x):
        return jnp.where(x > 1.0, jnp.log(x - 2.0), x)

    lines, start = inspect.getsourcelines(fn)
    line = start + next(i for i, text in enumerate(lines) if "return" in text)
    where = found(fn, column()).where
    assert where is not None
    file, _, number = where.rpartition(":")
    assert Path(file).resolve() == Path(__file__).resolve()
    assert int(number) == line


def test_sqrt_at_zero_is_finite_forward_and_bad_backward():
    def loss(x):
        return jnp.sum(jnp.sqrt(x))

    assert find_nonfinite(loss, column((3, 0.0))) is None
    finding = found(jax.value_and_grad(loss), column((3, 0.0)))
    assert (finding.kind, finding.primitive, finding.direction) == ("inf", "div", "backward")
    assert finding.rows == (3,)


def test_masked_in_the_loss_but_not_in_its_gradient():
    """The known trap of ``where``: 0 times the infinite derivative of what it leaves out."""

    def loss(x):
        return jnp.sum(jnp.where(x > 0.0, jnp.log(x), 0.0))

    finding = found(jax.value_and_grad(loss), column((1, 0.0)))
    assert (finding.kind, finding.primitive, finding.direction) == ("nan", "div", "backward")
    assert [operand.entry for operand in finding.operands] == [0.0, 0.0]
    assert finding.rows == (1,)


def test_overflow():
    finding = found(lambda x: jnp.sum(jnp.exp(x), axis=1), column((0, 90.0), (5, 100.0)))
    assert (finding.kind, finding.primitive, finding.rows) == ("inf", "exp", (0, 5))
    assert finding.operands[0].high == 100.0


def test_zero_by_zero_in_one_row():
    finding = found(lambda x: x / x.sum(axis=1, keepdims=True), column((2, -2.0)).at[2].set(0.0))
    assert (finding.kind, finding.primitive, finding.rows) == ("nan", "div", (2,))
    assert finding.operands[1].smallest == 0.0


def test_rows_of_the_first_value_with_a_batch_axis():
    def fn(x):
        scale = 1.0 / (jnp.min(x) - 2.0)
        return jnp.where(x > 2.0, x * scale, 1.0)

    finding = found(fn, column((1, 3.0), (4, 7.0)))
    assert (finding.primitive, finding.shape) == ("div", ())
    assert finding.rows == tuple(range(ROWS))
    assert found(fn, column((1, 3.0)), rows=None).rows == ()


def test_no_row_where_the_first_axis_is_not_the_batch():
    assert found(lambda x: jnp.log(x.T), column((4, 0.0))).rows == ()


@pytest.mark.parametrize("reverse", [False, True])
def test_in_a_scan_the_iteration_is_named(reverse):
    def body(carry, row):
        return carry + jnp.sum(jnp.log(row)), carry

    def fn(x):
        return jax.lax.scan(body, 0.0, x, reverse=reverse)

    finding = found(fn, column((4, 0.0)))
    assert (finding.primitive, finding.iterations, finding.rows) == ("log", (4,), (4,))


def test_in_nested_loops_all_iterations_are_named():
    def inner(carry):
        n, x = carry
        return n + 1, x / (n - 1)

    def body(x, _):
        return jax.lax.while_loop(lambda carry: carry[0] < 3, inner, (0, x))[1], None

    finding = found(lambda x: jax.lax.scan(body, x, None, length=2)[0], column())
    assert (finding.primitive, finding.iterations) == ("div", (0, 1))


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit, lambda f: jax.jit(jax.checkpoint(f))])
def test_calls_are_looked_into(wrap):
    finding = found(wrap(lambda x: 1.0 + jnp.log(x)), column((3, -1.0)))
    assert (finding.kind, finding.primitive, finding.rows) == ("nan", "log", (3,))


def test_branch_that_is_taken():
    def fn(x):
        return jax.lax.cond(jnp.sum(x) > 0.0, jnp.arccos, jnp.log, x)

    finding = found(fn, column().at[1:4].set(1.0))
    assert (finding.primitive, finding.rows) == ("acos", (0, 4, 5))


@pytest.mark.parametrize("fn", [jax.nn.relu, jax.nn.softplus, jax.nn.silu])
def test_custom_derivatives_are_looked_into(fn):
    finding = found(lambda x: fn(x * 1e38 * x), column((2, 1e10)))
    assert (finding.primitive, finding.rows) == ("mul", (2,))
    assert found(lambda x: fn(jnp.exp(x)), column((2, 99.0))).primitive == "exp"


def test_custom_vjp_is_looked_into():
    @jax.custom_vjp
    def fn(x):
        return jnp.log(x)

    fn.defvjp(lambda x: (jnp.log(x), x), lambda x, g: (g / x,))
    assert found(fn, column((2, 0.0))).primitive == "log"
    assert found(jax.grad(lambda x: jnp.sum(fn(x))), column((2, 0.0))).primitive == "div"


def test_meant_infinities_are_not_reported():
    def attention(x):
        scores = jnp.where(x > 2.0, -jnp.inf, x)
        additive = jnp.log((x <= 2.0).astype(x.dtype))
        return jax.nn.softmax(scores) + jax.nn.softmax(x + additive) + jnp.max(scores)

    assert find_nonfinite(attention, column((3, 5.0)), rows=ROWS) is None
    hidden = column((3, 0.0))
    assert find_nonfinite(lambda x: jnp.where(x > 0.0, jnp.log(x), 0.0), hidden) is None
    assert find_nonfinite(lambda x: jnp.nan_to_num(jnp.log(x)), hidden) is None


def test_meant_infinity_beside_a_fault_is_not_the_fault():
    def fn(x):
        additive = jnp.log((x <= 2.0).astype(x.dtype))
        return jnp.sum(additive, where=x < 2.0) + jax.nn.softmax(x + additive) + jnp.arccos(x - 1.0)

    finding = found(lambda x: fn(x)[:, 1], column((1, 5.0), (3, -4.0)))
    assert (finding.kind, finding.primitive) == ("nan", "acos")


def test_infinite_constant_is_named_where_it_becomes_nan():
    """A row whose every entry is masked: the maximum is -inf, and -inf - -inf is NaN."""
    finding = found(
        lambda x: jax.nn.softmax(jnp.where(x > 1.0, x, -jnp.inf)), column().at[4].set(0.0)
    )
    assert (finding.kind, finding.primitive, finding.rows) == ("nan", "sub", (4,))


def test_constant_that_is_let_in():
    finding = found(lambda x: jnp.where(x > 2.0, jnp.nan, x), column((5, 3.0)))
    assert (finding.primitive, finding.rows) == ("select_n", (5,))
    assert found(lambda x: (x, jnp.full(3, jnp.inf)), column()).source == "constant"


def test_bad_input_is_named_by_its_path():
    def fn(params, batch, *more):
        return batch["x"] @ params["dense"]["kernel"] + more[0]

    kernel = np.ones((2, 3), np.float32)
    args = {"dense": {"kernel": kernel}}, {"x": column()}, np.float32(1.0)
    assert find_nonfinite(fn, *args) is None
    finding = found(fn, args[0], {"x": column((1, np.inf), (4, np.nan))}, args[2])
    assert (finding.source, finding.path, finding.primitive) == ("input", "batch/x", "")
    assert (finding.kind, finding.count, finding.rows) == ("nan", 2, (1, 4))
    assert found(fn, *args[:2], np.float32(np.nan)).path == "more/0"
    kernel[1, 2] = np.inf
    finding = found(fn, *args)
    assert (finding.path, finding.kind) == ("params/dense/kernel", "inf")
    assert finding.rows == tuple(range(ROWS))


def test_bad_input_that_reaches_no_result():
    assert find_nonfinite(lambda x: jnp.sum(x, where=x > 0.0), column((1, np.nan))) is None


def test_infinity_that_only_passes_through_is_not_the_cause_of_another():
    """An optimizer may hold an infinity, such as the best loss so far before the first."""
    finding = found(lambda x, best: (jnp.exp(x), best), column((2, 99.0)), jnp.inf)
    assert (finding.source, finding.primitive) == ("equation", "exp")
    assert found(lambda x, best: (x, best), column(), jnp.inf).path == "best"


def test_rows_must_be_a_number_of_rows():
    with pytest.raises(ConfigError, match=r"rows=0\n  expected: the number of rows"):
        find_nonfinite(jnp.log, column(), rows=0)


def test_description_is_read_by_a_person():
    text = str(found(lambda x: jnp.log(x), column((1, -2.0), (4, 0.0))))
    first, second, third = text.splitlines()
    assert first.startswith("first non-finite value: nan from `log`, ")
    assert "test_nonfinite.py:" in first
    assert second == "float32[6, 2], 2 of 12 entries; rows 1, 4"
    assert third == "its input was float32[6, 2] from -2 to 2 (magnitude from 0), -2 there"
    many = found(jnp.log, jnp.zeros((20, 1)), rows=20).describe()
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 10 more" in many
    text = str(found(lambda x: x + 1.0, column((2, np.nan))))
    assert text == (
        "first non-finite value: nan in the input x\nfloat32[6, 2], 1 of 12 entries; row 2"
    )
