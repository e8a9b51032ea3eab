"""Where people watch a training: one file per tool, each with ``open_tracker(folder, purpose) -> Tracker``."""
