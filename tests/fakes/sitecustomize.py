"""Adds the fake backends to the registry of every Python process that has this folder on its PYTHONPATH."""

from pathlib import Path

import rescompress.backends

rescompress.backends.__path__.append(str(Path(__file__).parent / "backends"))
