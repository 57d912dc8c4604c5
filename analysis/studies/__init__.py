"""What produced a figure or a table of the docs, and nothing that a user runs on own data."""
