"""What a model reads of a text, against transformers' own truncation, and when no tokenizer is loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from trainables.embedded import GENERATOR
from trainables.errors import UserError
from trainables.models.prompt_lengths import PromptReader, memory_reader, pipeline_reader

TEXTS = [
    "",
    "   ",
    "a sks cat",
    "A SKS CAT",
    "a  sks\tcat",
    "a sks cat " * 20,
    "a photo of a cat in the snow wearing a magnificent and extraordinary embroidered hat at night",
    "\N{CAT}" * 12 + " in the snow",
    "İstanbul " * 8,
    "e\u0301" * 30,
    "\u0958" * 14,
    "猫は雪の中で眠っている、とても静かな夜でした",
    "<|endoftext|> a cat <|startoftext|> " + "dog " * 40,
]


@pytest.fixture(scope="module")
def stock() -> CLIPTokenizer:
    """The embedded model's tokenizer as the stock pipeline loads it."""
    return CLIPTokenizer.from_pretrained(str(GENERATOR / "tokenizer"))


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    """What reads prompts as the embedded model does, without transformers."""
    found = pipeline_reader(GENERATOR)
    assert found is not None
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_stock_tokenizer(
    text: str, stock: CLIPTokenizer, reader: PromptReader
) -> None:
    whole = stock(text).input_ids
    cut = stock(text, truncation=True, max_length=32).input_ids
    readings = reader.read([text, "x" * 100])
    assert readings is not None
    first = readings[0]
    assert [whole[0], *first.all_ids, whole[-1]] == whole
    assert [cut[0], *first.read_ids, cut[-1]] == cut
    assert first.tokens == len(whole)
    assert (first.cut_at is not None) == (len(whole) > 32)
    if len(whole) > 32:
        assert reader.could_cut(text)
        assert first.lost
        assert text.rstrip().endswith(first.lost)
    assert memory_reader(stock).read([text, "x" * 100]) == readings


def test_a_tokenizer_in_two_files_reads_the_same(reader: PromptReader, tmp_path: Path) -> None:
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(GENERATOR / part, tmp_path / part, ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    other = pipeline_reader(tmp_path)
    assert other is not None
    assert other.read(TEXTS) == reader.read(TEXTS)


def test_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    assert pipeline_reader(tmp_path) is None
    (tmp_path / "tokenizer/tokenizer.json").write_text('{"model": {"vocab": 1}}')
    reader = pipeline_reader(tmp_path)
    assert reader is not None
    with pytest.raises(UserError, match="cannot be loaded"):
        reader.read(["cat " * 100])


def test_lost_words_are_whole(reader: PromptReader) -> None:
    (reading,) = reader.read(["cat " * 29 + "extraordinary dog"]) or ()
    assert reading.lost == "extraordinary dog"
    (reading,) = reader.read(["cat " * 30]) or [None]
    assert reading is not None
    assert reading.cut_at is None
    assert reading.lost == ""


def test_short_texts_load_no_tokenizer() -> None:
    def load() -> None:
        raise AssertionError

    assert PromptReader(32, load).read(["x" * 30, "", "\N{CAT}" * 7]) is None  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        PromptReader(32, load).read(["\N{CAT}" * 8])  # type: ignore[arg-type]


def test_reading_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from trainables.models.prompt_lengths import pipeline_reader;"
        "from trainables.embedded import GENERATOR;"
        "assert pipeline_reader(GENERATOR).read(['cat ' * 40]); print({'torch', 'transformers'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"
