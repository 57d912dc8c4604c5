"""The exact engine: finite processes on which returns, errors and gaps are computed without sampling."""

from bounds.finite.instance import Instance, load_instance, save_instance
from bounds.finite.pomdp import FiniteTaskPOMDP
from bounds.finite.process import (
    ErrorProfiles,
    FiniteProcess,
    SparseProcess,
    branched_laws,
    branched_return,
    error_profiles,
    full_model_return,
    reward_error_profile,
    state_laws,
    true_return,
)
from bounds.finite.trajectories import Trajectories, enumerate_trajectories, overlap_discrepancy
from bounds.finite.worst_case import (
    attaining_instance,
    finite_horizon_discrepancy,
    profile_attaining_instance,
)

__all__ = [
    "ErrorProfiles",
    "FiniteProcess",
    "FiniteTaskPOMDP",
    "Instance",
    "SparseProcess",
    "Trajectories",
    "attaining_instance",
    "branched_laws",
    "branched_return",
    "enumerate_trajectories",
    "error_profiles",
    "finite_horizon_discrepancy",
    "full_model_return",
    "load_instance",
    "overlap_discrepancy",
    "profile_attaining_instance",
    "reward_error_profile",
    "save_instance",
    "state_laws",
    "true_return",
]
