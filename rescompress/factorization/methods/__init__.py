"""How a convolution is split: one file per method, each with ``split(conv, *, knobs) -> Split``."""
