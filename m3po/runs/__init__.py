"""A run on disk and in the terminal: directory, files, interruption, health, stopwatch."""
