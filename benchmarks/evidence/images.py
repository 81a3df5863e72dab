"""The images of runs: those that are part of scikit-learn.

Shape suffixes: N images, X rows, Y columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

# The last digits are for validation.
_VALIDATED = 300
# Side of the squares, and the first column of the photographs, of 640, that is for validation.
_SQUARE, _CUT = 32, 512


def _digits() -> tuple[Pixels, Pixels]:
    import numpy as np
    from sklearn.datasets import load_digits

    # Their values are 0 to 16.
    images_NXY = (load_digits().images * (255 / 16)).astype(np.uint8)
    images_NXYC = np.repeat(images_NXY[..., None], 3, -1)
    return images_NXYC[:-_VALIDATED], images_NXYC[-_VALIDATED:]


def _photographs() -> tuple[Pixels, Pixels]:
    import numpy as np
    from sklearn.datasets import load_sample_images

    images_NXYC = np.stack(load_sample_images().images)
    return _squares(images_NXYC[:, :, :_CUT]), _squares(images_NXYC[:, :, _CUT:])


def _squares(images_NXYC: Pixels) -> Pixels:
    """All squares of images, every half of a side, row by row."""
    import numpy as np

    windows = np.lib.stride_tricks.sliding_window_view(images_NXYC, (_SQUARE, _SQUARE), (1, 2))
    chosen = windows[:, :: _SQUARE // 2, :: _SQUARE // 2]
    return chosen.reshape(-1, *chosen.shape[3:]).transpose(0, 2, 3, 1)


#: Functions that return images [N, X, Y, C] for training and for validation, by name.
IMAGES: dict[str, Callable[[], tuple[Pixels, Pixels]]] = {"digits": _digits, "photographs": _photographs}


def write_images(images_NXYC: Pixels, folder: Path) -> None:
    """Write images to files of a new folder, in order."""
    from PIL import Image

    folder.mkdir()
    for number, image_XYC in enumerate(images_NXYC):
        Image.fromarray(image_XYC).save(folder / f"{number:05}.png")
