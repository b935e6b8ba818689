"""What the server of the demo was started with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sap3d.photos.intake import Limits


@dataclass(frozen=True)
class Settings:
    """Where the demo keeps its things, and what it takes and offers."""

    root: Path  # jobs/ID and results/TOKEN of visitors, examples/NAME
    limits: Limits = field(default_factory=lambda: Limits(photos=8, megabytes=30.0))
    published: Sequence[str] = ()  # what run_pipeline.sh is told of the published weights, where they are

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def examples(self) -> Path:
        """Examples as they are shown: jobs that are done (examples.py)."""
        return self.root / "examples"

    @property
    def served(self) -> list[str]:
        """Folders whose files a browser may ask for: results alone, never photos, logs or jobs."""
        return [str(self.root / "results")]
