"""Features of diffusion transformers, extracted once and matched, propagated and scored from a cache."""

import os

# Before any library reads them: nothing phones home, and no bars but our own.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(_name, "1")
