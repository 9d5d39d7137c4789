"""Does the microphone deliver? It is opened as the daemon opens it and heard for two seconds; what was heard is not kept."""

import math

import numpy as np

from model.audio import Int16, s_to_samples
from model.errors import DeviceError
from monitor.config import Config
from monitor.doctor.findings import Finding, Verdict
from monitor.sound.capture import MicrophoneSource

_HEARD_S = 2.0
_FULL_SCALE = 32768
_UNMUTE = (
    "it delivers digital silence: it is muted. Unmute it in the sound settings, at its own switch, or with "
    "`pactl set-source-mute @DEFAULT_SOURCE@ 0`"
)


def microphone(config: Config, daemon: int | None) -> Finding:
    """daemon: the process that listens already, which may keep a sound card to itself. Raises DeviceError."""
    source = MicrophoneSource(config.audio.device, config.audio.buffer_ms, config.audio.queue_s)
    try:
        pcm = _heard(source)
    except DeviceError as error:
        if daemon is None:
            raise
        return Finding(Verdict.WARN, "microphone", f"{error}\nThe running monitor, process {daemon}, may keep it to itself.")
    if not pcm.any():
        return Finding(Verdict.WARN, "microphone", f"{source.description}: {_UNMUTE}")
    samples = pcm.astype(np.float64)
    level, peak = (_dbfs(float(value)) for value in (np.sqrt(np.mean(samples**2)), np.abs(samples).max()))
    return Finding(Verdict.OK, "microphone", f"{source.description}: {_HEARD_S:.0f} s at {level:.0f} dBFS, its loudest at {peak:.0f} dBFS")


def _heard(source: MicrophoneSource) -> Int16:
    chunks: list[Int16] = []
    with source:
        for chunk in source:
            chunks.append(chunk.pcm)
            if chunk.end >= s_to_samples(_HEARD_S):
                break
    return np.concatenate(chunks)


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1.0) / _FULL_SCALE)
