"""What is noted reaches everybody who gathers it."""

from rescompress import progress


def test_notes_reach_all_who_gather_and_each_stops_by_himself() -> None:
    with progress.gathered() as outer:
        with progress.gathered() as inner:
            progress.note("both")
        progress.note("outer alone")
    progress.note("nobody")
    assert (outer, inner) == (["both", "outer alone"], ["both"])
