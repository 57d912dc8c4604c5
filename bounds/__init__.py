"""Return guarantees for model-based (meta-)RL: theorems as code, proved, evaluated and attacked."""

from bounds.bound import Bound
from bounds.catalogue import ALL_BOUNDS, get
from bounds.certificate import Certificate, LinearWeights, certificate, linear_weights
from bounds.nonnegative import nonnegative_lower
from bounds.off_policy import (
    EffectiveSampleSizes,
    WeightedReturns,
    control_variate_returns,
    critic_mean_of_draws,
    effective_sample_sizes,
    importance_weighted_returns,
)
from bounds.overlap import OverlapCertificate, OverlapLosses, overlap_certificate, overlap_losses
from bounds.return_bounds import CriticValues, LowerBound, episodes_for_width, model_lower_bound, return_lower_bounds

__all__ = [
    "ALL_BOUNDS",
    "Bound",
    "Certificate",
    "CriticValues",
    "EffectiveSampleSizes",
    "LinearWeights",
    "LowerBound",
    "OverlapCertificate",
    "OverlapLosses",
    "WeightedReturns",
    "certificate",
    "control_variate_returns",
    "critic_mean_of_draws",
    "effective_sample_sizes",
    "episodes_for_width",
    "get",
    "importance_weighted_returns",
    "linear_weights",
    "model_lower_bound",
    "nonnegative_lower",
    "overlap_certificate",
    "overlap_losses",
    "return_lower_bounds",
]
