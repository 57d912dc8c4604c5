"""M3PO: meta-model-based meta-policy optimization (Hiraoka et al. 2021), its environments and its baselines."""

from m3po.runs.interruption import end_quietly_while_importing

end_quietly_while_importing()
