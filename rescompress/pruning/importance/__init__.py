"""How much a channel is worth: one file per criterion, each with ``score(model, group, evidence) -> [channels]``.

Larger is kept. What counts is every weight that leaves with a channel, where it is made and where it is read, as in
DepGraph (arXiv:2301.12900); a file that reads less says why. Scores of different groups can be compared: norms are
relative to their group, slopes are in units of the loss. A file that reads gradients says ``GRADIENTS = True``.
"""
