"""What can be certified about a model and a policy: subject, estimates, evidence, certification, verdicts."""
