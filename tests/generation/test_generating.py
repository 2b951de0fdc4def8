"""Generation against a loop over the full forward pass, which has no cache and no padding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from jaxdl.errors import BatchError, ConfigError
from jaxdl.generation import empty_cache, generate
from jaxdl.models import GPT, MLP, Llama, MixtureGPT, WaveNet

V, LONGEST, MORE = 19, 4, 7
LENGTHS = np.array([4, 2, 1])
PROMPT = np.random.default_rng(2).integers(1, V, (3, LONGEST))
MASK = (np.arange(LONGEST)[None] < LENGTHS[:, None]).astype(np.int32)
SIZES = {"vocab_size": V, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "max_length": 11}
MODELS = {
    "gpt": GPT(**SIZES),
    "llama": Llama(**SIZES, num_kv_heads=1, mlp_dim=12, scan_layers=True),
    "mixture": MixtureGPT(**SIZES, num_experts=3, mlp_dim=8, capacity_factor=None),
    "wavenet": WaveNet(
        vocab_size=V,
        num_cycles=2,
        cycle=(1, 2),
        residual_dim=4,
        gate_dim=3,
        skip_dim=5,
        condition_classes=(3,),
        local_dim=2,
        local_hop=3,
        scan_layers=True,
    ),
}
SPEAKERS = {
    "condition": np.array([2, 0, 1], np.int32),
    "local_condition": np.random.default_rng(5).normal(size=(3, 4, 2)).astype(np.float32),
}
KEY = jax.random.key(7)


def options_of(name):
    return SPEAKERS if name == "wavenet" else {}


@functools.cache
def params_of(name):
    """Far from the start, so that texts do not stand still."""
    rng = np.random.default_rng(4)
    make = functools.partial(MODELS[name].init, jax.random.key(0), PROMPT, **options_of(name))
    shapes = jax.eval_shape(make)["params"]

    def drawn(path, leaf):
        # A large bias of the last norm would say the same word each time.
        values = (0.1 if path[-1].key == "bias" else 1.0) * rng.normal(size=leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


@functools.cache
def generator(name, padded, **settings):
    """Prompts, and a mask, to texts; and a count of the programs that it took."""
    run = jax.jit(functools.partial(generate, MODELS[name], max_tokens=MORE, **settings))

    def made(prompt, mask=MASK):
        call = {**options_of(name), "prompt_mask": mask if padded else None}
        return jax.device_get(run(params_of(name), prompt, key=KEY, **call))

    return made, run._cache_size


@functools.cache
def generated(name, padded, **settings):
    """The texts, and how many programs it took to make them twice."""
    made, programs = generator(name, padded, **settings)
    made(PROMPT[:, ::-1])
    return made(PROMPT), programs()


@functools.cache
def greedy(name, row, length):
    """The likeliest token each time, by the full forward pass of the row alone, in one shape."""
    model, text = MODELS[name], np.zeros(LONGEST + MORE, np.int32)
    text[:length] = PROMPT[row, :length]
    own = {key: value[row : row + 1] for key, value in options_of(name).items()}
    full = jax.jit(lambda params, text: model.apply({"params": params}, text[None], **own)[0])
    for at in range(length, length + MORE):
        text[at] = np.argmax(full(params_of(name), text)[at - 1])
    return text[: length + MORE]


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_loop_over_the_full_model(name, padded):
    found, programs = generated(name, padded, temperature=0)
    lengths, said = LENGTHS if padded else [LONGEST] * 3, set()
    assert programs == 1
    assert found.tokens.shape == (3, LONGEST + MORE)
    assert not found.ended.any()
    for row, length in enumerate(lengths):
        assert found.lengths[row] == length + MORE
        expected = greedy(name, row, int(length))
        said |= set(expected[length:].tolist())
        np.testing.assert_array_equal(found.tokens[row, : length + MORE], expected)
        assert not found.tokens[row, length + MORE :].any()
    assert len(said) > 2


def test_a_row_stops_at_the_end_token():
    free, _ = generated("gpt", True, temperature=0)
    end = int(free.tokens[1, LENGTHS[1] + 1])
    found, _ = generated("gpt", True, temperature=0, end_token=end, pad_token=99)
    for row, start in enumerate(LENGTHS):
        text = free.tokens[row, start : start + MORE]
        at = np.flatnonzero(text == end)
        stop = start + (at[0] + 1 if len(at) else MORE)
        assert found.ended[row] == bool(len(at))
        assert found.lengths[row] == stop
        np.testing.assert_array_equal(found.tokens[row, :stop], free.tokens[row, :stop])
        assert (found.tokens[row, stop:] == 99).all()
    assert found.ended[1]
    assert found.lengths[1] < free.lengths[1]


def test_padding_is_never_read():
    """Its number is no word: read, it would make the values of its row NaN."""
    expected, _ = generated("gpt", True, temperature=0)
    made, _ = generator("gpt", True, temperature=0)
    for number in (V, -7, 10**6):
        jax.tree.map(np.testing.assert_array_equal, made(np.where(MASK, PROMPT, number)), expected)


def test_nothing_follows_an_empty_prompt():
    """A traced mask may have one; elsewhere it is an error."""
    expected, _ = generated("gpt", True, temperature=0)
    made, _ = generator("gpt", True, temperature=0)
    found = made(PROMPT, MASK * np.array([[1], [0], [1]], np.int32))
    assert found.lengths.tolist() == [expected.lengths[0], 0, expected.lengths[2]]
    assert not found.tokens[1].any()
    assert not found.ended.any()
    np.testing.assert_array_equal(found.tokens[::2], expected.tokens[::2])


def test_a_text_may_end_at_its_first_token():
    free, _ = generated("gpt", True, temperature=0)
    end = int(free.tokens[1, LENGTHS[1]])
    made, _ = generator("gpt", True, temperature=0, end_token=end)
    found = made(PROMPT)
    assert found.ended[1]
    assert found.lengths[1] == LENGTHS[1] + 1
    # A batch of one, that ends at once.
    alone = jax.jit(
        functools.partial(
            generate, MODELS["gpt"], max_tokens=1, temperature=0, end_token=end, key=KEY
        )
    )(params_of("gpt"), PROMPT[1:2, : LENGTHS[1]])
    assert alone.ended.tolist() == [True]
    assert alone.tokens.tolist() == [[*PROMPT[1, : LENGTHS[1]].tolist(), end]]


def test_draws_follow_key_and_settings():
    def made(params, key, temperature, top_p):
        return generate(
            *(MODELS["gpt"], params, PROMPT),
            key=key,
            max_tokens=MORE,
            temperature=temperature,
            top_p=top_p,
        ).tokens

    run = functools.partial(jax.jit(made), params_of("gpt"))
    hot, cold = run(KEY, 5.0, 1.0), run(KEY, 0.0, 1.0)
    np.testing.assert_array_equal(run(KEY, 5.0, 1e-6), cold)
    np.testing.assert_array_equal(run(jax.random.key(8), 0.0, 0.5), cold)
    np.testing.assert_array_equal(run(KEY, 5.0, 1.0), hot)
    assert not np.array_equal(hot, cold)
    assert not np.array_equal(run(jax.random.key(8), 5.0, 1.0), hot)
    assert ((hot >= 0) & (hot < V)).all()


def test_an_empty_cache_costs_nothing_and_has_the_room():
    shapes = jax.eval_shape(lambda: params_of("llama"))
    cache = empty_cache(MODELS["llama"], shapes, rows=5, length=9)
    assert cache["blocks"]["attention"]["cached_key"].shape == (2, 5, 9, 1, 4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(cache))
    assert cache["index"].dtype == jnp.int32


WRONG = {
    "too_long": ({"max_tokens": 8}, BatchError, r"4 tokens and 8 more(.|\n)*at most 11"),
    "none": ({"max_tokens": 0}, ConfigError, "max_tokens is 0"),
    "end": ({"end_token": -1}, ConfigError, "end_token is -1"),
    "no_word": ({"end_token": V}, ConfigError, "end_token is 19, and the model has 19 words"),
    "top_k": ({"top_k": 0}, ConfigError, "top_k is 0"),
    "top_p": ({"top_p": 1.1}, ConfigError, "top_p is 1.1"),
    "cold": ({"temperature": -1}, ConfigError, "temperature is -1"),
    "mask": ({"prompt_mask": MASK[:2]}, BatchError, r"prompt_mask, of shape \[2, 4\]"),
    "left": ({"prompt_mask": MASK[:, ::-1]}, BatchError, "pad prompts after the text"),
    "empty": ({"prompt_mask": 0 * MASK}, BatchError, "at least one a row"),
    "rank": ({"prompt": PROMPT[0]}, BatchError, r"prompt has shape \[4\]"),
    "floats": ({"prompt": PROMPT * 1.0}, BatchError, "dtype float32"),
    "nothing": ({"prompt": PROMPT[:, :0]}, BatchError, r"shape \[3, 0\]"),
    "no_cache": ({"model": MLP((4,))}, ConfigError, "MLP has no cache"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_named_before_they_run(case):
    options, error, told = WRONG[case]
    given = {"model": MODELS["gpt"], "prompt": PROMPT, "max_tokens": 3, "key": KEY, **options}
    model, prompt = given.pop("model"), given.pop("prompt")
    with pytest.raises(error, match=told):
        jax.eval_shape(lambda p: generate(model, p, prompt, **given), params_of("gpt"))


def test_a_cache_needs_rows_and_room():
    with pytest.raises(ConfigError, match="0 rows and 3 tokens"):
        empty_cache(MODELS["gpt"], params_of("gpt"), 0, 3)
    with pytest.raises(BatchError, match="at most 11"):
        empty_cache(MODELS["gpt"], params_of("gpt"), 1, 12)
    assert jaxdl.generation.generate is generate
