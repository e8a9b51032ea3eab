"""INT8 beside other tools: a table per network, and where ours isn't first."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from peers import table as peers


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Every row of every network, with what they come to before them."""
    networks = found["networks"]
    yield (peers.__doc__ or "").partition("\n\n")[2]
    yield from _summary(networks)
    for name, entry in networks.items():
        yield peers.table(name, entry)
        yield ""


def _summary(networks: dict[str, Any]) -> Iterator[str]:
    """How often ours is first, tied or not first, over all rows; and what wasn't timed."""
    yield "All rows of peers together, ours beside each:"
    yield ""
    yield "| column | ours first | tied | not first | not compared |"
    yield "|---|---|---|---|---|"
    for column, told in peers.COMPARED.items():
        count = Counter(
            peers.WORDS[told(entry, *key)]
            for entry in networks.values()
            for key in peers.keys(entry)
            if peers.is_peer(key[0])
        )
        yield f"| {column} | " + " | ".join(str(count[word]) for word in peers.WORDS.values()) + " |"
    yield ""
    untimed = [name for name, entry in networks.items() if "latency" not in entry]
    if untimed:
        yield f"Not timed yet: {', '.join(untimed)}."
        yield ""
