"""docs/families.md: every family through everything, no cell empty."""

import json
import os
from pathlib import Path

import pytest

from rescompress import catalog, models
from tests.models.grid import COLUMNS, NETWORKS, PAGE, ROWS, compose, file_of, measure, name_of

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(len(NETWORKS)), ids=lambda place: name_of(*NETWORKS[place]))
def test_a_network_goes_everywhere(place: int) -> None:
    folder = os.environ.get("RESCOMPRESS_FAMILIES")
    file = Path(folder) / file_of(name_of(*NETWORKS[place])) if folder else None
    if file is not None and file.exists():
        return  # measured before an interruption
    row = measure(*NETWORKS[place])
    assert list(row) == list(COLUMNS)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row))


def test_the_page_shows_every_network_and_every_cell() -> None:
    rows = json.loads((ROOT / ROWS).read_text())
    assert list(rows) == [name_of(*network) for network in NETWORKS]
    assert all(list(row) == list(COLUMNS) and all(cell.strip() for cell in row.values()) for row in rows.values())
    assert (ROOT / PAGE).read_text() == compose(rows)


def test_the_page_shows_every_family() -> None:
    assert {network[0] for network in NETWORKS} == set(catalog.names(models.PACKAGE))


@pytest.mark.slow
def test_the_page_says_what_a_run_says() -> None:
    """The cheapest row, measured again."""
    place = next(place for place, network in enumerate(NETWORKS) if network[0] == "builder")
    row, shown = measure(*NETWORKS[place]), json.loads((ROOT / ROWS).read_text())[name_of(*NETWORKS[place])]
    for column in ("inspect", "fuse", "prune", "checkpoint"):
        assert row[column].partition(",")[0] == shown[column].partition(",")[0]
