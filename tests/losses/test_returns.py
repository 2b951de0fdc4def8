"""Returns and advantages against loops over every step, and the losses against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.errors import BatchError

DISCOUNT, DECAY = 0.9, 0.8


@pytest.fixture(scope="module")
def steps():
    rng = np.random.default_rng(0)
    shape = (5, 17)
    return {
        "rewards": rng.normal(size=shape).astype(np.float32),
        "values": rng.normal(size=shape).astype(np.float32),
        "next_values": rng.normal(size=shape).astype(np.float32),
        "terminated": rng.random(shape) < 0.15,
        "truncated": rng.random(shape) < 0.15,
        "mask": rng.random(shape) < 0.85,
    }


def cut(steps, b, t):
    """Whether what follows step t of row b is of another episode or is not there."""
    last = steps["rewards"].shape[1] - 1
    return t == last or steps["truncated"][b, t] or not steps["mask"][b, t + 1]


def returns_by_loop(steps):
    out = np.zeros(steps["rewards"].shape)
    for b in range(out.shape[0]):
        for t in reversed(range(out.shape[1])):
            if not steps["mask"][b, t]:
                continue
            out[b, t] = steps["rewards"][b, t]
            if steps["terminated"][b, t]:
                continue
            after = steps["next_values"][b, t] if cut(steps, b, t) else out[b, t + 1]
            out[b, t] += DISCOUNT * after
    return out


def advantages_by_sums(steps):
    """Equation 16 as it is written: for every step the sum of all later errors."""
    out = np.zeros(steps["rewards"].shape)
    for b in range(out.shape[0]):
        for t in range(out.shape[1]):
            if not steps["mask"][b, t]:
                continue
            share, k = 1.0, t
            while True:
                ended = steps["terminated"][b, k]
                after = 0.0 if ended else steps["next_values"][b, k]
                error = steps["rewards"][b, k] + DISCOUNT * after - steps["values"][b, k]
                out[b, t] += share * error
                if ended or cut(steps, b, k):
                    break
                share, k = share * DISCOUNT * DECAY, k + 1
    return out


def test_returns_are_those_of_a_loop(steps):
    known = {k: v for k, v in steps.items() if k != "values"}
    found = losses.discounted_returns(**known, discount=DISCOUNT)
    np.testing.assert_allclose(found, returns_by_loop(steps), rtol=1e-5, atol=1e-6)


def test_advantages_are_those_of_a_loop(steps):
    found = losses.generalized_advantages(**steps, discount=DISCOUNT, decay=DECAY)
    np.testing.assert_allclose(found, advantages_by_sums(steps), rtol=1e-5, atol=1e-5)


def test_decay_one_is_the_return_less_the_value(steps):
    # What is reached is the next state, whose value a sum to the end then does not need.
    reached = np.roll(steps["values"], -1, axis=1)
    chained = {**steps, "next_values": reached}
    found = losses.generalized_advantages(**chained, discount=DISCOUNT, decay=1.0)
    expected = np.where(steps["mask"], returns_by_loop(chained) - steps["values"], 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_truncated_step_is_worth_what_it_reached_and_a_terminated_one_is_not():
    one, off = np.ones((1, 2), np.float32), np.zeros((1, 2), bool)
    end = np.array([[False, True]])
    value = 10 * one
    options = {"discount": 0.5, "next_values": value}
    assert losses.discounted_returns(one, end, off, **options).tolist() == [[1.5, 1.0]]
    assert losses.discounted_returns(one, off, end, **options).tolist() == [[4.0, 6.0]]
    assert losses.discounted_returns(one, end, end, **options).tolist() == [[1.5, 1.0]]


def test_nothing_passes_a_step_that_does_not_count(steps):
    mask = np.ones(steps["mask"].shape, bool)
    mask[:, 9] = False
    changed = {**steps, "mask": mask}
    spoilt = {k: v.copy() for k, v in changed.items()}
    spoilt["rewards"][:, 9] = np.nan
    spoilt["values"][:, 9] = np.inf
    for estimate in (
        lambda s: losses.generalized_advantages(**s, discount=DISCOUNT, decay=DECAY),
        lambda s: losses.discounted_returns(
            **{k: v for k, v in s.items() if k != "values"}, discount=DISCOUNT
        ),
    ):
        np.testing.assert_array_equal(estimate(changed), estimate(spoilt))


def test_advantages_have_no_gradient_and_compile(steps):
    def total(values):
        given = {**steps, "values": values}
        return jnp.sum(losses.generalized_advantages(**given, discount=DISCOUNT, decay=DECAY))

    assert not np.any(jax.jit(jax.grad(total))(jnp.asarray(steps["values"])))


def test_normalised_advantages_have_mean_0_and_deviation_1(steps):
    mask = steps["mask"]
    found = np.asarray(losses.normalized_advantages(3 + 5 * steps["rewards"], mask))
    assert abs(found[mask].mean()) < 1e-5
    assert abs(found[mask].std() - 1) < 1e-5
    assert not found[~mask].any()


def test_wrong_shapes_are_told():
    row = jnp.zeros(3)
    with pytest.raises(BatchError, match=r"rewards have shape \[3\]"):
        losses.discounted_returns(row, row, row, discount=1.0)
    with pytest.raises(BatchError, match=r"values has shape \[1, 2\]"):
        wide = jnp.zeros((1, 3))
        losses.generalized_advantages(
            wide, jnp.zeros((1, 2)), wide, wide, wide, discount=1.0, decay=1.0
        )
    with pytest.raises(BatchError, match="action_log_probability got values"):
        losses.clipped_policy(jnp.zeros((2, 3)), jnp.zeros(2), row, row)
    with pytest.raises(BatchError, match="no old values"):
        losses.clipped_value(row, row, clip=0.1)


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected", "learns"),
    [
        (1.0, 1.1, -1.1, True),
        (1.0, 1.5, -1.2, False),
        (1.0, 0.5, -0.5, True),
        (-1.0, 1.5, 1.5, True),
        (-1.0, 0.5, 0.8, False),
    ],
)
def test_clipped_policy_as_in_figure_1(advantage, ratio, expected, learns):
    logits = jnp.log(jnp.array([[0.4 * ratio, 1 - 0.4 * ratio]]))

    def loss(logits):
        action, old = jnp.array([0]), jnp.log(jnp.array([0.4]))
        return losses.clipped_policy(logits, action, old, jnp.array([advantage]))[0]

    assert float(loss(logits)) == pytest.approx(expected, rel=1e-5)
    assert bool(np.any(np.abs(jax.grad(loss)(logits)) > 1e-3)) == learns


def test_policy_gradient_is_the_score_times_the_advantage():
    logits = jnp.array([[0.1, -0.4, 0.7]])
    gradient = jax.grad(lambda x: losses.policy_gradient(x, jnp.array([2]), jnp.array([3.0]))[0])(
        logits
    )
    expected = -3.0 * (np.eye(3)[2] - jax.nn.softmax(logits[0]))
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-5)


def test_entropy_with_an_action_ruled_out_has_finite_gradients():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    value, gradient = jax.value_and_grad(lambda x: losses.policy_entropy(x)[0])(logits)
    assert float(value) == pytest.approx(np.log(2))
    assert np.isfinite(gradient[0, :2]).all()


def test_clipped_value_takes_the_worse():
    value = losses.clipped_value(jnp.array([2.0]), jnp.array([3.0]), jnp.array([0.0]), clip=0.5)
    assert value.tolist() == [0.5 * 2.5**2]
    assert losses.clipped_value(jnp.array([2.0]), jnp.array([3.0])).tolist() == [0.5]


def test_q_target_by_hand():
    q = jnp.array([[1.0, 3.0], [1.0, 3.0]])
    choice = jnp.array([[5.0, 0.0], [5.0, 0.0]])
    reward, ended = jnp.array([1.0, 1.0]), jnp.array([0, 1])
    assert losses.q_target(reward, ended, q, discount=0.5).tolist() == [2.5, 1.0]
    double = losses.q_target(reward, ended, q, discount=0.5, next_choice=choice)
    assert double.tolist() == [1.5, 1.0]
    assert losses.q_learning(q, jnp.array([0, 1]), jnp.array([3.0, 3.5])).tolist() == [1.5, 0.125]
