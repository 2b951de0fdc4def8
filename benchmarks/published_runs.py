"""The roofline against runs that others published: no bound may be slower than what was measured.

Each row is a MaxText run on a TPU slice with its model's shape, read from the scripts of the commit
that published it. The bound is `jaxdl.tpu.plans.analytic.transformer` at nominal rates: the peaks
that the chips' pages print, everything overlapped, nothing derated, and each cost counted as low as
it can be. So it is a bound, not a forecast: a run that beat it would show an error in a formula, in
the chips' table or in the row. No constant is fitted to a row.

    python -m benchmarks.published_runs
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from jaxdl.tpu.plans.analytic import Decoder, transformer
from jaxdl.tpu.plans.roofline import NOMINAL, predict
from jaxdl.tpu.slices.names import parse_topology

__all__ = ["RUNS", "Run", "bound_seconds", "measured_seconds", "median_ratio"]

FULL: tuple[str, ...] = ()
MINIMAL = ("qkv", "out", "mlp_in", "mlp_out")
"""`checkpoint_dots_with_no_batch_dims`: every projection is kept, attention is not."""
EXCEPT_MLP_IN = ("qkv", "out", "mlp_out")
OFFLOADED = ("qkv", "out")
"""`custom`, with these on the host; the way there and back is not counted."""

_2023 = "AI-Hypercomputer/maxtext@76bd53b MaxText/configs/"
_TIERS = "AI-Hypercomputer/maxtext@e591f30 docs/reference/models/tiering.md; "
_RECIPES = "AI-Hypercomputer/tpu-recipes@a9e0929 training/trillium/Llama3.1-8B-MaxText/v6e-256"


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        name: of the model.
        slices: as `jaxdl.tpu.parse_topology` reads it.
        shape: of the model.
        mesh: sizes of its axes.
        rows: of one chip's batch.
        length: tokens of a row.
        kept: what the remat policy keeps.
        measured: as it was printed.
        unit: of `measured`: FLOP/s of a chip, in MaxText's count of December 2023, which is
            6 FLOPs for each parameter and token plus causal attention; tokens/s of a chip; or
            seconds of a step.
        source: repository@commit and files: of the figure, the shape and the batch.
    """

    name: str
    slices: str
    shape: Decoder
    mesh: dict[str, int]
    rows: int
    length: int
    kept: tuple[str, ...]
    measured: float
    unit: Literal["FLOP/s", "tokens/s", "seconds"]
    source: str


def scaled(scale: int) -> Decoder:
    """A model of `global_parameter_scale`: maxtext@76bd53b MaxText/pyconfig.py, configs/base.yml.

    Args:
        scale: a power of 2.
    """
    base, rest = divmod(scale.bit_length() - 1, 3)
    wider = 2 ** (base + (rest > 0))
    heads = 8 * wider
    width = 2560 * 2 ** (base + (rest > 1))
    return Decoder(
        16 * 2**base, width, heads, heads, 256, 8192 * wider, 32768, gated=False, tied=True
    )


_B22 = Decoder(48, 6144, 24, 24, 256, 24576, 32768, gated=False, tied=True)
_B52 = Decoder(32, 12288, 32, 32, 256, 49152, 32768, gated=False, tied=True)
_LLAMA2_70B = Decoder(80, 8192, 64, 8, 128, 28672, 32000)
_LLAMA3_8B = Decoder(32, 4096, 32, 8, 128, 14336, 128256)
_LLAMA3_70B = Decoder(80, 8192, 64, 8, 128, 28672, 128256)
_LLAMA3_405B = Decoder(126, 16384, 128, 8, 128, 53248, 128256)


def _old(
    slices: str,
    scale: int | Decoder,
    mesh: dict[str, int],
    rows: int,
    kept: tuple[str, ...],
    measured: float,
) -> Run:
    """A row of the tables of December 2023: 2048 tokens a row."""
    shape = scaled(scale) if isinstance(scale, int) else scale
    name = f"{scale}B" if isinstance(scale, int) else f"{shape.parameters / 1e9:.0f}B"
    chip = slices.rsplit("x ", maxsplit=1)[-1].split("-", maxsplit=1)[0]
    source = f"{_2023}{chip}/README.md, {chip}/{name.lower()}.sh, base.yml"
    return Run(name, slices, shape, mesh, rows, 2048, kept, measured * 1e12, "FLOP/s", source)


RUNS = (
    _old("v4-128", _B22, {"fsdp": 64}, 16, FULL, 156),
    _old("8x v4-128", _B22, {"data": 8, "fsdp": 64}, 16, FULL, 146),
    _old("v4-384", _B52, {"fsdp": 192}, 10, FULL, 154),
    _old("v5e-256", 16, {"fsdp": 256}, 6, FULL, 120),
    _old("32x v5e-256", 16, {"data": 32, "fsdp": 256}, 6, FULL, 108),
    _old("v5e-256", 32, {"fsdp": 256}, 4, FULL, 132),
    _old("v5e-256", 64, {"fsdp": 256}, 2, FULL, 118),
    _old("v5e-256", 128, {"fsdp": 16, "tensor": 16}, 1, FULL, 110),
    _old("32x v5e-256", 128, {"data": 32, "fsdp": 16, "tensor": 16}, 1, FULL, 91),
    _old("v5p-128", 32, {"fsdp": 16, "tensor": 4}, 8, MINIMAL, 328),
    _old("v5p-128", 64, {"fsdp": 16, "tensor": 4}, 4, MINIMAL, 323),
    _old("v5p-512", 128, {"fsdp": 32, "tensor": 8}, 2, MINIMAL, 316),
    _old("2x v5p-512", 128, {"data": 2, "fsdp": 32, "tensor": 8}, 2, MINIMAL, 274),
    _old("v5p-1024", 512, {"fsdp": 32, "tensor": 16}, 2, FULL, 294),
    _old("v5p-4096", 1024, {"fsdp": 128, "tensor": 16}, 2, FULL, 297),
    Run(
        *("Llama2-70B", "v5p-1024", _LLAMA2_70B, {"fsdp": 512}, 4, 4096, EXCEPT_MLP_IN),
        *(692, "tokens/s"),
        f"{_TIERS}maxtext@92e59fd benchmarks/maxtext_v5p_model_configs.py llama2_70b_v5p_128",
    ),
    Run(
        *("Llama3.1-8B", "v6e-256", _LLAMA3_8B, {"fsdp": 256}, 4, 8192, OFFLOADED),
        *(4.546, "seconds"),
        f"{_RECIPES}/README.md",
    ),
    Run(
        *("Llama3.1-70B", "v6e-256", _LLAMA3_70B, {"fsdp": 256}, 5, 8192, ("qkv",)),
        *(960, "tokens/s"),
        f"{_TIERS}maxtext@92e59fd benchmarks/maxtext_trillium_model_configs.py llama3_1_70b_8192",
    ),
    Run(
        *("Llama3.1-405B", "2x v6e-256", _LLAMA3_405B),
        *({"data": 1, "fsdp": 128, "tensor": 4}, 1, 8192, OFFLOADED, 123, "tokens/s"),
        f"{_TIERS}maxtext@5e6a7ca benchmarks/maxtext_trillium_model_configs.py "
        "llama3_1_405b_8192_fsdp_dcn",
    ),
)


def measured_seconds(run: Run) -> float:
    """Seconds of a step, as published.

    Args:
        run: the row.
    """
    tokens, shape = run.rows * run.length, run.shape
    if run.unit == "seconds":
        return run.measured
    if run.unit == "tokens/s":
        return tokens / run.measured
    causal = 3 * shape.attention_flops(run.length) / 2
    return tokens * (6 * shape.parameters + causal) / run.measured


def bound_seconds(run: Run) -> float:
    """Seconds of a step that no run can beat, by the nominal rates.

    Args:
        run: the row.
    """
    topology = parse_topology(run.slices)
    work = transformer(
        run.shape,
        topology,
        run.mesh,
        rows=run.rows * topology.chips,
        length=run.length,
        kept=run.kept,
    )
    return predict(work, NOMINAL).fastest


def median_ratio() -> float:
    """The median of measured over bound."""
    return statistics.median(measured_seconds(run) / bound_seconds(run) for run in RUNS)


def main() -> None:
    """Prints the table."""
    print(f"{'model':14} {'slices':12} {'bound s':>9} {'measured s':>11} {'measured/bound':>15}")
    for run in RUNS:
        bound, measured = bound_seconds(run), measured_seconds(run)
        row = f"{run.name:14} {run.slices:12} {bound:9.3f} {measured:11.3f}"
        print(f"{row} {measured / bound:15.2f}")
    print(f"median of {len(RUNS)} rows: {median_ratio():.2f}")


if __name__ == "__main__":
    main()
