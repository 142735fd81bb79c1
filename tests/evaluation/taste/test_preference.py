"""PickScore, HPSv2 and the aesthetic head: the published files' numbers, in our classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation import published, weights
from stylecli.evaluation.clip import ARCHITECTURES, clip_network
from stylecli.evaluation.taste.aesthetic import aesthetic
from stylecli.evaluation.taste.hpsv2 import hpsv2
from stylecli.evaluation.taste.pickscore import as_open_clip, pickscore
from tests.evaluation.taste.tiny import clip_config, clip_model, head, transformers_clip

# isort: split
# Behind the package, which makes the import of torchvision safe.
import open_clip
from open_clip.transformer import QuickGELU

TEXTS = [
    "a photograph of a cat",
    "oil on canvas",
    "",
    "Œuvre — 鶴, 1888!",
    "a",
    "b c",
    "d " * 90,
    "x",
]
PLAIN = ("clip-h14", "pickscore", "hpsv2")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return transformers_clip()


def counters() -> dict[str, Tensor]:
    """What older releases saved beside the weights."""
    return {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }


def test_pickscore_is_what_transformers_says(theirs: nn.Module, images: Tensor) -> None:
    ours = pickscore(theirs.state_dict() | counters(), file="f", config=clip_config())
    tokens = open_clip.SimpleTokenizer(context_length=77)(TEXTS)
    with torch.no_grad():
        wanted = theirs(input_ids=tokens, pixel_values=images).logits_per_image.diagonal()
        cosines = (ours.image_features(images) * ours.text_features(TEXTS)).sum(1)
    torch.testing.assert_close(ours.temperature * cosines, wanted, atol=1e-4, rtol=1e-5)
    assert wanted.std() > 0.1


@pytest.mark.mostly_slow
def test_every_key_of_the_published_size_finds_its_place() -> None:
    """Shapes only: neither network is filled."""
    from open_clip.model import CLIP
    from transformers import CLIPConfig, CLIPModel

    vision = {"num_hidden_layers": 32, "hidden_size": 1280, "intermediate_size": 5120}
    text = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
    with torch.device("meta"):
        saved = CLIPModel(
            CLIPConfig(
                projection_dim=1024,
                vision_config={**vision, "num_attention_heads": 16, "patch_size": 14},
                text_config={**text, "num_attention_heads": 16},
            )
        ).state_dict()
        wanted = CLIP(**open_clip.get_model_config(ARCHITECTURES["pickscore"])).state_dict()
    found = as_open_clip(saved, "f")
    assert {k: t.shape for k, t in found.items()} == {k: t.shape for k, t in wanted.items()}


def test_an_attention_without_one_of_its_parts_is_refused(theirs: nn.Module) -> None:
    tensors = dict(theirs.state_dict())
    del tensors["text_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(WeightsError, match=r"resblocks\.1\.attn\.in_proj_weight"):
        as_open_clip(tensors, "f")


@pytest.mark.parametrize(
    ("lost", "added"),
    [
        ("visual_projection.weight", "visual_projection.bias"),
        ("vision_model.encoder.layers.0.mlp.fc1.bias", "vision_model.encoder.layers.0.gate.bias"),
        ("text_model.final_layer_norm.bias", "text_model.head.weight"),
    ],
)
def test_a_file_of_another_network_is_refused(theirs: nn.Module, lost: str, added: str) -> None:
    tensors = dict(theirs.state_dict())
    with pytest.raises(WeightsError, match="has the unknown " + added.replace(".", r"\.")):
        pickscore(tensors | {added: torch.ones(1)}, file="f", config=clip_config())
    del tensors[lost]
    with pytest.raises(WeightsError, match="f lacks"):
        pickscore(tensors, file="f", config=clip_config())


def test_hpsv2_is_what_open_clip_says(images: Tensor, tmp_path: Path) -> None:
    model = clip_model(clip_config())
    row = published.WEIGHTS["hpsv2"]
    # As published: a pickle of a table in a table.
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / row.file)
    ours = hpsv2(weights.read(row, tmp_path / row.file), file="f", config=clip_config())
    with torch.no_grad():
        pictures = model.encode_image(images, normalize=True)
        texts = model.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    found = (ours.image_features(images) * ours.text_features(TEXTS)).sum(1)
    torch.testing.assert_close(found, (pictures * texts).sum(1), atol=1e-5, rtol=0)
    assert found.std() > 0.01


@pytest.mark.parametrize("name", PLAIN)
def test_what_laion_trained_runs_plain_gelu(name: str) -> None:
    quick = clip_config(quick_gelu=True)
    tensors = clip_model(quick).state_dict()
    with pytest.raises(WeightsError, match="ViT-H-14 was trained with plain GELU") as no:
        clip_network(name, tensors, file="f", config=quick)
    assert "open-clip-torch" in no.value.fix
    made = clip_network(name, tensors, file="f", config=clip_config())
    kinds = {type(m) for m in made.model.modules() if isinstance(m, nn.GELU | QuickGELU)}
    assert kinds == {nn.GELU}


@pytest.mark.parametrize("name", PLAIN)
def test_their_shape_is_that_of_vit_h14(name: str) -> None:
    config = open_clip.get_model_config(ARCHITECTURES[name])
    assert (config["embed_dim"], config["vision_cfg"]["layers"]) == (1024, 32)
    keys = (32 + 24) * 12 + 14
    with pytest.raises(WeightsError, match=f"^f lacks .* and {keys - 4} more$"):
        clip_network(name, {}, file="f")


def test_a_batch_of_eight_is_eight_batches_of_one(theirs: nn.Module, images: Tensor) -> None:
    ours = pickscore(theirs.state_dict(), file="f", config=clip_config())
    alone = torch.cat([ours.image_features(image[None]) for image in images])
    torch.testing.assert_close(ours.image_features(images), alone, atol=1e-5, rtol=0)
    marks = aesthetic(head().state_dict(), file="f")
    vectors = torch.randn(8, 768, generator=torch.Generator().manual_seed(1))
    one_by_one = torch.cat([marks(vector[None]) for vector in vectors])
    torch.testing.assert_close(marks(vectors), one_by_one, atol=1e-5, rtol=1e-5)


def test_the_aesthetic_head_is_five_matrices_in_a_row() -> None:
    tensors = head().state_dict()
    assert [key for key in tensors if key.endswith("weight")] == [
        f"layers.{index}.weight" for index in (0, 2, 4, 6, 7)
    ]
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(1))
    wanted = vectors.double()
    for index in (0, 2, 4, 6, 7):
        weight, bias = (tensors[f"layers.{index}.{kind}"].double() for kind in ("weight", "bias"))
        wanted = wanted @ weight.T + bias
    found = aesthetic(tensors, file="f")(vectors)
    torch.testing.assert_close(found.double(), wanted[:, 0], rtol=1e-4, atol=1e-3)
    # No activation in between: what it says of a mean is the mean of what it says.
    both = aesthetic(tensors, file="f")(vectors.mean(0, keepdim=True))
    torch.testing.assert_close(both[0], found.mean(), rtol=1e-4, atol=1e-3)


def test_a_head_without_a_layer_is_refused() -> None:
    tensors = {k: t for k, t in head().state_dict().items() if "layers.6" not in k}
    with pytest.raises(WeightsError, match=r"lacks layers\.6\.weight"):
        aesthetic(tensors, file="f")


def test_only_the_file_of_the_published_hash_is_read(tmp_path: Path) -> None:
    row = published.WEIGHTS["aesthetic"]
    torch.save(head().state_dict(), tmp_path / row.file)
    with pytest.raises(WeightsError, match="has SHA-256"):
        weights.read(row, tmp_path / row.file)
