"""M3PO: meta-model-based meta-policy optimization (Hiraoka et al. 2021), its environments and its baselines."""
