"""How sure a figure is: intervals of shares and corpus figures, paired tests, several tests."""

from captune.statistics.kendall import Tau, kendall_tau
from captune.statistics.proportions import (
    holm,
    mcnemar_exact,
    paired_difference,
    wilson,
)
from captune.statistics.resampling import (
    RESAMPLES,
    Method,
    OfSums,
    PairedInterval,
    Sums,
    bootstrap,
    bootstrap_each,
    bootstrap_mean,
    cohen_dz,
    detectable_difference,
    mean_of_sums,
    paired_bootstrap,
    paired_permutation,
    paired_permutation_each,
)
from captune.text import Interval

__all__ = [
    "RESAMPLES",
    "Interval",
    "Method",
    "OfSums",
    "PairedInterval",
    "Sums",
    "Tau",
    "bootstrap",
    "bootstrap_each",
    "bootstrap_mean",
    "cohen_dz",
    "detectable_difference",
    "holm",
    "kendall_tau",
    "mcnemar_exact",
    "mean_of_sums",
    "paired_bootstrap",
    "paired_difference",
    "paired_permutation",
    "paired_permutation_each",
    "wilson",
]
