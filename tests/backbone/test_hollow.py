"""Models of configs alone: what the page on backbones says of them, and that nothing is in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from stylecli.backbone import architectures, hollow
from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.registry import PAINTING, SOURCES
from stylecli.engine.bench import counting
from stylecli.errors import UsageError, WeightsError
from tests import flows, tiny_sdxl
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "backbones.md"
ROW = re.compile(r"\| `([\w-]+)` \| (\d+) px \| ([\d,]+) M \| ([\d,]+) M \|(.*)\|")


def table() -> dict[str, tuple[int, ...]]:
    """What the page says of each backbone: size, millions, and operations."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := ROW.fullmatch(line):
            name, *numbers, rest = match.groups()
            every = [*numbers, *rest.split("|")]
            found[name] = tuple(int(one.replace(",", "")) for one in every)
    return found


PAINTED = [name for name in architectures.ARCHITECTURES if SOURCES[name].kind in PAINTING]


def test_the_page_tells_of_every_architecture() -> None:
    assert [*table()] == PAINTED


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", PAINTED)
def test_the_page_says_what_a_pass_costs(name: str) -> None:
    size, millions, words, row, encode, decode = table()[name]
    folder = architectures.on_paper(name)
    model = hollow.backbone(SOURCES[name].kind, folder, dtype=torch.bfloat16, size_px=size)
    cells = size // model.latent_px
    with torch.device("meta"):
        latents = torch.empty(1, model.latent_channels, cells, cells)
        embeds = torch.empty(1, *model.words_shape, dtype=model.dtype)
        picture = torch.empty(1, 3, size, size)
    assert round(counting.flops(lambda: model.predict(latents, 500, embeds)) / 1e9) == row
    assert round(counting.flops(lambda: model.posterior(picture)) / 1e9) == encode
    assert round(counting.flops(lambda: model.decode(latents)) / 1e9) == decode
    count = sum(p.numel() for p in model.unet.parameters())
    assert round(count / 1e6) == millions
    encoders = [one for part, some in model.parts.items() if "text" in part for one in some]
    assert round(sum(p.numel() for one in encoders for p in one.parameters()) / 1e6) == words


@pytest.mark.parametrize("kind", ["sdxl", *flows.KINDS])
def test_random_weights_draw_and_words_are_numbers(kind: str) -> None:
    folder = tiny_sdxl.folder() if kind == "sdxl" else flows.folder(kind)
    model = hollow.backbone(
        kind,  # type: ignore[arg-type]
        folder,
        dtype=torch.float32,
        size_px=flows.SIZE_PX,
        device=torch.device("cpu"),
    )
    embeds = model.encode_prompt(["a", ""])
    assert embeds.shape == (2, *model.words_shape)
    latents = model.encode_image(torch.rand(2, 3, 32, 32))
    assert torch.isfinite(model.predict(latents, 500, embeds)).all()
    assert model.decode(latents).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_a_folder_is_laid_out_as_diffusers_would_read_it(name: str) -> None:
    folder = architectures.on_paper(name)
    index = json.loads((folder / "model_index.json").read_bytes())
    parts = {part for part, said in index.items() if isinstance(said, list)}
    assert {part.name for part in folder.iterdir() if part.is_dir()} == parts
    denoiser = "unet" if "unet" in parts else "transformer"
    said = json.loads((folder / denoiser / "config.json").read_bytes())
    assert said.items() >= json.loads(json.dumps(CONFIGS[name])).items()


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("name", "fillers"), [("sd15", [49407]), ("sdxl", [49407, 0])])
def test_clips_tokenizer_is_the_published_one(
    name: str, fillers: list[int], tmp_path: Path
) -> None:
    from transformers import CLIPTokenizer

    folder = architectures.lay_out(name, tmp_path / name)
    parts = ("tokenizer", "tokenizer_2")[: len(fillers)]
    for part, filler in zip(parts, fillers, strict=True):
        tokenizer = CLIPTokenizer.from_pretrained(folder / part)
        # As OpenAI's own code says it.
        words = [320, 1125, 539, 550, 18376, 6765, 320, 4558]
        text = "a photo of an astronaut riding a horse"
        assert tokenizer(text).input_ids == [49406, *words, 49407]
        padded = tokenizer(text, padding="max_length").input_ids
        assert len(padded) == 77
        assert set(padded[10:]) == {filler}


def test_a_model_that_is_only_a_name() -> None:
    with pytest.raises(UsageError, match="of hidream-o1 no configuration ships"):
        architectures.on_paper("hidream-o1")


def test_a_folder_without_configs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a config cannot be read"):
        hollow.backbone("unet", tmp_path, dtype=torch.float32, size_px=64)
