"""From an encoded picture to the bytes of a network's input: decode safely, resize, crop."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from rescompress.errors import InputRefused, RecipeError
from rescompress.spec import Preprocessing

MAX_PIXELS = 2**26
# A closed list, because Pillow otherwise goes by content and would hand PostScript to an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")


def decode(source: Path | BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one picture to RGB, turned the way its EXIF says.

    Args:
        source: the file, or its bytes.
        name: what to call it when it is refused.
        max_pixels: a picture that decodes to more is refused before it is decoded.

    Raises:
        InputRefused: it is no picture, truncated, too large, or has more than 8 bits per channel.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_header(image, name, max_pixels)
            return ImageOps.exif_transpose(image).convert("RGB")
    except InputRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, max_pixels) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise InputRefused(
            f"{name} can't be decoded ({type(error).__name__}).", "Replace or remove the file; it may be truncated."
        ) from error


def fit(image: Image.Image, preprocessing: Preprocessing) -> UInt8[Tensor, "c h w"]:
    """Resize the shorter side bilinearly, then crop the centre; torchvision's rounding, to the pixel.

    Pillow does the arithmetic in integers, so every machine gets the same bytes.

    Raises:
        RecipeError: the crop is larger than the resized image.
        InputRefused: the image is so thin that resizing its shorter side would fill the memory.
    """
    resize, crop = preprocessing.resize, preprocessing.crop
    if not 0 < crop <= resize:
        raise RecipeError(
            f"A crop of {crop} pixels doesn't fit into images resized to {resize}.",
            "Make the preprocessing's resize at least as large as its crop.",
        )
    shorter = min(image.size)
    width, height = (resize * side // shorter for side in image.size)
    if width * height > MAX_PIXELS:
        raise _too_large(f"An image of {image.width} x {image.height} pixels, resized,", MAX_PIXELS)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.atleast_3d(np.array(resized.crop((left, top, left + crop, top + crop))))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def gather(
    one: Callable[[int], UInt8[Tensor, "3 h w"]], indices: Sequence[int], side: int
) -> UInt8[Tensor, "b 3 side side"]:
    """One square image per index, each made in a thread, because Pillow works outside Python's lock."""
    images = torch.empty((len(indices), 3, side, side), dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for place, image in enumerate(pool.map(one, indices)):
            images[place] = image
    return images


def _check_header(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)
    if image.mode.startswith(("I", "F")):
        raise InputRefused(f"{name} has more than 8 bits per channel.", "Convert it to 8 bits per channel.")


def _too_large(name: str, max_pixels: int) -> InputRefused:
    return InputRefused(f"{name} has more than {max_pixels} pixels.", "Scale it down, or remove it if it is a bomb.")
