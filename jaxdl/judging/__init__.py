"""Human evaluation: a blind page on which people judge, and what their judgements say.

``create_page`` makes one HTML file and its key, ``read_judgements`` reads what judges send back,
``summarize`` says how far they agree and which system is better. It needs no JAX.
"""

from __future__ import annotations

from jaxdl.judging.agreement import (
    Agreement,
    PairOfJudges,
    agreement,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)
from jaxdl.judging.judgements import Judgements, Preference, Rating, read_judgements
from jaxdl.judging.pages import Page, create_page
from jaxdl.judging.ranking import (
    Estimate,
    WinRate,
    bradley_terry,
    mean_ratings,
    ranking,
    side_rate,
    wilson_interval,
    win_rates,
)
from jaxdl.judging.summary import summarize

__all__ = [
    "Agreement",
    "Estimate",
    "Judgements",
    "Page",
    "PairOfJudges",
    "Preference",
    "Rating",
    "WinRate",
    "agreement",
    "bradley_terry",
    "cohen_kappa",
    "create_page",
    "fleiss_kappa",
    "krippendorff_alpha",
    "mean_ratings",
    "ranking",
    "read_judgements",
    "side_rate",
    "summarize",
    "wilson_interval",
    "win_rates",
]
