"""Weights of metrics: found in one order, trusted by digest, and loaded whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from stylecli.errors import WeightsError
from stylecli.evaluation import weights
from stylecli.evaluation.published import WEIGHTS, Weights
from stylecli.evaluation.weights import SOURCE_KEY, find, load_strictly, read

COMMIT = "1" * 40
ROW = Weights(
    name="small",
    family="family",
    file="small.pth",
    what="a small network",
    licence="MIT",
    megabytes=7,
    repository="someone/small",
)
TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([-1.0, 2.0])}


class Runs:
    """What a hostile pickle does when it is opened."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The four places of a machine that has nothing yet, in the order of the search."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "own"))
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return {
        "given": tmp_path / "given" / "family",
        "own": tmp_path / "own" / "family",
        "torch": tmp_path / "torch" / "hub" / "checkpoints",
        "hub": repository / "snapshots" / COMMIT,
    }


def put(path: Path, data: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def linear() -> nn.Linear:
    return nn.Linear(3, 2).requires_grad_(True).train()


def test_places_are_searched_in_their_order(machine: dict[str, Path], tmp_path: Path) -> None:
    files = [put(folder / "small.pth") for folder in machine.values()]
    for expected in files:
        assert find(ROW, tmp_path / "given") == expected
        expected.unlink()
    with pytest.raises(WeightsError):
        find(ROW, tmp_path / "given")


def test_safetensors_go_before_a_pickle_of_the_same_place_only(
    machine: dict[str, Path], tmp_path: Path
) -> None:
    late = put(machine["own"] / "small.safetensors")
    put(machine["own"] / "small.pth")
    assert find(ROW, tmp_path / "given") == late
    early = put(machine["given"] / "small.pth")
    assert find(ROW, tmp_path / "given") == early


def test_without_a_folder_of_ones_own_only_libraries_are_asked(
    machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STYLE_WEIGHTS_DIR")
    put(machine["own"] / "small.pth")
    with pytest.raises(WeightsError) as failure:
        find(ROW)
    assert str(machine["own"]) not in failure.value.what
    assert weights.places(ROW) == [machine["torch"] / "small.pth"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_nowhere_is_named_with_every_place(
    name: str, machine: dict[str, Path], tmp_path: Path
) -> None:
    row = WEIGHTS[name]
    with pytest.raises(WeightsError) as failure:
        find(row, tmp_path / "given")
    assert failure.value.exit_status == 4
    for place in ("given", "own"):
        assert str(machine[place].parent / row.family / row.file) in failure.value.what
    assert str(machine["torch"] / row.file) in failure.value.what
    assert f"{row.megabytes} MB" in failure.value.what
    assert row.licence in failure.value.what
    assert f"style models pull metrics/{name}" in failure.value.fix
    assert (row.repository or row.url) in failure.value.fix


def test_the_table_names_every_file_once_and_where_it_is_from() -> None:
    assert len({(row.family, row.file) for row in WEIGHTS.values()}) == len(WEIGHTS)
    for row in WEIGHTS.values():
        assert bool(row.url) != bool(row.repository)
        # Without a revision, a hash is all that ties an address to one file.
        assert not row.url or (row.sha256 and row.url.endswith(row.file))
        # The start of one, where that is all a file's name tells.
        assert len(row.sha256) == 64 or row.sha256 in row.file


def test_two_models_of_one_file_name_never_meet() -> None:
    """``model.safetensors`` is what half of the hub calls its file."""
    last = [weights.places(row)[-1] for row in WEIGHTS.values()]
    assert len(set(last)) == len(last)
    assert not any(path.parent.name == "checkpoints" and path.stem == "model" for path in last)


@pytest.mark.parametrize("digits", [0, 1, 8, 64])
def test_any_published_part_of_a_digest_is_compared(digits: int, tmp_path: Path) -> None:
    file = put(tmp_path / "small.pth", b"some bytes")
    digest = hashlib.sha256(b"some bytes").hexdigest()
    row = Weights(**fields(ROW) | {"sha256": digest[:digits]})
    assert weights.check(row, file) == digest
    if digits:
        wrong = "0" if digest[digits - 1] != "0" else "1"
        other = Weights(**fields(ROW) | {"sha256": digest[: digits - 1] + wrong})
        with pytest.raises(WeightsError, match=f"SHA-256 {digest[:12]}…, not {other.sha256[:12]}…"):
            weights.check(other, file)


def fields(row: Weights) -> dict[str, object]:
    return {name: getattr(row, name) for name in Weights.__slots__}


def test_a_file_is_never_read_before_its_digest_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "small.pth"
    torch.save(TENSORS, file)
    with pytest.raises(WeightsError, match="not 0000"):
        read(Weights(**fields(ROW) | {"sha256": "0000"}), file)


def test_a_converted_file_is_known_by_the_pickle_it_was(tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_file(TENSORS, file)
    assert weights.fingerprint(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    converted = tmp_path / "converted.safetensors"
    save_file(TENSORS, converted, metadata={SOURCE_KEY: "6726825d" + "0" * 56})
    assert weights.fingerprint(converted) == "6726825d" + "0" * 56
    row = Weights(**fields(ROW) | {"sha256": "6726825d"})
    assert read(row, converted).keys() == TENSORS.keys()


def test_a_file_that_was_replaced_is_hashed_again(tmp_path: Path) -> None:
    file = put(tmp_path / "small.pth", b"one")
    before = weights.fingerprint(file)
    put(file, b"four")
    assert weights.fingerprint(file) == hashlib.sha256(b"four").hexdigest() != before


@pytest.mark.parametrize("nests", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_formats_give_the_same_tensors(suffix: str, nests: bool, tmp_path: Path) -> None:
    file = tmp_path / f"small{suffix}"
    if suffix == ".safetensors":
        save_file(TENSORS, file)
    else:
        torch.save({"state_dict": TENSORS, "epoch": 3} if nests else TENSORS, file)
    found = read(ROW, file)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    file, trace = tmp_path / "small.pth", tmp_path / "it ran"
    torch.save(TENSORS | {"more": Runs(f"touch '{trace}'")}, file)
    with pytest.raises(WeightsError, match="holds more than tensors") as failure:
        read(ROW, file)
    assert "style models pull metrics/small" in failure.value.fix
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        [1],
        3,
        TENSORS["bias"],
        {"a": 3},
        {1: TENSORS["bias"]},
        {"state_dict": 3},
        {"state_dict": []},
        TENSORS | {"epoch": 3},
    ],
    ids=repr,
)
def test_what_is_no_table_of_tensors_is_refused(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="holds no table of tensors"):
        read(ROW, tmp_path / "small.pth")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".pth", ".old.pth", ".safetensors"]),
    where=st.floats(0, 1),
    data=st.data(),
)
def test_a_damaged_file_is_a_fault_of_the_file_whatever_the_damage(
    suffix: str, where: float, data: st.DataObject, tmp_path: Path
) -> None:
    file = tmp_path / f"small{suffix}"
    if suffix == ".safetensors":
        save_file(TENSORS, file)
    else:
        torch.save(TENSORS, file, _use_new_zipfile_serialization=suffix == ".pth")
    damaged = bytearray(file.read_bytes())
    place = round(where * (len(damaged) - 1))
    if data.draw(st.booleans(), label="cut"):
        del damaged[place:]
    else:
        damaged[place] = data.draw(st.integers(0, 255))
    file = put(tmp_path / f"damaged{suffix}", bytes(damaged))
    weights._fingerprint.cache_clear()
    said = ""
    try:
        found = read(ROW, file)
    except WeightsError as failure:
        said = failure.what
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    assert not said or str(file) in said


def test_a_file_that_vanished_is_said_to_be_unreadable(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read: .*No such file"):
        read(ROW, tmp_path / "small.pth")


def test_loading_fills_freezes_and_sets_to_evaluation() -> None:
    model = linear()
    load_strictly(model, {key: tensor.half() for key, tensor in TENSORS.items()}, file="f")
    assert torch.equal(model.weight, TENSORS["weight"])
    assert model.weight.dtype == torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"weight": TENSORS["weight"]}, "f lacks bias"),
        (TENSORS | {"head.bias": torch.ones(1)}, "f has the unknown head.bias"),
        (TENSORS | {"bias": torch.ones(3)}, r"f has bias of shape \(3,\), not \(2,\)"),
        (TENSORS | {"weight": TENSORS["weight"].T}, r"weight of shape \(3, 2\), not \(2, 3\)"),
        (TENSORS | {"bias": torch.tensor([0.0, torch.nan])}, "f has values in bias that are not"),
        (TENSORS | {"bias": torch.tensor([0.0, torch.inf])}, "f has values in bias that are not"),
    ],
)
def test_every_fault_is_named_and_nothing_is_loaded(
    tensors: dict[str, torch.Tensor], fault: str
) -> None:
    model = linear()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=fault):
        load_strictly(model, tensors, file="f")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@given(st.integers(1, 9))
def test_four_faults_are_named_and_the_others_counted(faults: int) -> None:
    extra = {f"extra{i}": torch.ones(1) for i in range(faults)}
    with pytest.raises(WeightsError) as failure:
        load_strictly(linear(), TENSORS | extra, file="f")
    named = [key for key in extra if f"{key}," in f"{failure.value.what},".replace(" and", ",")]
    assert named == list(extra)[:4]
    ending = f" and {faults - 4} more" if faults > 4 else f"extra{faults - 1}"
    assert failure.value.what.endswith(ending)


def test_declared_keys_may_be_there_and_only_those() -> None:
    extra = {"head.weight": torch.ones(2), "head.bias": torch.full((1,), torch.nan)}
    load_strictly(linear(), TENSORS | extra, file="f", ignore=["head."])
    with pytest.raises(WeightsError, match="unknown neck"):
        load_strictly(linear(), TENSORS | {"neck.head.": torch.ones(1)}, file="f", ignore=["head."])


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda width: nn.LayerNorm(width)])
def test_weights_that_were_never_trained_are_refused(norm: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.Conv2d(4, 2, 1), norm(2))
    fresh = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match="never trained"):
        load_strictly(model, fresh, file="f")
    # One moved value is enough: a trained network may have an idle layer.
    moved = "3.running_mean" if "3.running_mean" in fresh else "3.weight"
    fresh[moved][1] += 0.5
    load_strictly(model, fresh, file="f")
    assert torch.equal(model.state_dict()[moved], fresh[moved])
