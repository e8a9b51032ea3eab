"""``python -m rescompress`` is the command line."""

from rescompress.cli import main

main()
