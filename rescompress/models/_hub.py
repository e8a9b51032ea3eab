"""A model as its makers lay it out, ``config.json`` beside ``model.safetensors``: in a directory, or on a hub."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from rescompress.artifact import sha256_of
from rescompress.errors import BackendMissing, InputRefused
from rescompress.spec import Preprocessing

WEIGHTS, CONFIG, IMAGES = "model.safetensors", "config.json", "preprocessor_config.json"


def find(place: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The weights' file, the configuration, and how images are prepared (empty where that isn't said).

    Raises:
        InputRefused: a file is missing or no JSON, or the network doesn't answer.
    """
    folder = _download(place.removeprefix("hf://")) if place.startswith("hf://") else Path(place)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputRefused(f"{folder} holds no {name}.", f"A model's directory has {CONFIG} and {WEIGHTS}.")
    images = _read_json(folder / IMAGES) if (folder / IMAGES).is_file() else {}
    return folder / WEIGHTS, _read_json(folder / CONFIG), images


def preprocessing_of(side: int, crop_share: float, said: dict[str, Any], usual: Preprocessing) -> Preprocessing:
    """Preprocessing from what a maker says of it.

    Args:
        side: of the network's input, in pixels.
        crop_share: side of the crop over the shorter side of the resized image.
        said: may hold ``mean`` and ``std``.
        usual: what holds where nothing is said.
    """
    mean, std = (tuple(map(float, said.get(name) or ())) for name in ("mean", "std"))
    if not 0 < crop_share <= 1 or not side > 0:
        raise InputRefused("The model's configuration states an impossible crop.", "Correct its config.json.")
    return Preprocessing(
        resize=round(side / crop_share),
        crop=side,
        mean=(mean[0], mean[1], mean[2]) if len(mean) == 3 else usual.mean,
        std=(std[0], std[1], std[2]) if len(std) == 3 else usual.std,
    )


def _download(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise BackendMissing("hf:// needs huggingface_hub.", "Run: pip install 'rescompress[hf]'") from None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputRefused(f"hf://{name} names no model.", "Write hf://OWNER/NAME.")
    files = {}
    for file in (CONFIG, WEIGHTS, IMAGES):
        try:
            files[file] = Path(huggingface_hub.hf_hub_download(name, file))
        except Exception as error:  # a dozen classes of the hub's and of its HTTP library's
            if file != IMAGES:
                first = str(error).strip().partition("\n")[0].rstrip(".") or "no answer"
                raise InputRefused(
                    f"{file} of hf://{name} can't be had: {first[:200]}.",
                    "Check the name and the network, or download it and give its directory.",
                ) from None
    _check_blob(files[WEIGHTS])
    return files[WEIGHTS].parent


def _check_blob(file: Path) -> None:
    """The hub's cache names a blob after its SHA-256; a file that differs was broken on the way or since."""
    wanted = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", wanted) and sha256_of(file) != wanted:
        raise InputRefused(f"{file} doesn't have the SHA-256 that the hub states.", "Delete it and download it again.")


def _read_json(path: Path) -> dict[str, Any]:
    content: Any = None
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise InputRefused(f"{path} holds no JSON object.", "Download it again.")
    return content
