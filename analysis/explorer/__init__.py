"""One page on which every bound is live: tracing of formulas into JavaScript, and its assets."""
