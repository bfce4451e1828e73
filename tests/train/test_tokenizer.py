from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.tokenizer import main, write_tokenizer
from vta_rt.config import TextConfig
from vta_rt.errors import OptionError
from vta_rt.text import PromptTokenizer


def test_words_of_lists_become_ids(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = [{"video_path": "a.mp4", "description": "A bell, a drum"}, {"video_path": "b.mp4", "description": "a drum"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "tokenizer.json"
    assert main([str(tmp_path / "train.jsonl"), "--out", str(out), "--vocabulary", "12"]) == 0
    assert "4 words, a vocabulary of 12" in capsys.readouterr().out
    tokenizer = PromptTokenizer(out, TextConfig(12, 8))
    assert tokenizer("A DRUM,  a horn").tolist() == [10, 2, 4, 1, 2, 0, 11]  # by the alphabet; 0 is unknown


def test_the_rarest_words_give_way(tmp_path: Path) -> None:
    assert write_tokenizer(tmp_path / "tokenizer.json", ["a bell", "a drum a drum"], 5) == 2
    assert PromptTokenizer(tmp_path / "tokenizer.json", TextConfig(5, 8))("a bell drum").tolist() == [3, 1, 0, 2, 4]


def test_nothing_to_make_a_tokenizer_of(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no clip of these lists has a description"):
        write_tokenizer(tmp_path / "tokenizer.json", ["", " "], 64)
    with pytest.raises(OptionError, match="vocabulary is 3, 4 or more"):
        write_tokenizer(tmp_path / "tokenizer.json", ["a"], 3)
    assert list(tmp_path.iterdir()) == []
