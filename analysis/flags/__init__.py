"""The flags of the commands, in modules that are imported in no time: ``--help`` needs nothing else."""
