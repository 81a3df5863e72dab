"""The data of a run: the embedded text, texts of ../shared/data, images, and the data in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.errors import GuidanceError

from .images import IMAGES, write_images
from .study import Spec

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
    from attention_guidance.commands.pretraining.settings.config import RunConfig

SHARED = Path(__file__).parents[3] / "shared" / "data"
# Settings that decide the data, beside the text.
_DECIDES = ("objective", "arch", "vocab_size", "block_size", "max_validation_tokens", "image_size", "patch_size")
_prepared: dict[tuple[Any, ...], PreparedData] = {}


def flags_of(spec: Spec, folder: Path, work: Path) -> dict[str, Any]:
    """All settings of a run, with the files of its text or images.

    Args:
        spec: The run.
        folder: Folder of texts.
        work: Where to write the files of images.

    Raises:
        GuidanceError: The files are not there.
    """
    files = {}
    if spec.text in IMAGES:
        files = {"corpus": work / "train", "validation": work / "valid"}
        for file, images_NXYC in zip(files.values(), IMAGES[spec.text](), strict=True):
            write_images(images_NXYC, file)
    elif spec.text != "bible":
        files = {"corpus": folder / spec.text / "train.txt", "validation": folder / spec.text / "valid.txt"}
        for file in files.values():
            if not file.is_file():
                raise GuidanceError(f"{file}: no such file; the text {spec.text} is not there, give --data")
    return spec.flags | {field: [str(file)] for field, file in files.items()} | {"seed": spec.seed}


def prepared(spec: Spec, config: RunConfig) -> PreparedData:
    """Read the data of a run, which several runs share; only the newest are kept in memory."""
    from attention_guidance.commands.pretraining.preparation.prepare import prepare_data

    key = (spec.text, *(getattr(config, name) for name in _DECIDES))
    if key not in _prepared:
        while len(_prepared) >= 8:
            del _prepared[next(iter(_prepared))]
        _prepared[key] = prepare_data(config, lambda said: None)
    return _prepared[key]


def unigram_entropy(data: PreparedData) -> float | None:
    """The entropy of the validation tokens in nats: the least loss without any context; None without tokens."""
    import numpy as np

    if data.tokenizer is None:
        return None
    ids = data.validation.arrays[0].ravel()
    counts = np.bincount(ids[~np.isin(ids, data.tokenizer.all_special_ids)])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
