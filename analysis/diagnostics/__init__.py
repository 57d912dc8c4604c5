"""What can be said about a model where nothing can be certified: calibration, open-loop error, telescoped gap."""
