"""Return guarantees for model-based (meta-)RL: theorems as code, proved, evaluated and attacked."""

from bounds.bound import Bound
from bounds.catalogue import ALL_BOUNDS, get
from bounds.certificate import Certificate, certificate

__all__ = ["ALL_BOUNDS", "Bound", "Certificate", "certificate", "get"]
