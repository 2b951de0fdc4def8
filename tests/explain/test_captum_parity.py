"""Attributions are Captum's, on the same weights, over networks, shapes, targets and settings."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import explain

torch = pytest.importorskip("torch", reason="requirements-parity.txt installs PyTorch")
attr = pytest.importorskip("captum.attr", reason="requirements-parity.txt installs Captum")

pytestmark = [
    pytest.mark.slow,
    # What Captum says of inputs that it is given, and PyTorch of its hooks.
    pytest.mark.filterwarnings("ignore:Input Tensor|Setting forward, backward hooks"),
]

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
CLASSES = 5


class Images(nn.Module):
    """Convolutions with a stride and with pooling, and two dense layers."""

    act: str = "relu"

    @nn.compact
    def __call__(self, x):
        act = getattr(nn, self.act)
        x = act(nn.Conv(6, (3, 3), padding=1, name="conv_0")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = act(nn.Conv(8, (3, 2), strides=(2, 1), padding="VALID", name="conv_1")(x))
        # PyTorch flattens channels first.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        return nn.Dense(CLASSES, name="head")(act(nn.Dense(16, name="dense")(x)))


class Rows(nn.Module):
    """Three dense layers."""

    outputs: int = CLASSES
    act: str = "relu"

    @nn.compact
    def __call__(self, x):
        act = getattr(nn, self.act)
        for index, width in enumerate((24, 17)):
            x = act(nn.Dense(width, name=f"dense_{index}")(x))
        return nn.Dense(self.outputs, name="head")(x)


class Sequences(nn.Module):
    """A convolution along time and a score for each step."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(7, (3,), padding=1, name="conv_0")(x))
        return nn.Dense(CLASSES, name="head")(x)


class Ours:
    """A model, its inputs, and the same network in PyTorch, channels first."""

    def __init__(self, model, shape, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=shape).astype(np.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
        self.variables = jax.tree.map(
            lambda s: rng.normal(size=s.shape).astype(np.float32) / max(s.shape[0], 3) ** 0.5,
            shapes,
        )
        self.fn = lambda x: model.apply(self.variables, x)
        self.act = getattr(model, "act", "relu")
        self.torch = self.network(model).eval()
        self.rows = shape[0]

    def network(self, model):
        params = self.variables["params"]
        act = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}[self.act]

        def dense(name):
            layer = torch.nn.Linear(*params[name]["kernel"].shape)
            layer.weight.data = torch.tensor(params[name]["kernel"].T.copy())
            layer.bias.data = torch.tensor(params[name]["bias"])
            return layer

        def conv(name, kind, **options):
            kernel = params[name]["kernel"]
            layer = kind(*kernel.shape[-2:], kernel.shape[:-2], **options)
            order = (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
            layer.weight.data = torch.tensor(kernel.transpose(order).copy())
            layer.bias.data = torch.tensor(params[name]["bias"])
            return layer

        if isinstance(model, Images):
            return torch.nn.Sequential(
                conv("conv_0", torch.nn.Conv2d, padding=1),
                act(),
                torch.nn.MaxPool2d(2),
                conv("conv_1", torch.nn.Conv2d, stride=(2, 1)),
                act(),
                torch.nn.Flatten(),
                dense("dense"),
                act(),
                dense("head"),
            )
        if isinstance(model, Sequences):
            first = conv("conv_0", torch.nn.Conv1d, padding=1)

            class Along(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.first, self.head = first, dense("head")

                def forward(self, x):
                    return self.head(torch.relu(self.first(x)).transpose(1, 2))

            return Along()
        return torch.nn.Sequential(dense("dense_0"), act(), dense("dense_1"), act(), dense("head"))

    def theirs(self, array):
        """Channels last to channels first."""
        array = np.asarray(array)
        return torch.tensor(np.moveaxis(array, -1, 1).copy() if array.ndim > 2 else array)

    def back(self, tensor):
        array = tensor.detach().numpy()
        return np.moveaxis(array, 1, -1) if array.ndim > 2 else array


CASES = {
    "images": lambda: Ours(Images(), (3, 10, 9, 3)),
    "one image": lambda: Ours(Images("tanh"), (1, 8, 8, 1), seed=1),
    "rows": lambda: Ours(Rows(), (5, 12), seed=2),
    "smooth rows": lambda: Ours(Rows(act="tanh"), (7, 4), seed=3),
}
TARGETS = {"one": lambda rows: 2, "each": lambda rows: np.arange(rows)[::-1] % CLASSES}


@pytest.fixture(scope="module", params=list(CASES))
def ours(request):
    made = CASES[request.param]()
    np.testing.assert_allclose(
        made.fn(made.x), made.torch(made.theirs(made.x)).detach(), rtol=1e-4, atol=1e-5
    )
    return made


def both(ours, targets):
    target = TARGETS[targets](ours.rows)
    return target, target if isinstance(target, int) else torch.tensor(target.copy())


@pytest.mark.parametrize("targets", list(TARGETS))
@pytest.mark.parametrize("absolute", [True, False])
def test_saliency(ours, targets, absolute):
    mine, his = both(ours, targets)
    wanted = attr.Saliency(ours.torch).attribute(ours.theirs(ours.x), target=his, abs=absolute)
    found = jax.jit(lambda x: explain.saliency(ours.fn, x, mine, absolute=absolute))(ours.x)
    np.testing.assert_allclose(found, ours.back(wanted), **TOLERANCE)


@pytest.mark.parametrize("targets", list(TARGETS))
def test_gradient_x_input(ours, targets):
    mine, his = both(ours, targets)
    wanted = attr.InputXGradient(ours.torch).attribute(ours.theirs(ours.x), target=his)
    found = explain.gradient_x_input(ours.fn, ours.x, mine)
    np.testing.assert_allclose(found, ours.back(wanted), **TOLERANCE)


RULES = [
    "gausslegendre",
    *("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"),
]


@pytest.mark.parametrize("targets", list(TARGETS))
@pytest.mark.parametrize(
    ("rule", "steps", "baseline", "chunk"),
    [
        ("gausslegendre", 50, "zero", 1),
        ("gausslegendre", 1, "number", 3),
        ("gausslegendre", 7, "own", 3),
        *((rule, 13, "shared", 4) for rule in RULES[1:]),
    ],
)
def test_integrated_gradients(ours, targets, rule, steps, baseline, chunk):
    mine, his = both(ours, targets)
    rng = np.random.default_rng(4)
    own = rng.normal(size=ours.x.shape).astype(np.float32)
    baselines = {"zero": 0.0, "number": 0.3, "own": own, "shared": own[:1]}[baseline]
    given = baselines if isinstance(baselines, float) else ours.theirs(baselines)
    wanted, delta = attr.IntegratedGradients(ours.torch).attribute(
        ours.theirs(ours.x),
        baselines=given,
        target=his,
        n_steps=steps,
        method=rule,
        return_convergence_delta=True,
    )
    found = jax.jit(
        lambda x: explain.integrated_gradients(
            ours.fn, x, mine, baselines=baselines, steps=steps, rule=rule, chunk=chunk
        )
    )(ours.x)
    np.testing.assert_allclose(found.attributions, ours.back(wanted), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found.error, delta.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("targets", list(TARGETS))
@pytest.mark.parametrize(
    ("window", "strides", "baseline"),
    [
        ((3, 3), 1, "zero"),
        ((3, 2), (2, 2), "number"),
        ((4, 3), (3, 2), "own"),
        ((5, 5, 1), (4, 5, 1), "shared"),
        ((8, 8), 8, "zero"),
    ],
)
def test_occlusion_of_images(targets, window, strides, baseline):
    ours = CASES["images"]()
    mine, his = both(ours, targets)
    own = np.random.default_rng(4).normal(size=ours.x.shape).astype(np.float32)
    baselines = {"zero": 0.0, "number": 0.3, "own": own, "shared": own[:1]}[baseline]
    channels = window[2] if len(window) == 3 else 3
    steps = (strides,) * 2 if isinstance(strides, int) else strides
    steps = (steps[2] if len(steps) == 3 else 3, *steps[:2])
    wanted = attr.Occlusion(ours.torch).attribute(
        ours.theirs(ours.x),
        sliding_window_shapes=(channels, *window[:2]),
        strides=steps,
        baselines=baselines if isinstance(baselines, float) else ours.theirs(baselines),
        target=his,
    )
    for chunk in (1, 5):
        found = jax.jit(
            lambda x, chunk=chunk: explain.occlusion(
                ours.fn, x, mine, window=window, strides=strides, baselines=baselines, chunk=chunk
            )
        )(ours.x)
        np.testing.assert_allclose(found, ours.back(wanted), **TOLERANCE)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 3), (5, 5), (5, 2), (12, 1)])
def test_occlusion_of_rows(window, stride):
    ours = CASES["rows"]()
    wanted = attr.Occlusion(ours.torch).attribute(
        ours.theirs(ours.x), sliding_window_shapes=(window,), strides=(stride,), target=1
    )
    found = explain.occlusion(ours.fn, ours.x, 1, window=window, strides=stride)
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("targets", list(TARGETS))
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("path", "place"), [("conv_0", 0), ("conv_1", 3), ("dense", 6)])
@pytest.mark.parametrize("case", ["images", "one image"])
def test_grad_cam(case, path, place, relu, targets):
    ours = CASES[case]()
    mine, his = both(ours, targets)
    wanted = attr.LayerGradCam(ours.torch, ours.torch[place]).attribute(
        ours.theirs(ours.x), target=his, relu_attributions=relu
    )
    layer = explain.linen_layer(ours.fn, path)
    found = jax.jit(lambda x: explain.grad_cam(layer, x, mine, relu=relu))(ours.x)
    np.testing.assert_allclose(found, wanted.detach()[:, 0], **TOLERANCE)
    if path == "dense":
        return
    for size in (ours.x.shape[1:3], (23, 17), (3, 2)):
        for method in ("nearest", "bilinear"):
            stretched = attr.LayerAttribution.interpolate(wanted, size, method)
            mapped = explain.grad_cam(layer, ours.x, mine, relu=relu, size=size, method=method)
            np.testing.assert_allclose(mapped, stretched.detach()[:, 0], **TOLERANCE)


def test_a_score_for_each_step():
    ours = Ours(Sequences(), (3, 6, 4), seed=5)
    x = ours.theirs(ours.x)
    for mine, his in (
        ((2, 1), (2, 1)),
        (np.array([[0, 1], [5, 4], [3, 3]]), [(0, 1), (5, 4), (3, 3)]),
    ):
        wanted = attr.Saliency(ours.torch).attribute(x, target=his, abs=False)
        found = explain.saliency(ours.fn, ours.x, mine, absolute=False)
        np.testing.assert_allclose(found, ours.back(wanted), **TOLERANCE)
        if isinstance(his, tuple):
            wanted = attr.IntegratedGradients(ours.torch).attribute(x, target=his)
            found = explain.integrated_gradients(ours.fn, ours.x, mine).attributions
            np.testing.assert_allclose(found, ours.back(wanted), **TOLERANCE)


def test_one_score_a_row():
    ours = Ours(Rows(outputs=1), (4, 12), seed=6)
    wanted = attr.IntegratedGradients(ours.torch).attribute(ours.theirs(ours.x))
    for fn in (ours.fn, lambda x: ours.fn(x)[:, 0]):
        found = explain.integrated_gradients(fn, ours.x).attributions
        np.testing.assert_allclose(found, wanted.detach(), **TOLERANCE)


def test_smoothgrad_is_the_mean_that_captum_estimates():
    ours = Ours(Rows(act="tanh"), (2, 4), seed=7)
    torch.manual_seed(0)
    tunnel = attr.NoiseTunnel(attr.Saliency(ours.torch))
    options = {"nt_samples": 20_000, "stdevs": 0.5, "target": 1, "abs": False}
    for nt_type, combine in (
        ("smoothgrad", "mean"),
        ("smoothgrad_sq", "square"),
        ("vargrad", "variance"),
    ):
        wanted = tunnel.attribute(ours.theirs(ours.x), nt_type=nt_type, **options)
        found = jax.jit(
            lambda x, combine=combine: explain.smoothgrad(
                ours.fn,
                x,
                1,
                key=jax.random.key(0),
                samples=20_000,
                noise=0.5,
                relative=False,
                combine=combine,
            )
        )(ours.x)
        scale = np.abs(wanted.detach().numpy()).max()
        np.testing.assert_allclose(found, wanted.detach(), atol=0.03 * scale)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_maps_are_stretched_as_pytorch_does(method):
    maps = np.random.default_rng(0).normal(size=(1, 7)).astype(np.float32)
    kind = {"nearest": "nearest", "bilinear": "linear"}[method]
    # Ratios that are no binary fractions round to one side or the other.
    for old, new in ((1, 5), (2, 98), (3, 49), (3, 7), (5, 5), (5, 113), (7, 3), (7, 41), (7, 98)):
        wanted = torch.nn.functional.interpolate(torch.tensor(maps[None, :, :old]), new, mode=kind)
        found = explain.resized(maps[:, :old], (new,), method)
        np.testing.assert_allclose(found, wanted[0], rtol=1e-5, atol=1e-6, err_msg=f"{old} {new}")
