"""How much a channel is worth: one file per criterion, each with ``score(model, group) -> [channels]``."""
