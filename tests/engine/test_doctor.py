"""The doctor passes a sound backbone and fails one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stylecli.backbone import registry
from stylecli.cli.console import console
from stylecli.engine import doctor, soundness
from stylecli.engine.context import RunContext
from stylecli.engine.session import Session
from stylecli.recipe.schema import Backbone, Recipe
from tests import tiny


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny.save_folder(tmp_path_factory.mktemp("tiny"))
    context = RunContext(torch.device("cpu"), torch.float32, console)
    source = registry.Source(name="tiny", licence="", folder=folder)
    return Session(Recipe(backbone=Backbone(id=str(folder))), context, source, folder)


def by_name(session: Session) -> dict[str, doctor.Check]:
    return {check.name: check for check in soundness.examine(session)}


@pytest.mark.slow
def test_a_random_model_inverts_badly_and_does_everything_else_right(session: Session) -> None:
    checks = by_name(session)
    for name in ("identity injection", "LoRA changes the output by", "after writing and reading it",
                 "base model after the LoRA is gone", "UNet rows of 4 steps"):  # fmt: skip
        assert checks[name].is_ok is True, checks[name]
    assert checks["inversion PSNR against the VAE"].is_ok is False


def test_the_installation_is_described_without_a_model(tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor.installation()}
    assert checks["torch"].figure == torch.__version__
    assert checks["python"].is_ok is True
    assert checks["weights sd15"].figure == "not here"
    assert "style models pull sd15" in checks["weights sd15"].fix
    assert all(isinstance(check.row(), dict) for check in checks.values())
