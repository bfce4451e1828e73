"""The command ``python -m train.tokenizer``: writes a tokenizer.json of entire words, for a text encoder of one's own.

Prompts end with the vocabulary's last id, as CLIP's do. All words that are in no list become one unknown word.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vta_rt.cli.command import run_command
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write

UNKNOWN_WORD, BEGIN_PROMPT, END_PROMPT = "<unknown>", "<begin>", "<end>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a tokenizer as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_write, arguments, extra="train")


def _write(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    from train.data.lists import read_list

    listings = [read_list(path) for path in options.lists]
    words = write_tokenizer(
        Path(options.out), (entry.text for each in listings for entry in each.entries), options.vocabulary
    )
    print(f"{options.out}: {words} words, a vocabulary of {options.vocabulary} (model.text.vocabulary)")
    return 0


def write_tokenizer(path: Path, texts: Iterable[str], vocabulary: int) -> int:
    """Write a tokenizer of the lower-case words and punctuation marks of some texts; returns the number of words.

    Args:
        vocabulary: number of ids; if there are more words, the rarest are left out. The last two ids begin and end a
            prompt.

    Raises:
        OptionError: no words, or no room for any. OutputError: the file cannot be written.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing

    if vocabulary < 4:
        raise OptionError(f"vocabulary is {vocabulary}, 4 or more are needed: one word, and the unknown, begin and end")
    special = {BEGIN_PROMPT: vocabulary - 2, END_PROMPT: vocabulary - 1}
    tokenizer = Tokenizer(WordLevel({UNKNOWN_WORD: 0, **special}, unk_token=UNKNOWN_WORD))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    counts = Counter(
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    )
    if not counts:
        raise OptionError("no clip of these lists has a description to take words from")
    kept = sorted(word for word, _ in counts.most_common(vocabulary - 3))
    words = {word: index for index, word in enumerate(kept, 1)}
    tokenizer.model = WordLevel({UNKNOWN_WORD: 0, **words, **special}, unk_token=UNKNOWN_WORD)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN_PROMPT} $A {END_PROMPT}", special_tokens=list(special.items())
    )
    with atomic_write(path) as temporary:
        tokenizer.save(str(temporary))
    return len(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.tokenizer",
        description="Write a tokenizer.json that knows the words in the descriptions of clips: what a small model trained "
        "with prompts needs where CLIP's own is too large.",
    )
    parser.add_argument("lists", nargs="+", metavar="LIST", help="lists of clips (.jsonl) in the published form")
    parser.add_argument("--out", required=True, metavar="FILE", help="the tokenizer's file")
    parser.add_argument(
        "--vocabulary", type=int, default=64, metavar="N", help="ids, as model.text.vocabulary says (default: 64)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
