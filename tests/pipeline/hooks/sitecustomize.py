"""Watches a Python process from outside the package: notes each class that is unpickled, and dies before a rename.

``PICKLE_LOG`` names the file that unpickled classes are written to, a line each with the process that did it.
``DIE_BEFORE`` ends the process with SIGKILL when a file whose path ends so is about to be put into place.
"""

import os
import signal
import sys

LOG, PLACE = os.environ.get("PICKLE_LOG"), os.environ.get("DIE_BEFORE")


def watch(event, arguments):
    if event == "pickle.find_class" and LOG:
        with open(LOG, "a") as file:
            file.write(f"{os.getpid()} {arguments[0]}.{arguments[1]}\n")
    elif event == "os.rename" and PLACE and str(arguments[1]).endswith(PLACE):
        os.kill(os.getpid(), signal.SIGKILL)


if LOG:
    with open(LOG, "a") as file:
        file.write(f"{os.getpid()} started {' '.join(sys.orig_argv[1:3])}\n")
sys.addaudithook(watch)
