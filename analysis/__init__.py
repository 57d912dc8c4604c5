"""Command lines and reports over the bounds and over training runs."""
