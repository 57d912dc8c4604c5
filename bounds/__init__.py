"""Return guarantees for model-based (meta-)RL: theorems as code, proved, evaluated and attacked."""

from bounds.bound import Bound
from bounds.catalogue import ALL_BOUNDS, get
from bounds.certificate import Certificate, LinearWeights, certificate, linear_weights

__all__ = ["ALL_BOUNDS", "Bound", "Certificate", "LinearWeights", "certificate", "get", "linear_weights"]
