"""The network that a run ends with, layer by layer, for the report's picture."""

from collections.abc import Sequence

from rescompress import inspection
from rescompress.artifact import digest
from rescompress.data import Data
from rescompress.pipeline.folder import RunFolder
from rescompress.pipeline.stages import load_stage
from rescompress.spec import StageRow
from rescompress.views import Inspection


def picture(folder: RunFolder, stages: Sequence[StageRow], opened: Data | None) -> Inspection:
    """What the last stage's network is made of, and what INT8 in each layer alone costs it.

    Fake-quants are passed by, so that a quantized network shows the sensitivity that it was quantized with.
    """
    last = stages[-1]
    key = digest([last.sha256, opened.fingerprint if opened else None])
    found = folder.row("network", key, Inspection)
    if found is None:
        found = inspection.inspect(load_stage(folder, last), opened)
        folder.keep_row("network", key, found)
    return found
