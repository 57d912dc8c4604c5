"""Environments that others wrote: where they may come from, what they offer, what they answer, and their trial."""
