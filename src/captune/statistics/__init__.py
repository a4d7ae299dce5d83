"""How sure a share is, paired tests of shares, several tests, and rank correlation.

Intervals and tests of other figures are in `captune_metrics.resampling`.
"""

from captune.statistics.kendall import Tau, kendall_tau
from captune.statistics.proportions import holm, mcnemar_exact, paired_difference, wilson

__all__ = ["Tau", "holm", "kendall_tau", "mcnemar_exact", "paired_difference", "wilson"]
