"""Grids of runs, their workers, and the Ray cluster that they run on."""
