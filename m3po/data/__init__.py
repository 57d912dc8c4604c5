"""The arrays that travel between modules, and the buffers that keep them."""
