"""Command lines and reports over the bounds and over training runs."""

from m3po.runs.interruption import end_quietly_while_importing

end_quietly_while_importing()
