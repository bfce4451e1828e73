"""Prompts to token ids: cut, ended and refused as they should be."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from tests.prompts import BEGIN, CONTEXT, END, VOCABULARY, save_tokenizer
from vta_rt.config import TextConfig
from vta_rt.errors import OptionError, PromptWarning, VTAError
from vta_rt.text import PromptTokenizer

TEXT = TextConfig(VOCABULARY, CONTEXT)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_prompts_begin_and_end_as_the_file_says(file: Path) -> None:
    tokenizer = PromptTokenizer(file, TEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer("a drum").tolist() == [BEGIN, 1, 3, END]
        assert tokenizer("bell drum a drum").tolist() == [BEGIN, 2, 3, 1, 3, END]  # as many as there may be
    assert str(tokenizer("a").dtype) == "int64"


def test_a_prompt_that_spells_the_end_ends_there(file: Path) -> None:
    assert PromptTokenizer(file, TEXT)("a </s> drum").tolist() == [BEGIN, 1, END]


def test_the_end_of_a_long_prompt_is_left_out_and_that_is_said_once(file: Path) -> None:
    tokenizer = PromptTokenizer(file, TEXT)
    with pytest.warns(PromptWarning, match=r"^prompt 'a bell a bell a bell' is 8 tokens long; .* first 6$") as caught:
        assert tokenizer("a bell a bell a bell").tolist() == [BEGIN, 1, 2, 1, 2, END]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer("a bell a bell a bell", warn=False)


@pytest.mark.parametrize(
    ("prompt", "message"), [("", "prompt is empty"), (" \t", "prompt is empty"), (7, "prompt is 7, a text is needed")]
)
def test_prompts_that_say_nothing(file: Path, prompt: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PromptTokenizer(file, TEXT)(prompt)  # type: ignore[arg-type]


def test_files_that_are_no_tokenizer_of_this_model(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    other = save_tokenizer(tmp_path / "other.json", begin=END, end=BEGIN)
    for path, text, message in (
        (tmp_path / "nowhere.json", TEXT, r"nowhere\.json: is not there; the tokenizer\.json of CLIP is needed$"),
        (tmp_path / "broken.json", TEXT, r"broken\.json: is no tokenizer\.json \("),
        (other, TEXT, r"other\.json: is not CLIP's tokenizer\.json: prompts must end with token 9"),
        (file, TextConfig(VOCABULARY + 1, CONTEXT), "must end with token 10"),
        (file, TextConfig(VOCABULARY - 1, CONTEXT), "must end with token 8"),
    ):
        with pytest.raises(OptionError, match=message) as caught:
            PromptTokenizer(path, text)
        assert "\n" not in str(caught.value)


def test_without_the_library_it_is_said_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(VTAError, match=r'^tokenizers is not installed; prompts need: pip install "vta-rt\[text\]"$'):
        PromptTokenizer(file, TEXT)


def test_a_tokenizer_of_clips_own_kind_gives_its_ids(tmp_path: Path) -> None:
    """Byte pairs, lower case, words that end in </w>: built as transformers builds CLIP's, of a few merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = [("b", "e"), ("l", "l</w>"), ("be", "ll</w>"), ("r", "u"), ("d", "ru"), ("dru", "m</w>")]
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), *special]
    clip = CLIPTokenizer({token: index for index, token in enumerate(tokens)}, merges)
    clip.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PromptTokenizer(tmp_path / "tokenizer.json", TextConfig(len(tokens), 12))
    bell = tokens.index("bell</w>")
    assert tokenizer("  Bell \n").tolist() == [len(tokens) - 2, bell, len(tokens) - 1]
    for prompt in ("a bell, a DRUM", "a dog's bowl", "Glöckchen 12", "bell " * 10, "鐘 <|endoftext|> x"):
        expected = clip(prompt, truncation=True, max_length=12)["input_ids"]
        found = tokenizer(prompt, warn=False).tolist()
        assert found == expected[: expected.index(len(tokens) - 1) + 1]  # as far as it is read
    with pytest.warns(PromptWarning, match="is 14 tokens long; the model reads the first 12"):
        tokenizer("bell " * 12)


def test_a_tokenizer_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(OptionError, match="has 1099511627776 bytes, at most 67108864 are read"):
        PromptTokenizer(tmp_path / "tokenizer.json", TextConfig())
