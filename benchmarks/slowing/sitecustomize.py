"""Slows worker processes that have this folder on their PYTHONPATH: artifacts whose label asks for it, by so much.

``slower by 5 %`` makes each query wait, busy, for 5 % of its own time. ``slower by 0 %`` goes through the same code.
"""

import re
import time

import rescompress.backends

ASKED = re.compile(r"slower by ([\d.]+) %")
_require = rescompress.backends.require


class Backend:
    """A backend whose sessions are slowed."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def load(self, artifact, *, threads):
        """The session, slowed if the label says so."""
        session = self._backend.load(artifact, threads=threads)
        asked = ASKED.search(artifact.manifest.label)
        return Session(session, float(asked[1]) / 100) if asked else session


class Session:
    """A session that waits after each query for a share of what the query took."""

    def __init__(self, session, share):
        self._session, self._share = session, share

    def __enter__(self):
        self._session.__enter__()
        return self

    def __exit__(self, *error):
        return self._session.__exit__(*error)

    def run(self, images):
        """Answer, and take longer for it."""
        begin = time.perf_counter_ns()
        answers = self._session.run(images)
        now = time.perf_counter_ns()
        end = now + round((now - begin) * self._share)
        while now < end:
            now = time.perf_counter_ns()
        return answers


rescompress.backends.require = lambda name: Backend(_require(name))
