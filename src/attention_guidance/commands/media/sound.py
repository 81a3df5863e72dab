"""Read audio files and cut them into segments of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attention_guidance.commands.text.files import find_files
from attention_guidance.errors import ConfigError, CorpusError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
SAMPLES_PER_SECOND = 16_000
# The feature encoder of Wav2Vec2 and HuBERT: 400 samples per frame, with a stride of 320, i.e. 20 ms.
_WINDOW, _STRIDE = 400, 320


@dataclass(frozen=True)
class AudioSegments:
    """Audio segments of equal length.

    Attributes:
        samples: [N, S], int16, at 16 kHz.
        truncated: Number of recordings shorter than a segment.
    """

    samples: npt.NDArray[np.int16]
    truncated: int = 0

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.samples)

    def __getitem__(self, index: int) -> npt.NDArray[np.int16]:
        """Return a segment [S]."""
        segment: npt.NDArray[np.int16] = self.samples[index]
        return segment

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int16], ...]:
        """The arrays that determine the segments; their digest identifies the data set."""
        return (self.samples,)

    @property
    def width(self) -> int:
        """Number of frames per segment, 20 ms each."""
        return int(self.samples.shape[1] - _WINDOW) // _STRIDE + 1

    @property
    def n_tokens(self) -> int:
        """Number of frames of all segments."""
        return len(self) * self.width


def samples_per_segment(frames: int) -> int:
    """Number of samples in a segment of this many frames."""
    return _STRIDE * (frames - 1) + _WINDOW


def read_sound(paths: Sequence[str | Path], frames: int) -> AudioSegments:
    """Read recordings as 16 kHz mono and cut them into segments; the remainder of a recording is dropped.

    Args:
        paths: Files and folders; folders are searched in sorted order.
        frames: Frames per segment, 20 ms each.

    Raises:
        ConfigError: soundfile is not installed.
        CorpusError: A path is missing, a file cannot be read, or all recordings are shorter than a segment.
    """
    width = samples_per_segment(frames)
    segments, n_short = [], 0
    for samples in _read(find_files(paths, SUFFIXES, "recordings")):
        n_segments = len(samples) // width
        n_short += not n_segments
        segments.append(samples[: n_segments * width].reshape(-1, width))
    joined = np.concatenate(segments)
    if not len(joined):
        raise CorpusError(
            f"{paths[0]}: all recordings are shorter than a segment of {width / SAMPLES_PER_SECOND:.2f} s (block_size="
            f"{frames} frames of 20 ms); lower `block_size`"
        )
    return AudioSegments(joined, n_short)


def _read(files: Sequence[Path]) -> Iterator[npt.NDArray[np.int16]]:
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("reading audio needs soundfile: pip install 'attention-guidance[speech]'") from error
    from scipy.signal import resample_poly

    for file in files:
        try:
            samples_SC, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise CorpusError(f"{file}: cannot be read as audio ({error}); repair or remove it") from error
        if not np.isfinite(samples_SC).all():
            raise CorpusError(f"{file}: has samples that are not finite numbers; repair or remove it")
        mono = samples_SC.mean(1)
        if rate != SAMPLES_PER_SECOND:
            mono = resample_poly(mono, SAMPLES_PER_SECOND, rate)
        yield (mono * 32767).clip(-32768, 32767).astype(np.int16)
