"""Features of diffusion transformers, extracted once; matched, propagated, searched and scored from a store."""

import os
from typing import TYPE_CHECKING, Any

# Before any library reads them: nothing reports home, and there are no progress bars but our own.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(_name, "1")

if TYPE_CHECKING:
    from ditf.features.extractor import Extractor
    from ditf.features.fusion import open_store
    from ditf.features.store import FeatureStore, ImageFeatures
    from ditf.notebook import load_results, match

__all__ = ["Extractor", "FeatureStore", "ImageFeatures", "load_results", "match", "open_store"]

_HOMES = {
    "Extractor": "ditf.features.extractor",
    "FeatureStore": "ditf.features.store",
    "ImageFeatures": "ditf.features.store",
    "open_store": "ditf.features.fusion",
    "load_results": "ditf.notebook",
    "match": "ditf.notebook",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used first, so that `import ditf` takes no seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ditf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
