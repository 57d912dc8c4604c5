"""The paper's figures, one file each: load(results) -> arrays, draw(axes, arrays), main."""
