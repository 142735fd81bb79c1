"""Weights of metrics are fetched whole or not at all, and every later change of a file is found."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import http.client
import json
import os
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stylecli.engine import metric_weights
from stylecli.engine.metric_weights import named, pull, verify
from stylecli.errors import InputError, ItemError, WeightsError
from stylecli.evaluation.published import WEIGHTS, Weights
from stylecli.evaluation.weights import SOURCE_KEY, check, find, fingerprint, read, read_vocabulary

TENSORS = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.tensor([1.0, -1.0])}
LINK = Weights(
    name="inception",
    family="family",
    file="small.pth",
    what="a small network",
    licence="MIT",
    megabytes=1,
    url="https://example.org/small.pth",
)
HUB = replace(
    LINK,
    file="other.safetensors",
    url="",
    repository="someone/small",
    hub_file="model.safetensors",
)
HUB_PICKLE = replace(LINK, url="", repository="someone/small")


@dataclass
class Web:
    """What the two download functions find; nothing leaves this process.

    Attributes:
        data: What is served.
        trouble: Raised after half of it was written.
        asked: Address, or repository and file, of every download.
        is_silent: The hub's progress bars are switched off.
    """

    data: bytes = b""
    trouble: Exception | None = None
    asked: list[str] = field(default_factory=list)
    is_silent: bool = True

    def link(
        self, url: str, dst: str, hash_prefix: str | None = None, progress: bool = True
    ) -> None:
        assert progress != self.is_silent
        self._serve(url, Path(dst))
        digest = hashlib.sha256(self.data).hexdigest()
        if hash_prefix and not digest.startswith(hash_prefix):
            Path(dst).unlink()
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{digest}")')

    def hub(self, repository: str, name: str, *, local_dir: Path) -> str:
        # The hub's client leaves notes of its own beside what it fetched.
        notes = local_dir / ".cache" / "huggingface"
        notes.mkdir(parents=True)
        (notes / "note").write_text("fetched")
        self._serve(f"{repository}/{name}", local_dir / name)
        return str(local_dir / name)

    def _serve(self, address: str, path: Path) -> None:
        self.asked.append(address)
        path.write_bytes(self.data[: len(self.data) // 2])
        if self.trouble:
            raise self.trouble
        path.write_bytes(self.data)

    def serve(self, row: Weights, scratch: Path, tensors: object = TENSORS) -> Weights:
        """Put tensors on offer, as a pickle or not, and give the row its digest."""
        path = scratch / "served"
        if row.file.endswith(".safetensors"):
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        self.data = path.read_bytes()
        digest = hashlib.sha256(self.data).hexdigest()
        return replace(row, sha256=digest[:8]) if row.url else row


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web()
    monkeypatch.setattr(torch.hub, "download_url_to_file", web.link)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", web.hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return web


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def held(folder: Path) -> list[str]:
    """Every file and folder below, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def flip(path: Path, *, later_ns: int = 0) -> None:
    """Change the last byte; nothing of it shows in the size, nor by default in the time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later_ns))


@pytest.mark.parametrize("row", [LINK, HUB_PICKLE], ids=["link", "hub"])
def test_a_pickle_is_converted_once_and_remembered_by_its_digest(
    row: Weights, web: Web, folder: Path, tmp_path: Path
) -> None:
    row = web.serve(row, tmp_path, {"state_dict": TENSORS})
    path = pull(row, folder)
    assert path == folder / "family" / "small.safetensors" == find(row, folder)
    assert held(folder / "family") == ["small.safetensors", "small.safetensors.sha256"]
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == {SOURCE_KEY: hashlib.sha256(web.data).hexdigest()}
    assert fingerprint(path) == hashlib.sha256(web.data).hexdigest()
    found = read(row, path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_safetensors_are_kept_byte_for_byte(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(HUB, tmp_path)
    path = pull(row, folder)
    assert web.asked == ["someone/small/model.safetensors"]
    assert path == folder / "family" / "other.safetensors"
    assert path.read_bytes() == web.data
    record = path.with_name("other.safetensors.sha256").read_text()
    assert record == f"{hashlib.sha256(web.data).hexdigest()}  other.safetensors\n"
    assert held(folder / "family") == ["other.safetensors", "other.safetensors.sha256"]


def test_a_nested_file_keeps_its_folder(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(replace(HUB, file="base/model.safetensors"), tmp_path)
    assert pull(row, folder) == folder / "family" / "base" / "model.safetensors"
    assert find(row, folder) == folder / "family" / "base" / "model.safetensors"


def test_a_vocabulary_stays_the_text_it_is(web: Web, folder: Path) -> None:
    web.data = b"[PAD]\nword\n"
    digest = hashlib.sha256(web.data).hexdigest()
    row = replace(HUB, file="words/vocab.txt", hub_file="vocab.txt", sha256=digest)
    path = pull(row, folder)
    assert path == find(row, folder) == folder / "family" / "words" / "vocab.txt"
    assert read_vocabulary(path) == {"[PAD]": 0, "word": 1}
    assert verify(row, folder) == (path, digest)
    assert pull(row, folder) == path
    assert len(web.asked) == 1
    path.write_bytes(b"[PAD]\nwore\n")
    with pytest.raises(WeightsError, match="has SHA-256"):
        verify(row, folder)


def test_it_goes_to_the_first_place_that_is_searched(
    web: Web, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = web.serve(LINK, tmp_path)
    assert pull(row) == tmp_path / "torch" / "hub" / "checkpoints" / "small.safetensors"
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "own"))
    assert pull(row) == tmp_path / "own" / "family" / "small.safetensors" == find(row)
    assert pull(row, folder) == folder / "family" / "small.safetensors" == find(row, folder)
    assert len(web.asked) == 3


def test_both_sources_are_silent_or_neither(
    web: Web, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = web.serve(LINK, tmp_path)
    web.is_silent = False
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", False)
    assert pull(row, folder).is_file()


@pytest.mark.parametrize("row", [LINK, HUB], ids=["link", "hub"])
def test_what_is_there_and_sound_is_not_fetched_again(
    row: Weights, web: Web, folder: Path, tmp_path: Path
) -> None:
    row = web.serve(row, tmp_path)
    path = pull(row, folder)
    assert pull(row, folder) == path
    assert len(web.asked) == 1
    flip(path)
    assert pull(row, folder) == path
    assert len(web.asked) == 2
    assert verify(row, folder)[0] == path


@pytest.mark.parametrize("row", [LINK, HUB], ids=["link", "hub"])
@pytest.mark.parametrize(
    "trouble",
    [
        urllib.error.URLError("no route to host"),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
        http.client.IncompleteRead(b"half"),
        LocalEntryNotFoundError("no network, and not in the cache"),
        ValueError("not a repository"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_download_that_breaks_leaves_nothing_and_says_where_to_get_it(
    row: Weights, trouble: Exception, web: Web, folder: Path, tmp_path: Path
) -> None:
    row = web.serve(row, tmp_path)
    web.trouble = trouble
    with pytest.raises(WeightsError, match=f"{row.file} could not be fetched from ") as failure:
        pull(row, folder)
    assert (row.url or row.repository) in failure.value.what
    assert (str(trouble) or "TimeoutError") in failure.value.what
    assert f"{row.family}/{row.file}" in failure.value.fix
    assert held(folder / "family") == []


def test_a_file_of_another_digest_is_refused_from_either_source(
    web: Web, folder: Path, tmp_path: Path
) -> None:
    web.serve(LINK, tmp_path)
    with pytest.raises(WeightsError, match='expected "0000", got') as failure:
        pull(replace(LINK, sha256="0000"), folder)
    assert failure.value.fix
    with pytest.raises(WeightsError, match="not 0000") as failure:
        pull(replace(HUB_PICKLE, sha256="0000"), folder)
    assert failure.value.fix
    assert held(folder / "family") == []


def test_what_fails_to_replace_a_file_leaves_it(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(HUB, tmp_path)
    path = pull(row, folder)
    flip(path)
    before = path.read_bytes()
    web.data = b"an error page of some proxy"
    with pytest.raises(WeightsError, match="cannot be read"):
        pull(row, folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_no_fault_of_the_network(
    number: int, web: Web, folder: Path, tmp_path: Path
) -> None:
    row = web.serve(LINK, tmp_path)
    web.trouble = OSError(number, os.strerror(number))
    with pytest.raises(WeightsError, match=f"cannot be written: {os.strerror(number)}") as failure:
        pull(row, folder)
    assert "--weights-dir" in failure.value.fix
    assert str(folder / "family" / "small.safetensors") in failure.value.what


def test_a_disk_that_fills_during_the_conversion_is_the_same_fault(
    web: Web, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise ItemError(f"{path} cannot be written: No space left on device", fix="--output")

    row = web.serve(LINK, tmp_path)
    monkeypatch.setattr(metric_weights, "save_tensors", full)
    with pytest.raises(WeightsError, match="No space left") as failure:
        pull(row, folder)
    assert "--output" not in failure.value.fix
    assert held(folder / "family") == []


def test_a_folder_that_cannot_be_made_is_named(web: Web, tmp_path: Path) -> None:
    row = web.serve(LINK, tmp_path)
    (tmp_path / "a file").write_text("")
    with pytest.raises(WeightsError, match=r"a file.* cannot be written"):
        pull(row, tmp_path / "a file")
    assert web.asked == []


def test_a_pickle_that_holds_more_than_tensors_is_not_converted(
    web: Web, folder: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "it ran"
    row = web.serve(LINK, tmp_path, TENSORS | {"more": Touches(trace)})
    with pytest.raises(WeightsError, match="holds more than tensors"):
        pull(row, folder)
    assert not trace.exists()
    assert held(folder / "family") == []


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def test_a_pickle_with_nan_is_not_converted(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(LINK, tmp_path, TENSORS | {"bias": torch.tensor([torch.nan, 0.0])})
    with pytest.raises(WeightsError, match=r"small.pth has values in bias that are not finite"):
        pull(row, folder)
    assert held(folder / "family") == []


@pytest.mark.parametrize("row", [LINK, HUB], ids=["link", "hub"])
def test_verify_gives_the_digest_and_finds_a_changed_byte(
    row: Weights, web: Web, folder: Path, tmp_path: Path
) -> None:
    row = web.serve(row, tmp_path)
    path = pull(row, folder)
    assert verify(row, folder) == (path, hashlib.sha256(path.read_bytes()).hexdigest())
    flip(path)
    # The header still tells the digest of the pickle, and the tensors still load.
    assert load_file(path).keys() == TENSORS.keys()
    with pytest.raises(WeightsError, match=r"has SHA-256 \w{12}…, not \w{12}…") as failure:
        verify(row, folder)
    assert "style models pull metrics/inception" in failure.value.fix


def test_a_published_digest_is_enough_for_the_published_file(web: Web, folder: Path) -> None:
    path = folder / "family" / "small.pth"
    path.parent.mkdir(parents=True)
    torch.save(TENSORS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = replace(LINK, sha256=digest[:8])
    assert verify(row, folder) == (path, digest)
    flip(path, later_ns=1)
    with pytest.raises(WeightsError, match=f"not {digest[:8]}"):
        verify(row, folder)


def test_nothing_to_compare_with_is_not_a_pass(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(HUB, tmp_path)
    path = pull(row, folder)
    path.with_name(f"{path.name}.sha256").unlink()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=f"no hash is recorded for .*{digest}"):
        verify(row, folder)
    # What a converted file says of itself is no evidence for its tensors.
    row = web.serve(LINK, tmp_path)
    path = pull(row, folder)
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(WeightsError, match="no hash is recorded"):
        verify(row, folder)


def test_the_hubs_cache_names_files_by_their_digest(web: Web, folder: Path, tmp_path: Path) -> None:
    web.serve(HUB, tmp_path)
    digest, commit = hashlib.sha256(web.data).hexdigest(), "1" * 40
    repository = tmp_path / "hub" / "models--someone--small"
    for name in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs" / digest).write_bytes(web.data)
    link = repository / "snapshots" / commit / "model.safetensors"
    link.symlink_to(repository / "blobs" / digest)
    assert verify(HUB, folder) == (link, digest)
    flip(repository / "blobs" / digest)
    with pytest.raises(WeightsError, match=f"not {digest[:12]}"):
        verify(HUB, folder)


def test_a_damaged_record_is_a_fault_and_no_crash(web: Web, folder: Path, tmp_path: Path) -> None:
    row = web.serve(HUB, tmp_path)
    path = pull(row, folder)
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match="cannot be read"):
        verify(row, folder)


def test_what_is_not_here_cannot_be_verified(web: Web, folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"small.pth .* is not on this machine"):
        verify(LINK, folder)


@pytest.mark.parametrize("name", WEIGHTS)
def test_names_are_those_of_the_table(name: str) -> None:
    assert named(f"metrics/{name}") is WEIGHTS[name]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("metrics/incepton", "metrics/inception"),
        ("metrics/vgg18", "metrics/vgg1"),
        ("metrics/dino", "metrics/dino-vitb8"),
        ("metrics/dinov2", "metrics/dinov2-base"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(given: str, near: str) -> None:
    with pytest.raises(InputError, match=given) as failure:
        named(given)
    assert f"did you mean {near}" in failure.value.fix
    assert all(f"metrics/{name}" in failure.value.fix for name in WEIGHTS)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
JUDGE = replace(
    LINK,
    name="judge",
    file="A2.5-VL",
    url="",
    repository="someone/judge",
    megabytes=16_000,
    holds=("config.json", "*.safetensors"),
)


@dataclass
class Hub:
    """A repository of many files; nothing leaves this process."""

    files: dict[str, bytes]
    breaks_after: int = 99
    served: list[str] = field(default_factory=list)

    def snapshot(self, repository: str, *, allow_patterns: list[str], local_dir: Path) -> str:
        assert repository == "someone/judge"
        for name, data in self.files.items():
            if not any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                continue
            if (local_dir / name).exists():
                continue
            if len(self.served) == self.breaks_after:
                self.breaks_after = 99
                raise ConnectionResetError("reset by peer")
            self.served.append(name)
            (local_dir / name).write_bytes(data)
        return str(local_dir)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    hub = Hub(
        {
            "config.json": b"{}",
            "README.md": b"long",
            "model.safetensors.index.json": json.dumps(index).encode(),
            SHARDS[0]: b"one" * 2**19,
            SHARDS[1]: b"two",
        }
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return hub


def test_a_folder_is_fetched_whole_and_every_file_is_remembered(hub: Hub, folder: Path) -> None:
    path = pull(JUDGE, folder)
    assert path == find(JUDGE, folder) == folder / "family" / "A2.5-VL"
    kept = sorted({*hub.files} - {"README.md"})
    assert sorted(held(folder / "family")) == sorted(
        ["A2.5-VL", "A2.5-VL.sha256", *(f"A2.5-VL/{name}" for name in kept)]
    )
    lines = (folder / "family" / "A2.5-VL.sha256").read_text().splitlines()
    assert f"{hashlib.sha256(b'two').hexdigest()}  A2.5-VL/{SHARDS[1]}" in lines
    known = verify(JUDGE, folder)[1]
    assert check(JUDGE, path) == known
    assert pull(JUDGE, folder) == path
    assert len(hub.served) == len(kept)
    flip(path / SHARDS[0])
    with pytest.raises(WeightsError, match=rf"{SHARDS[0]} has SHA-256"):
        verify(JUDGE, folder)
    assert pull(JUDGE, folder) == path
    assert verify(JUDGE, folder)[1] == known


def test_what_has_arrived_of_a_folder_waits_for_the_next_try(hub: Hub, folder: Path) -> None:
    hub.breaks_after = 3
    with pytest.raises(WeightsError, match="reset by peer"):
        pull(JUDGE, folder)
    with pytest.raises(WeightsError, match="is not on this machine"):
        find(JUDGE, folder)
    assert held(folder / "family")
    pull(JUDGE, folder)
    assert len(hub.served) == len(set(hub.served)) == 4
    assert not list((folder / "family").glob(".pull-*"))


def test_what_is_nothing_to_go_on_from_is_not_left(hub: Hub, folder: Path) -> None:
    hub.breaks_after = 1
    with pytest.raises(WeightsError, match="reset by peer"):
        pull(JUDGE, folder)
    assert held(folder / "family") == []


def test_a_folder_that_lacks_what_its_index_names_is_refused(hub: Hub, folder: Path) -> None:
    path = pull(JUDGE, folder)
    (path / SHARDS[1]).unlink()
    with pytest.raises(WeightsError, match=rf"A2\.5-VL lacks {SHARDS[1]}"):
        check(JUDGE, find(JUDGE, folder))
    with pytest.raises(WeightsError, match=rf"lacks {SHARDS[1]}"):
        verify(JUDGE, folder)
    (path / "config.json").unlink()
    with pytest.raises(WeightsError, match="is not on this machine"):
        find(JUDGE, folder)


def test_a_folder_in_the_hubs_cache_is_found_and_known_by_its_blobs(
    hub: Hub, tmp_path: Path, folder: Path
) -> None:
    root = tmp_path / "hub" / "models--someone--judge"
    snapshot = root / "snapshots" / ("0" * 40)
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for name, data in hub.files.items():
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs" / digest).write_bytes(data)
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / digest)
    assert find(JUDGE, folder) == snapshot
    assert verify(JUDGE, folder)[0] == snapshot
    (root / "blobs" / hashlib.sha256(b"two").hexdigest()).write_bytes(b"ten")
    with pytest.raises(WeightsError, match=rf"{SHARDS[1]} has SHA-256"):
        verify(JUDGE, folder)
