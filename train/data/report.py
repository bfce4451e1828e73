"""What loading cost and what could not be read. Knows no data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vta_rt.files import atomic_write


@dataclass
class LoadReport:
    """Counted while a loader runs.

    samples: clips given out. startup: seconds until the first step's clips were there. elapsed: seconds since then.
    waited: seconds of these that training stood still for want of data. skipped: why, by the name of each clip that was
    met and could not be read, and of each line of a list that is no clip.
    """

    samples: int = 0
    startup: float = 0.0
    elapsed: float = 0.0
    waited: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def waiting_share(self) -> float:
        """Share of the time spent waiting for data, 0 to 1; the start does not count."""
        return self.waited / self.elapsed if self.elapsed > 0 else 0.0

    @classmethod
    def merged(cls, reports: Iterable[LoadReport]) -> LoadReport:
        """One for several processes: samples add up, times are the longest."""
        reports = list(reports)
        slowest = max(reports, key=lambda report: report.waited, default=cls())
        return cls(
            sum(report.samples for report in reports),
            max((report.startup for report in reports), default=0.0),
            slowest.elapsed,
            slowest.waited,
            {name: reason for report in reports for name, reason in report.skipped.items()},
        )

    def summary(self) -> str:
        """One line."""
        line = f"{self.samples:,} samples, {self.waiting_share:.1%} of the time waiting for data, {len(self.skipped):,} skipped"
        return f"{line} (the first: {next(iter(self.skipped))})" if self.skipped else line

    def write(self, path: str | Path) -> None:
        """Write all of it as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        values = {
            "samples": self.samples,
            "startup_s": round(self.startup, 3),
            "elapsed_s": round(self.elapsed, 3),
            "waited_s": round(self.waited, 3),
            "waiting_share": round(self.waiting_share, 4),
            "skipped": self.skipped,
        }
        with atomic_write(path) as part:
            part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
