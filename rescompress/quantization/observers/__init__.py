"""How a range is read off a histogram: one file per observer, each with ``range_of(histogram, *, knobs)``."""
