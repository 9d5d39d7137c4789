"""Who writes down the words for bundles that are asked with them. Light to import: the transcriber is loaded only where it is needed."""

from typing import TYPE_CHECKING

from model.errors import BundleError
from model.manifest import BundleManifest
from monitor.config import EngineConfig

if TYPE_CHECKING:
    from model.transcriber import Transcriber


def require_transcriber(config: EngineConfig, manifest: BundleManifest) -> None:
    """Raises BundleError for a bundle that needs the words of each segment where no transcriber is set."""
    if manifest.strategy.needs_transcript and not config.transcriber:
        raise BundleError(
            f"{manifest.version} is asked with the words of each segment ({manifest.strategy}), and nobody writes them down: set [engine]"
            ' transcriber, for example to "base", and start the monitor again, or use another bundle'
        )


def open_transcriber(config: EngineConfig, manifest: BundleManifest, loaded: "Transcriber | None" = None) -> "Transcriber | None":
    """What transcribes for a bundle; None where it needs no words. loaded: one that is at hand already.

    Raises BundleError where none is set, TranscriberUnavailable where it cannot be loaded.
    """
    require_transcriber(config, manifest)
    if not manifest.strategy.needs_transcript:
        return None
    if loaded is not None:
        return loaded
    from model.transcriber import Transcriber

    return Transcriber(config.transcriber, config.transcriber_language)
