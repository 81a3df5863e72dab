"""Read recordings into stretches of equal length, and say exactly which file cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attention_guidance.commands.text.files import found_files
from attention_guidance.errors import ConfigError, CorpusError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
SAMPLES_PER_SECOND = 16_000
# Of Wav2Vec2 and HuBERT: a frame sees 400 samples, and the next begins 320 later, i.e. after 20 ms.
_SEEN, _STEP = 400, 320


@dataclass(frozen=True)
class Stretches:
    """Stretches of sound of one length.

    Attributes:
        samples: [N, S], int16, 16,000 a second.
        truncated: recordings that had no whole stretch.
    """

    samples: npt.NDArray[np.int16]
    truncated: int = 0

    def __len__(self) -> int:
        """Return the number of stretches."""
        return len(self.samples)

    def __getitem__(self, index: int) -> npt.NDArray[np.int16]:
        """Return a stretch [S]."""
        stretch: npt.NDArray[np.int16] = self.samples[index]
        return stretch

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int16], ...]:
        """All that distinguishes these stretches from others."""
        return (self.samples,)

    @property
    def width(self) -> int:
        """Frames of a stretch, 20 ms each."""
        return int(self.samples.shape[1] - _SEEN) // _STEP + 1

    @property
    def n_tokens(self) -> int:
        """Frames of all stretches."""
        return len(self) * self.width


def samples_of(frames: int) -> int:
    """The samples of a stretch of so many frames."""
    return _STEP * (frames - 1) + _SEEN


def read_sound(paths: Sequence[str | Path], frames: int) -> Stretches:
    """Read recordings, mixed to one channel, resampled, and cut into stretches; what is left over at an end is dropped.

    Args:
        paths: files and folders; folders are searched through in sorted order.
        frames: of a stretch, 20 ms each.

    Raises:
        ConfigError: the library that reads sound is not installed.
        CorpusError: a path is missing, a file cannot be read, or no recording is as long as a stretch.
    """
    width = samples_of(frames)
    stretches, short = [], 0
    for samples in _read(found_files(paths, SUFFIXES, "recordings")):
        n_whole = len(samples) // width
        short += not n_whole
        stretches.append(samples[: n_whole * width].reshape(-1, width))
    whole = np.concatenate(stretches)
    if not len(whole):
        raise CorpusError(
            f"{paths[0]}: no recording is as long as a stretch of {width / SAMPLES_PER_SECOND:.2f} s (block_size="
            f"{frames} frames of 20 ms); lower `block_size`"
        )
    return Stretches(whole, short)


def _read(files: Sequence[Path]) -> Iterator[npt.NDArray[np.int16]]:
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("reading sound needs soundfile: pip install 'attention-guidance[speech]'") from error
    from scipy.signal import resample_poly

    for file in files:
        try:
            samples_SC, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise CorpusError(f"{file}: not a recording that can be read ({error}); repair or remove it") from error
        if not np.isfinite(samples_SC).all():
            raise CorpusError(f"{file}: has samples that are not finite numbers; repair or remove it")
        mono = samples_SC.mean(1)
        if rate != SAMPLES_PER_SECOND:
            mono = resample_poly(mono, SAMPLES_PER_SECOND, rate)
        yield (mono * 32767).clip(-32768, 32767).astype(np.int16)
