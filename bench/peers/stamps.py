"""What every worker under measurement reports: when its first job began, and pickup latencies.

Imported by path in each peer's own environment, so it needs the standard library alone.
"""

import json
import time
from pathlib import Path


class Stamps:
    """Writes to *path*: one JSON line at the first job, then one latency in ms per marked job."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._begun = False

    def begin(self) -> None:
        """Say that the first job runs; costs an attribute test ever after."""
        if self._begun:
            return
        self._begun = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"begun": time.time()}) + "\n")

    def mark(self, sent_at: float) -> None:
        """Write how long ago *sent_at* (``time.time()`` of the producer) was."""
        late_ms = (time.time() - sent_at) * 1000
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{late_ms:.3f}\n")
