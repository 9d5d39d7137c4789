"""The optional parts of an installation (`[project.optional-dependencies]`), and what to say where one is missing."""

import importlib.util

from model.errors import MissingExtra

# The extra that brings a module. Engines and transcribers have messages of their own; accelerate and tokenizers come with peft.
EXTRAS = {
    "jiwer": "train",
    "matplotlib": "train",
    "parselmouth": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "fhir": "reports",
    "pyarrow": "reports",
    "weasyprint": "reports",
    "psycopg": "clinic",
    "prometheus_client": "server",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtra:
    """The error a person can act on. Raises `error` itself where its module belongs to no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    return MissingExtra(module, EXTRAS[module])


def require(module: str) -> None:
    """Raise MissingExtra where a module of an extra is not installed; for what would fail late, or in another process."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(module, EXTRAS[module])
