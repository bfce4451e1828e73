"""The latency benchmark's figures as lines, as a table and as a chart. Knows rows, not how they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = (
    "row",
    "batch",
    "encode",
    "denoise",
    "decode",
    "vocode",
    "total",
    "p95",
    "floor",
    "cold s",
    "host GB",
    "GPU GB",
)


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """One row as text, with how many times faster it is than as published at the same batch."""
    base = next((other for other in rows if other["row"] == "published" and other["batch"] == row["batch"]), None)
    faster = f", {base['total']['p50_ms'] / row['total']['p50_ms']:.1f} x as published" if base else ""
    return f"{row['title']}, batch {row['batch']}: {row['total']['p50_ms']:,.1f} ms{faster} ({row['runs_on']})"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, ready for the README: milliseconds, the median of each stage and of the whole."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        stages = [f"{row['stages'][stage]['p50_ms']:,.1f}" for stage in ("encode", "denoise", "decode", "vocode")]
        total = [f"{row['total'][name]:,.1f}" for name in ("p50_ms", "p95_ms")]
        rest = (row["floor_ms"], row["cold_start_s"], row["host_gb"], row["device_gb"])
        cells = [row["title"], str(row["batch"]), *stages, *total, *("" if x is None else f"{x:,g}" for x in rest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> Path | None:
    """Bars of the stages' medians, one a row, on a scale of powers of ten; None without matplotlib or rows."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if not rows:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['title']}, batch {row['batch']}" for row in rows]
    axes.barh(names, [row["total"]["p50_ms"] for row in rows], color="#4878a8", label="frames to wave, median")
    floors = [(name, row["floor_ms"]) for name, row in zip(names, rows, strict=True) if row["floor_ms"]]
    if floors:
        axes.plot(*reversed(list(zip(*floors, strict=True))), "|", color="black", markersize=14, label="floor")
    for name, row in zip(names, rows, strict=True):
        axes.annotate(
            f" {row['total']['p50_ms']:,.0f} ms", (row["total"]["p50_ms"], name), va="center", annotation_clip=False
        )
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds (logarithmic)")
    figure.legend(loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path
