"""The version, which the package, its provenance and its documentation have from here."""

__version__ = "0.1.0"
