"""What the fuzzers start from: a small file of each of twelve containers, and a bundle's manifest."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from tests.files.studio import BITS, H264, MJPEG, MPEG2, MPEG4, THEORA, VP8, Studio, bars, drawn

SHORT = [*bars(0.4), *drawn("32x32")]
SOUND = ["-f", "lavfi", "-i", "sine=d=0.4:r=16000"]
CONTAINERS = {
    "mp4": [*bars(0.4), *SOUND, *drawn("32x32"), *H264, "-c:a", "aac", "-movflags", "+faststart"],
    "fragmented.mp4": [*SHORT, *H264, "-movflags", "frag_keyframe+empty_moov"],
    "mov": [*SHORT, *MJPEG, "-timecode", "01:00:00:00"],
    "mkv": [*bars(0.4), *SOUND, *drawn("32x32"), *H264, "-c:a", "flac"],
    "webm": [*SHORT, *VP8],
    "avi": [*SHORT, *MPEG4],
    "ts": [*SHORT, *H264],
    "mpg": [*SHORT, *MPEG2, "-f", "vob"],
    "flv": [*SHORT, *H264],
    "wmv": [*SHORT, "-c:v", "wmv2"],
    "ogv": [*SHORT, *THEORA],
    "gif": [*bars(0.4, 10), *drawn("32x32", "rgb8")],
}


def write_videos(folder: Path) -> list[Path]:
    """One file of each container, each of a few kilobytes; needs the ffmpeg command."""
    (folder / "numbers.gray").write_bytes(
        bytes(255 * (number >> column & 1) for number in range(256) for _ in range(BITS) for column in range(BITS))
    )
    for name, arguments in CONTAINERS.items():
        Studio(folder).ffmpeg(*arguments, f"seed.{name}")
    (folder / "numbers.gray").unlink()
    return sorted(folder.iterdir())


def manifest() -> dict:
    """A manifest that can be read: the demo's, small."""
    return json.loads((Path(__file__).parents[2] / "engines" / "demo" / "bundle.json").read_text())


def write_corpus(target: str, folder: Path) -> None:
    """The files that the fuzzer of ``target`` starts from."""
    if target != "manifest":
        write_videos(folder)
        return
    (folder / "seed.json").write_text(json.dumps(manifest()))
    (folder / "empty.json").write_text("{}")


LARGE = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutate(data: bytes, choice: random.Random) -> bytes:
    """A damaged copy: bytes changed, overwritten, taken out, repeated or put in, more often where headers are."""
    changed = bytearray(data)
    for _ in range(choice.choice((1, 1, 1, 2, 4, 16))):
        size = len(changed)
        at = choice.randrange(min(size, 1024) if choice.random() < 0.6 else size)
        length = choice.choice((1, 2, 4, 8, 64, 512))
        match choice.randrange(7):
            case 0:
                changed[at] ^= 1 << choice.randrange(8)
            case 1:
                changed[at : at + length] = choice.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + 4] = choice.choice(LARGE).to_bytes(4, choice.choice(("big", "little")))
            case 5:
                changed[at : at + length] = bytes(length)
            case 6:
                del changed[choice.randrange(size // 8, size) :]
        if len(changed) < 16:
            break
    return bytes(changed)


def make_temporary(prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix))
