"""Objects at a URL: against a real S3 server, also slow, failing, full and read-only."""

import itertools
import time
from pathlib import Path

import pytest

from benchmarks.support.s3_server import Proxy
from study.remote.object_store import ObjectStore, StoreError, store_problem
from study.storage.layout import root_and_url, storage_at
from study.storage.urls import sound_url
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("s3://bucket/a//b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        (
            "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9000",
            "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http",
        ),
    ],
)
def test_a_url_has_one_form(given: str, wanted: str) -> None:
    assert sound_url(given) == wanted
    assert sound_url(wanted) == wanted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://key:s3cret@bucket/x", "credentials"),
        ("s3://bucket/x?secret_key=s3cret", "credentials"),
        ("s3://bucket/x?colour=red", "unknown options: colour"),
        ("ftp://host/x", "ftp:// is not known"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/../x", "names no bucket"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(given: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        sound_url(given)
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_the_working_copy_of_a_url_is_always_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(tmp_path))
    first, again = storage_at("s3://bucket/p/", "a"), storage_at("s3://bucket/p", "a")
    assert first == again
    assert first.root.parent == tmp_path
    assert first.url == first.uri == "s3://bucket/p"
    assert root_and_url("s3://bucket/q")[0] != first.root
    assert storage_at(tmp_path, "a").url is None


def test_objects_are_kept_whole(s3: Proxy, tmp_path: Path) -> None:
    store = ObjectStore(s3.url("objects"))
    store.put("a/one", b"1")
    store.put("a/one", b"11")
    store.put("a/none", b"")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB: goes in parts
    store.put_file("b/large", large)
    assert store.get("a/one") == b"11"
    assert store.get("a/none") == b""
    assert store.get("a/no") is None
    assert {key: info.size for key, info in store.list().items()} == {
        "a/one": 2,
        "a/none": 0,
        "b/large": 12_800_000,
    }
    assert set(store.list("a")) == {"a/one", "a/none"}
    assert store.list("nothing") == {}
    assert store.get_file("b/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert not store.get_file("b/no", tmp_path / "no")
    store.delete_under("a")
    store.delete_under("a")
    assert set(store.list()) == {"b/large"}


def test_a_store_that_fails_for_a_while_is_tried_again(s3: Proxy) -> None:
    store = ObjectStore(s3.url("retry"), patience=30)
    answers = itertools.chain([503, 503, 500, 0], itertools.repeat(None))
    s3.answer = lambda method, path: next(answers)
    store.put("x", b"content")
    assert store.get("x") == b"content"


@pytest.mark.parametrize(
    ("status", "words"), [(503, "not available"), (507, "full"), (403, "denied"), (0, "no connection")]
)
def test_a_store_that_goes_on_failing_is_named(s3: Proxy, status: int, words: str) -> None:
    store = ObjectStore(s3.url("failing"), patience=0.2)
    s3.answer = lambda method, path: status
    with pytest.raises(StoreError) as failed:
        store.put("x", b"content")
    assert words in str(failed.value)
    assert "s3://studies/failing" in str(failed.value)


def test_a_probe_says_what_is_wrong(s3: Proxy) -> None:
    assert store_problem(s3.url("fine")) is None
    missing = s3.url("x").replace("s3://studies", "s3://nowhere")
    assert "the bucket does not exist; create it" in str(store_problem(missing))
    s3.answer = lambda method, path: 403 if method == "PUT" else None
    assert "access is denied" in str(store_problem(s3.url("fine")))
    s3.answer = lambda method, path: 507 if method == "PUT" else None
    assert "it is full; make room" in str(store_problem(s3.url("fine")))
    s3.answer = lambda method, path: None
    closed = s3.url("x").replace(str(s3.port), "1")
    assert "no connection" in str(store_problem(closed))
    s3.delay = 3.0
    begun = time.monotonic()
    assert "did not answer within 1 seconds" in str(store_problem(s3.url("fine"), seconds=1))
    assert time.monotonic() - begun < 30
