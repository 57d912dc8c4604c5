"""The benchmark: contenders, timing, and the plain reference."""
