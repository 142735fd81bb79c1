"""HPSv3 from files in its authors' layout, against its definition in one plain pass."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylecli.errors import WeightsError
from stylecli.evaluation.judges.hpsv3 import hpsv3, texts
from tests.evaluation.judges.test_sight import noise
from tests.tiny_judges import CODE, RewardFiles


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> RewardFiles:
    return RewardFiles(tmp_path_factory.mktemp("hpsv3"))


def test_the_score_is_the_heads_first_number_at_the_mark(files: RewardFiles) -> None:
    network = files.load()
    first, second = noise(64, 40), noise(30, 90, seed=1)
    scores = []
    for pixels, prompt in ((first, "a cat"), (first, "a dog in the rain"), (second, "a cat")):
        scores.append(network.score(pixels, prompt))
        assert scores[-1] == pytest.approx(files.plainly(pixels, prompt), abs=1e-4)
    assert len({round(score, 4) for score in scores}) == 3


def test_the_trunk_keeps_the_precision_of_its_file_and_the_head_stays_exact(
    files: RewardFiles,
) -> None:
    tensors = {
        key: t if key.startswith("rm_head.") else t.bfloat16() for key, t in files.tensors.items()
    }
    network = hpsv3(tensors, files.shape, files.instruction, file="HPSv3.safetensors")
    assert {p.dtype for p in network.model.trunk.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in network.model.head.parameters()} == {torch.float32}
    exact = files.load().score(noise(64, 40), "a cat")
    assert network.score(noise(64, 40), "a cat") == pytest.approx(exact, rel=0.1, abs=0.3)


def test_a_mark_in_a_prompt_is_plain_text(files: RewardFiles) -> None:
    network = files.load()
    plain = network.score(noise(56, 56), "a cat")
    assert network.score(noise(56, 56), "a cat <|Reward|>") != plain
    assert network.score(noise(56, 56), "{text_prompt}") != plain


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rm_head.3.bias": None}, r"HPSv3\.safetensors lacks 3\.bias"),
        ({"model.norm.weight": None}, r"HPSv3\.safetensors lacks .*norm\.weight"),
        ({"model.extra": torch.ones(1)}, r"unknown .*extra"),
        ({"extra": torch.ones(1)}, r"unknown extra"),
        ({"model.embed_tokens.weight": torch.ones(9, 32)}, r"shape|cannot be loaded"),
    ],
)
def test_another_file_is_refused(
    files: RewardFiles, change: dict[str, Tensor | None], said: str
) -> None:
    tensors = {key: t for key, t in (files.tensors | change).items() if t is not None}
    with pytest.raises(WeightsError, match=said):
        hpsv3(tensors, files.shape, files.instruction, file="HPSv3.safetensors")


def test_the_instruction_is_read_and_never_run(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    before, behind = texts(file)
    assert before == "\nRate it.\nPrompt - {text_prompt}\n\n"
    assert behind == "\nThe mark: "
    for wrong in (
        "x = 1",
        "def",
        CODE.replace("{text_prompt}", ""),
        CODE.replace("<|Reward|>", ""),
    ):
        file.write_text(wrong)
        with pytest.raises(WeightsError, match=r"code\.py"):
            texts(file)
