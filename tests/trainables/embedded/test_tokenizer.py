"""The tokenizer of the embedded model."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from benchmarks.pretraining.tokens import apply_merges, make_merges
from trainables import embedded
from trainables.embedded.captions import VOCABULARY

FOLDERS = (embedded.GENERATOR / "tokenizer", embedded.CLIP)


@pytest.mark.parametrize("folder", FOLDERS, ids=("generator", "clip"))
@pytest.mark.parametrize("kind", [CLIPTokenizer, AutoTokenizer])
def test_loads_and_round_trips(folder: Path, kind: type) -> None:
    tokenizer = kind.from_pretrained(folder)
    assert tokenizer.model_max_length == 32
    for text in ("an orange cat on a beach wearing sunglasses", "a sks dog", "a zebra , 4 !"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_words_of_the_world_are_one_token_and_others_several() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDERS[0])
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("sks").input_ids) > 3


def test_tokens_can_be_added() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDERS[0])
    before = len(tokenizer)
    assert tokenizer.add_tokens("<thing>") == 1
    assert before in tokenizer("a <thing> at night").input_ids


def test_later_words_do_not_change_earlier_ones() -> None:
    words = ("on", "balloon", "lion", "onion", "cat", "a", "cation")
    merges = make_merges(words)
    assert all(apply_merges(word, merges) == [word + "</w>"] for word in words)
