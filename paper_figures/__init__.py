"""The paper's figures, one file each: load(results) -> arrays, draw(axes, arrays), main."""

from m3po.runs.interruption import end_quietly_while_importing

end_quietly_while_importing()
