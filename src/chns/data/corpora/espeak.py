"""eSpeak NG through its C interface: one engine, one voice.

The engine keeps state in static variables (phase of the pitch flutter, gain control, filters of the breath noise), and
ending and initialising it again leaves them as they are, so the same sentence sounds a little different each time.
Audio that depends on nothing but its settings needs a fresh copy: ``open_engine`` loads the shared library and, at
the end, unloads it with all it remembers. That costs about two milliseconds.

The interface is ``speak_lib.h`` of eSpeak NG 1.52; its ``docs/voices.md`` explains the text of a voice variant.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from chns.core.errors import ChnsError
from chns.data.audio import Waveform

_DATA_FILES = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALISE_DO_NOT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def require_espeak() -> None:
    """Check that the engine is installed.

    Raises:
        ChnsError: If it is not.
    """
    _installed_paths()


@contextmanager
def open_engine(variant: str, *, seed: int) -> Iterator[Engine]:
    """Give an engine that speaks American English with one voice. Open only one at a time in a process.

    Args:
        variant: Lines of a voice variant file, such as ``pitch 90 120``.
        seed: Of the engine's own noise (breath), from 0.

    Yields:
        An engine in the same state each time.

    Raises:
        ChnsError: If the package ``espeakng-loader`` is missing, or the engine cannot start.
    """
    library_path, installed_data = _installed_paths()
    with tempfile.TemporaryDirectory(prefix="chns-espeak-") as folder, _loaded(library_path) as library:
        _lay_out_data(Path(folder), installed_data, variant)
        yield Engine(library, Path(folder), seed=seed)


class Engine:
    """A running eSpeak NG; made by ``open_engine``."""

    def __init__(self, library: ctypes.CDLL, folder: Path, *, seed: int) -> None:
        self._library = library
        self._chunks: list[bytes] = []
        self._callback = _SynthCallback(self._receive)  # kept: the library holds no reference
        rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, bytes(folder), _INITIALISE_DO_NOT_EXIT)
        if rate_hz <= 0 or library.espeak_SetVoiceByName(b"english+speaker") != 0:
            raise ChnsError(
                f"eSpeak NG must start with its voice data, got status {rate_hz}. "
                "Reinstall it with `pip install --force-reinstall espeakng-loader`."
            )
        library.espeak_SetSynthCallback(self._callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self.sample_rate_hz = int(rate_hz)

    def synthesise(self, text: str, *, rate_words_per_minute: int, pitch: int, pitch_range: int) -> Waveform:
        """Speak.

        Args:
            text: English.
            rate_words_per_minute: 80 to 450.
            pitch: 0 to 100 over two octaves; 50 leaves the voice's own.
            pitch_range: 0 (monotone) to 100; 50 leaves the voice's own.

        Returns:
            Samples in [-1, 1] at ``sample_rate_hz``, shape (samples,), float32.

        Raises:
            ChnsError: If the engine refuses or says nothing.
        """
        self._library.espeak_SetParameter(_PARAMETER_RATE, rate_words_per_minute, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        self._library.espeak_SetParameter(_PARAMETER_RANGE, pitch_range, 0)
        self._chunks.clear()
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        status = self._library.espeak_Synth(encoded, size, 0, 0, 0, _CHARACTERS_UTF8, None, None)
        samples = np.frombuffer(b"".join(self._chunks), np.int16)
        if status != 0 or not samples.any():
            raise ChnsError(f"text must be speakable by eSpeak NG, got {text!r} (status {status}).")
        return samples.astype(np.float32) / np.float32(32768)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: int) -> int:
        if num_samples > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * num_samples))
        return 0


@contextmanager
def _loaded(library_path: Path) -> Iterator[ctypes.CDLL]:
    library = ctypes.CDLL(str(library_path))
    try:
        yield library
    finally:
        library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _installed_paths() -> tuple[Path, Path]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ChnsError(
            "espeakng-loader must be installed, got no such package. Run `pip install 'chns[synthetic]'`."
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _lay_out_data(folder: Path, installed_data: Path, variant: str) -> None:
    """A data folder of one language and one voice; the engine finds no more than 350 voices in a folder."""
    data = folder / "espeak-ng-data"
    (data / "lang").mkdir(parents=True)
    (data / "voices" / "!v").mkdir(parents=True)
    for name in _DATA_FILES:
        (data / name).symlink_to(installed_data / name)
    (data / "lang" / "english").symlink_to(installed_data / "lang" / "gmw" / "en-US")
    (data / "voices" / "!v" / "speaker").write_text(f"language variant\nname speaker\n{variant}\n")
