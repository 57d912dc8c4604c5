"""Statistics of tables of learning curves: aggregates, bootstrap, table, summary, figures."""

from analysis.runs.over_seeds import student_interval
from analysis.statistics.aggregates import (
    interquartile_mean,
    normalise,
    pooled_interquartile_mean,
    probability_of_improvement,
    steps_to_reach,
)
from analysis.statistics.bootstrap import (
    bootstrap_interval,
    distinct_resamples,
    probability_of_improvement_interval,
    sample_efficiency_curve,
)
from analysis.statistics.table import read_table

__all__ = [
    "bootstrap_interval",
    "distinct_resamples",
    "interquartile_mean",
    "normalise",
    "pooled_interquartile_mean",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "read_table",
    "sample_efficiency_curve",
    "steps_to_reach",
    "student_interval",
]
