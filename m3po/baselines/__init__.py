"""Algorithms that M3PO is compared with."""
