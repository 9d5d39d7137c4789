"""The words of an utterance, from a Whisper model through CTranslate2 on the CPU. Nothing is downloaded. This file owns faster_whisper.

N samples.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.audio import SAMPLE_RATE, Float32
from model.errors import TranscriberUnavailable

MAX_TRANSCRIPT_BYTES = 400
"""Room for 15 s of fast speech. At one token a byte, the most that a byte-level tokenizer makes of it, a request with every example
still fits a language model of 1,024 places."""

# Whisper's own sign that it wrote the same again and again (Radford et al., 2023, 4.5): how much shorter gzip makes a text.
_REPETITIVE = 2.4
_FILES = ("model.bin", "config.json", "tokenizer.json")


class Transcriber:
    """A Whisper model with its weights in 8 bits, unless another of CTranslate2's types is named.

    name: a size such as `base`, a hub name, or a folder; see `find_whisper_model`. language: as Whisper writes it, such as `pl`; empty: it
    is recognised for each utterance. threads: 0 leaves it to CTranslate2, which takes OMP_NUM_THREADS, or at most 4.
    """

    def __init__(self, name: str, language: str = "", *, compute_type: str = "int8", threads: int = 0) -> None:
        """Load the model and try it on silence. Raises TranscriberUnavailable."""
        folder = find_whisper_model(name)
        from faster_whisper import WhisperModel

        try:
            self._model = WhisperModel(str(folder), device="cpu", compute_type=compute_type, cpu_threads=threads)
        except Exception as error:  # tokenizers raises this very class for a tokenizer.json that is none
            raise TranscriberUnavailable(f"the Whisper model in {folder} cannot be loaded: {error}") from error
        known = self._model.supported_languages
        if language and language not in known:
            raise TranscriberUnavailable(f"the Whisper model {name} does not know the language {language!r}; it knows {', '.join(known)}")
        self._language = language
        self.description = f"{name}, {compute_type}, {_languages(language, known)}"
        try:
            self.transcribe(np.zeros(SAMPLE_RATE, np.float32))
        except Exception as error:
            raise TranscriberUnavailable(f"the Whisper model in {folder} loads but does not work: {error}") from error

    def transcribe(self, audio: Float32) -> str:
        """Audio (N,) in [-1, 1) at SAMPLE_RATE to its words in one line of at most MAX_TRANSCRIPT_BYTES; empty where there are none.

        The same audio gets the same words: nothing is drawn. What Whisper takes for silence, and what it only repeats, has no words.
        Whatever CTranslate2 raises passes.
        """
        # Whisper's window is 30 s: faster_whisper pads to it. Each is a text of its own, so that no error is carried on, and of at most
        # 224 tokens, where CTranslate2 stops.
        parts, _ = self._model.transcribe(
            audio,
            # With `multilingual` the language named here gives way to the one recognised, by the same pass of the encoder.
            language=self._language or "en",
            multilingual=not self._language and len(self._model.supported_languages) > 1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            vad_filter=False,
        )
        return _bounded(" ".join(_texts(parts)))


def find_whisper_model(name: str) -> Path:
    """The folder of a Whisper model in CTranslate2's format: a folder, or what the local Hugging Face cache has under a size or hub name.

    Raises TranscriberUnavailable with how to get it; never asks the network.
    """
    try:
        from faster_whisper import available_models, download_model
    except ImportError as error:
        raise TranscriberUnavailable(f"faster-whisper cannot be imported ({error}); pip install 'emosllm-monitor[transcribe]'") from error
    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(download_model(name, local_files_only=True))
        except ValueError as error:
            sizes = ", ".join(available_models())
            raise TranscriberUnavailable(
                f"there is no Whisper model {name!r}; name a folder, owner/name on the hub, or one of {sizes}"
            ) from error
        except OSError as error:
            raise TranscriberUnavailable(
                f"the Whisper model {name!r} is not on this machine, and the monitor downloads nothing; name a folder, or get it with\n"
                f"{sys.executable} -c \"import faster_whisper; faster_whisper.download_model('{name}')\""
            ) from error
    # Without a tokenizer faster_whisper would look for one on the network.
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise TranscriberUnavailable(
            f"{folder} is no Whisper model in CTranslate2's format: {', '.join(missing)} is missing; make one with"
            " `ct2-transformers-converter --model SOURCE --copy_files tokenizer.json preprocessor_config.json --output_dir FOLDER`"
        )
    return folder


def _texts(parts: Any) -> Iterator[str]:
    for part in parts:
        if part.compression_ratio <= _REPETITIVE:
            yield part.text


def _bounded(text: str) -> str:
    text = " ".join(text.split())
    if len(text.encode()) <= MAX_TRANSCRIPT_BYTES:
        return text
    cut = text.encode()[:MAX_TRANSCRIPT_BYTES].decode(errors="ignore")
    return cut.rpartition(" ")[0] or cut


def _languages(language: str, known: list[str]) -> str:
    return f"language {language or known[0]}" if language or len(known) == 1 else "any language"
