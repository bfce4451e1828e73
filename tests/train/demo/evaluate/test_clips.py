"""A generated data set is read as it was written; what is wrong with one is said in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from train.demo.evaluate.clips import Clip, Event, Wheel, find_partners, make_clip, read_clips
from train.demo.synthetic.dataset import WorldRecipe, write_dataset
from vta_rt.errors import OptionError, VTAError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Twenty clips of a second, of which two are for testing; and their records."""
    out = tmp_path_factory.mktemp("world")
    return out, sorted(write_dataset(out, WorldRecipe(3, 1.0), 20), key=lambda record: record["video_path"])


def with_events(folder: Path, text: str) -> Path:
    (folder / "events.jsonl").write_text(text)
    return folder


def test_reads_what_was_written(written: tuple[Path, list[dict]]) -> None:
    folder, records = written
    clips = read_clips(folder, "test")
    assert [clip.name for clip in clips] == ["000009", "000019"]
    assert [clip.index for clip in clips] == [0, 1]
    for clip, record in zip(clips, (records[9], records[19]), strict=True):
        assert clip.times == [event["time"] for event in record["events"]]
        assert [event.material for event in clip.events] == [event["material"] for event in record["events"]]
        assert len(clip.wheels) == len(record["continuous"])
        assert clip.video.is_file()
        assert clip.audio.shape == (16_000,)
        assert 0 < np.abs(clip.audio).max() < 1
    assert len(read_clips(folder, "train", 3)) == 3
    assert len(read_clips(folder, "valid", most=99)) == 2


def test_refuses_what_is_not_there(written: tuple[Path, list[dict]], tmp_path: Path) -> None:
    folder, _ = written
    with pytest.raises(OptionError, match=r"clips is 3, but .* has 2 in its split 'test'"):
        read_clips(folder, "test", 3)
    with pytest.raises(OptionError, match=r"clips is 0"):
        read_clips(folder, "test", 0)
    with pytest.raises(OptionError, match=r"no split 'tset'; there are train \(16\), valid \(2\), test \(2\)"):
        read_clips(folder, "tset")
    with pytest.raises(VTAError, match=r"has no events.jsonl; a data set that python -m train.demo.synthetic"):
        read_clips(tmp_path, "test")


def test_refuses_broken_lines(written: tuple[Path, list[dict]], tmp_path: Path) -> None:
    record = next(record for record in written[1] if record["events"])
    with pytest.raises(VTAError, match=r"events.jsonl, line 2: Object missing required field"):
        read_clips(with_events(tmp_path, json.dumps(record) + "\n{}\n"), "test")
    with pytest.raises(VTAError, match=r"line 1: .*time"):
        broken = record | {"events": [record["events"][0] | {"time": "soon"}]}
        read_clips(with_events(tmp_path, json.dumps(broken)), "test")
    with pytest.raises(VTAError, match=r"line 1: unknown material 'cheese'; one of rubber"):
        broken = record | {"events": [record["events"][0] | {"material": "cheese"}]}
        read_clips(with_events(tmp_path, json.dumps(broken)), "test")
    with pytest.raises(VTAError, match=r"is empty"):
        read_clips(with_events(tmp_path, ""), "test")
    with pytest.raises(VTAError, match=r"\.wav: no such file"):
        read_clips(with_events(tmp_path, json.dumps(record)), record["split"])


def test_until_keeps_what_happens_before() -> None:
    events = tuple(Event(time, "bounce", "wood", 300.0) for time in (0.2, 0.5, 0.9))
    clip = Clip("one", "bounce", events, (Wheel(0.1, tuple(range(10))),), np.arange(16_000))
    short = clip.until(8_000)
    assert short.times == [0.2]
    assert short.wheels[0].speed == (0, 1, 2, 3, 4, 5)
    assert len(short.audio) == 8_000
    assert clip.until(16_000).times == clip.times


def test_partners_are_of_the_same_kind_and_never_itself() -> None:
    def clip(name: str, kind: str, events: int = 1) -> Clip:
        truth = {"time": 0.5, "kind": "bounce", "material": "wood", "pitch": 300.0}
        return make_clip({"kind": kind, "events": [truth] * events, "continuous": []}, np.zeros(1), name)

    clips = [clip("a", "bounce"), clip("b", "strike"), clip("c", "bounce"), clip("d", "bounce"), clip("e", "strike")]
    clips += [clip("alone", "mixed"), clip("x", "nothing", 0), clip("y", "nothing", 0)]
    partners = {name: other.name for name, other in find_partners(clips).items()}
    assert partners == {"a": "c", "c": "d", "d": "a", "b": "e", "e": "b"}
