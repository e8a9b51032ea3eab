"""How ranges are read off a histogram: one file per observer, each with ``ranges_of(histogram, grid, *, knobs)``.

Each gives back one range, or several among which the outputs of the layers behind decide (``adaptive.choose``). A range
lies within the extremes, and 0 lies in it. ``WEIGHED`` says whether counts are weighed by importance beforehand.
"""
