"""Read images from files and folders into one array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attention_guidance.commands.text.files import find_files
from attention_guidance.errors import CorpusError, reason_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Those of the suffixes. By its content alone, a file could be PostScript, which Pillow runs in Ghostscript.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True)
class Images:
    """Square images of equal size, divided into square patches.

    Attributes:
        pixels: [N, 3, size, size], uint8.
        patch: Side of a patch in pixels.
    """

    pixels: npt.NDArray[np.uint8]
    patch: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """Return an image [3, size, size]."""
        image: npt.NDArray[np.uint8] = self.pixels[index]
        return image

    @property
    def arrays(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """The arrays that determine the images; their digest identifies the data set."""
        return (self.pixels,)

    @property
    def width(self) -> int:
        """Number of positions per image: its patches and the class token."""
        return int(self.pixels.shape[-1] // self.patch) ** 2 + 1

    @property
    def n_tokens(self) -> int:
        """Number of positions of all images."""
        return len(self) * self.width


def read_images(paths: Sequence[str | Path], size: int) -> npt.NDArray[np.uint8]:
    """Read images, cropped to centered squares and resized.

    Args:
        paths: Files and folders; folders are searched in sorted order.
        size: Side of the squares in pixels.

    Returns:
        [N, 3, size, size], uint8.

    Raises:
        CorpusError: A path is missing or has no images, or a file cannot be read as an image.
    """
    return np.stack([*_read(find_files(paths, SUFFIXES, "images"), size)])


def _read(files: Sequence[Path], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    from PIL import Image, ImageOps

    for file in files:
        try:
            with Image.open(file, formats=_FORMATS) as image:
                square = ImageOps.fit(image.convert("RGB"), (size, size))
        except Exception as error:  # each format raises its own errors
            reason = reason_of(error)
            raise CorpusError(f"{file}: cannot be read as an image ({reason}); repair or remove it") from error
        yield np.asarray(square).transpose(2, 0, 1)
