"""Cached features of diffusion transformers: extract once, then match, propagate, search and score.

Importing this package sets a few environment variables, unless the user has set them. They only have an effect on
libraries that are loaded afterwards, so import `ditf` before torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

ENVIRONMENT = {
    # An idle OpenMP thread spins at a barrier before it sleeps. By default it spins for so long that a busy machine
    # becomes up to 50 times slower, since the spinning thread occupies the core that the others wait for.
    "GOMP_SPINCOUNT": "1000",
    # No library sends usage statistics, and only this package shows progress bars.
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
if "OMP_WAIT_POLICY" in os.environ:
    del ENVIRONMENT["GOMP_SPINCOUNT"]  # it would override the user's policy
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from ditf import show
    from ditf.features.extractor import Extractor
    from ditf.features.fusion import open_store
    from ditf.features.reader import ImageFeatures
    from ditf.features.store import FeatureStore
    from ditf.matching.images import match, similarity
    from ditf.report.tables import load_results

_MODULES = {
    "Extractor": "ditf.features.extractor",
    "FeatureStore": "ditf.features.store",
    "ImageFeatures": "ditf.features.reader",
    "open_store": "ditf.features.fusion",
    "load_results": "ditf.report.tables",
    "match": "ditf.matching.images",
    "similarity": "ditf.matching.images",
}
__all__ = [
    "Extractor",
    "FeatureStore",
    "ImageFeatures",
    "__version__",
    "load_results",
    "match",
    "open_store",
    "show",
    "similarity",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import ditf` stays fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ditf")
    if name == "show":
        return import_module("ditf.show")
    if name not in _MODULES:
        raise AttributeError(f"module 'ditf' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
