"""What is said where the hub gives nothing."""

from __future__ import annotations

from collections.abc import Callable

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

from stylecli.backbone import registry
from stylecli.errors import WeightsError

Refusing = Callable[[Exception], None]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    def set_up(error: Exception) -> None:
        def refuse(*_given: object, **_named: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)

    return set_up


def fix_of(name: str, *, allow_download: bool) -> str:
    with pytest.raises(WeightsError) as caught:
        registry.snapshot(registry.find(name), allow_download=allow_download)
    return caught.value.fix


def test_who_pulled_in_vain_is_not_told_to_pull(refusing: Refusing) -> None:
    refusing(LocalEntryNotFoundError("no route"))
    assert fix_of("sdxl", allow_download=False) == "style models pull sdxl"
    fix = fix_of("sdxl", allow_download=True)
    assert "pull" not in fix
    assert "style models bundle sdxl" in fix
    assert "bundle" not in fix_of("some/one", allow_download=True)


def test_a_gate_is_named(refusing: Refusing) -> None:
    class GatedError(GatedRepoError):
        def __init__(self) -> None:
            Exception.__init__(self, "403 Client Error")

    refusing(GatedError())
    fix = fix_of("flux1-kontext", allow_download=True)
    assert "https://huggingface.co/black-forest-labs/FLUX.1-Kontext-dev" in fix
    assert "hf auth login" in fix
