"""Whether a weight is rounded up or down: one file a way, each with ``round_weights(traced, batches, generator)``.

The weights come out as values that lie on the grid, or stay as they were; the knobs follow the arguments. Each gives
back sentences for the report. It says in ``SHOWN`` whether it looks at images, and in ``EXACT`` whether it moved
weights without learning biases beside them, so that correction has to go by the float network as it was.
"""
