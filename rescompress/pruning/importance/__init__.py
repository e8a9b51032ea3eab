"""How much a channel is worth: one file per criterion, each with ``score(model, group, evidence) -> [channels]``.

Larger is kept. All weights that leave with a channel count, on the side that makes it and on the side that reads it.
Scores of several groups can be compared. A file that reads gradients says ``GRADIENTS = True``.
"""
