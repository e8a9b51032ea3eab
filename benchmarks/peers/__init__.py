"""What ``int8_cpu.py`` is made of: one script per tool, each for a Python of its own, and how artifacts are judged."""
