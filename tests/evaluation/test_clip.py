"""CLIP through its files: open_clip's own numbers, with the activation OpenAI trained with."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from stylecli.errors import WeightsError
from stylecli.evaluation import published, weights
from stylecli.evaluation.clip import ARCHITECTURES, Clip, clip_network
from stylecli.evaluation.pixels import CLIP_MEAN, CLIP_STD, PREPROCESS
from tests.evaluation.taste import tiny

# isort: split
# Behind the package, which makes the import of torchvision safe.
import open_clip
import open_clip.model

TINY = tiny.clip_config(quick_gelu=True)
TEXTS = ["a photograph of a cat", "oil on canvas", "", "Œuvre — 鶴, 1888!"]


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=77)


def build(quick_gelu: bool) -> nn.Module:
    """A random open_clip model whose every weight has left its first value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = open_clip.model.CLIP(**copy.deepcopy(TINY) | {"quick_gelu": quick_gelu})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(quick_gelu=True)


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "ViT-B-32-quickgelu.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def clip(file: Path) -> Clip:
    """Ours, by the way that real weights take."""
    row = published.WEIGHTS["clip-b32"]
    return clip_network("clip-b32", weights.read(row, file), file=str(file), config=TINY)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(6))


def test_features_are_those_of_open_clip(
    model: nn.Module, clip: Clip, images: torch.Tensor
) -> None:
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(TEXTS)
    with torch.no_grad():
        pictures = model.encode_image(images, normalize=True)
        texts = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(clip.image_features(images), pictures, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.text_features(TEXTS), texts, atol=1e-5, rtol=0)
    # Neither is a constant, which would agree with anything.
    assert (pictures @ pictures.T - 1).abs().max() > 0.01
    assert (texts @ texts.T - 1).abs().max() > 0.01


def test_the_same_file_under_plain_gelu_gives_other_numbers(
    model: nn.Module, clip: Clip, images: torch.Tensor
) -> None:
    plain = build(quick_gelu=False)
    plain.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        theirs = plain.encode_image(images, normalize=True)
        texts = plain.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    assert (clip.image_features(images) - theirs).abs().max() > 1e-3
    assert (clip.text_features(TEXTS) - texts).abs().max() > 1e-3


def test_an_architecture_with_plain_gelu_is_refused(model: nn.Module) -> None:
    config = TINY | {"quick_gelu": False}
    with pytest.raises(WeightsError, match=r"ViT-L-14-quickgelu was trained with QuickGELU") as no:
        clip_network("clip-l14", model.state_dict(), file="f", config=config)
    assert "open-clip-torch" in no.value.fix


@pytest.mark.mostly_slow
@pytest.mark.parametrize("tower", ["visual.transformer", "transformer"])
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_a_single_layer_with_another_activation_is_found(
    tower: str, activation: type[nn.Module], model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_clip.model.CLIP

    def other(**config: object) -> nn.Module:
        network = made(**config)
        network.get_submodule(tower).resblocks[1].mlp.gelu = activation()
        return network

    monkeypatch.setattr(open_clip.model, "CLIP", other)
    with pytest.raises(WeightsError, match="another activation"):
        clip_network("clip-b32", model.state_dict(), file="f", config=TINY)


@pytest.mark.parametrize(
    ("name", "patch", "keys"),
    # Twelve tensors a layer, eight more around pictures and six around texts.
    [
        ("clip-b32", 32, (12 + 12) * 12 + 14),
        ("clip-l14", 14, (24 + 12) * 12 + 14),
        ("clip-l14-336", 14, (24 + 12) * 12 + 14),
    ],
)
def test_names_stand_for_the_published_networks(name: str, patch: int, keys: int) -> None:
    config = open_clip.get_model_config(ARCHITECTURES[name])
    assert config["vision_cfg"]["patch_size"] == patch
    assert config["quick_gelu"] is True
    assert published.WEIGHTS[name].file == f"{ARCHITECTURES[name]}.safetensors"
    with pytest.raises(WeightsError, match=f"^f lacks .* and {keys - 4} more$"):
        clip_network(name, {}, file="f")


def test_a_file_of_another_network_is_refused(model: nn.Module) -> None:
    tensors = dict(model.state_dict())
    wrong = tensors | {"visual.proj": tensors["visual.proj"].T}
    with pytest.raises(WeightsError, match=r"f has visual\.proj of shape \(12, 32\)"):
        clip_network("clip-b32", wrong, file="f", config=TINY)
    wrong = tensors | {"visual.head.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"f has the unknown visual\.head\.weight"):
        clip_network("clip-b32", wrong, file="f", config=TINY)
    del tensors["text_projection"]
    with pytest.raises(WeightsError, match="f lacks text_projection"):
        clip_network("clip-b32", tensors, file="f", config=TINY)


def test_loading_draws_nothing_from_the_global_generator(file: Path) -> None:
    before = torch.random.get_rng_state()
    row = published.WEIGHTS["clip-b32"]
    clip_network("clip-b32", weights.read(row, file), file="f", config=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_of_eight_is_eight_batches_of_one(clip: Clip, images: torch.Tensor) -> None:
    alone = torch.cat([clip.image_features(image[None]) for image in images])
    torch.testing.assert_close(clip.image_features(images), alone, atol=1e-5, rtol=0)
    one_by_one = torch.cat([clip.text_features([text]) for text in TEXTS])
    torch.testing.assert_close(clip.text_features(TEXTS), one_by_one, atol=1e-5, rtol=0)


def test_features_are_unit_vectors_so_cosines_stay_within_one(
    clip: Clip, images: torch.Tensor
) -> None:
    pictures, texts = clip.image_features(images), clip.text_features(TEXTS)
    for vectors in (pictures, texts):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6, rtol=0)
    # Far below a hundred: the learnt temperature has no part in it.
    assert (pictures @ texts.T).abs().max() <= 1 + 1e-6
    assert (pictures @ pictures.T).diagonal() == pytest.approx(1, abs=1e-6)


@given(st.sampled_from(["cat", "impasto", "#", "18", "鶴", "don't"]), st.integers(70, 80))
def test_a_text_counts_as_truncated_when_a_wider_window_holds_more(word: str, times: int) -> None:
    text = " ".join([word] * times)
    needed = int((tokenizer()([text], context_length=600) != 0).sum())
    assert Clip(nn.Identity(), tokenizer()).truncated([text]) == (needed > 77)


def test_seventy_five_words_fit_and_what_follows_is_not_seen(clip: Clip) -> None:
    fits, cut, cut_too = "cat " * 75, "cat " * 76, "cat " * 75 + "dog " * 9
    assert [clip.truncated([text]) for text in (fits, cut, cut_too)] == [0, 1, 1]
    assert clip.truncated([fits, cut, "dog", cut_too]) == 2
    assert clip.truncated([]) == 0
    seen = clip.text_features([fits, cut, cut_too])
    assert (seen - seen[0]).abs().max() < 1e-5
    assert (clip.text_features(["cat " * 74]) - seen[0]).abs().max() > 1e-3


def picture(height: int, width: int) -> torch.Tensor:
    random = np.random.default_rng(height * 1000 + width)
    coarse = random.integers(0, 256, (max(2, height // 6), max(2, width // 6), 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(coarse).resize((width, height))))


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("height", "width"),
    [(224, 224), (300, 200), (97, 350), (37, 41), (450, 225), (301, 226), (160, 360)],
)
def test_pictures_are_prepared_as_pillow_and_arithmetic_say(height: int, width: int) -> None:
    pixels = picture(height, width)
    short, long = min(height, width), max(height, width)
    sides = {short: 224, long: math.floor(224 * long / short)}
    resized = Image.fromarray(pixels.numpy()).resize(
        (sides[width], sides[height]), Image.Resampling.BICUBIC
    )
    left, top = round((sides[width] - 224) / 2), round((sides[height] - 224) / 2)
    cropped = np.array(resized.crop((left, top, left + 224, top + 224)))
    expected = np.empty((3, 224, 224))
    for channel in range(3):
        unit = cropped[:, :, channel] / 255.0
        expected[channel] = (unit - CLIP_MEAN[channel]) / CLIP_STD[channel]
    found = PREPROCESS["clip224"].apply(pixels)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("height", "width"), [(300, 200), (97, 350), (37, 41), (301, 226), (160, 360)]
)
def test_pictures_are_prepared_as_open_clip_prepares_them(height: int, width: int) -> None:
    theirs = open_clip.image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    pixels = picture(height, width)
    expected = theirs(Image.fromarray(pixels.numpy()))
    torch.testing.assert_close(PREPROCESS["clip224"].apply(pixels), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(100, 173), (90, 41), (336, 336)])
def test_cmmd_sees_the_middle_square_of_a_picture(height: int, width: int) -> None:
    pixels = picture(height, width)
    side = min(height, width)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = Image.fromarray(pixels.numpy()).crop((left, top, left + side, top + side))
    expected = np.array(square.resize((336, 336), Image.Resampling.BICUBIC)) / 255.0
    expected = ((expected - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    np.testing.assert_allclose(PREPROCESS["clip336sq"].apply(pixels), expected, atol=1e-6)


def test_cmmds_network_sees_336_pixels_through_its_file(tmp_path: Path) -> None:
    config = copy.deepcopy(TINY)
    config["vision_cfg"] |= {"image_size": 336}  # type: ignore[operator]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        theirs = open_clip.model.CLIP(**copy.deepcopy(config)).eval()
        for parameter in theirs.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    save_file(theirs.state_dict(), tmp_path / "f.safetensors")
    row = published.WEIGHTS["clip-l14-336"]
    tensors = weights.read(row, tmp_path / "f.safetensors")
    ours = clip_network("clip-l14-336", tensors, file="f", config=config)
    shown = torch.stack([PREPROCESS["clip336sq"].apply(picture(50, 40 + i)) for i in range(8)])
    with torch.no_grad():
        expected = nn.functional.normalize(theirs.encode_image(shown), dim=1)
        torch.testing.assert_close(ours.image_features(shown), expected, atol=1e-5, rtol=0)
        alone = torch.cat([ours.image_features(image[None]) for image in shown])
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


def test_only_the_letterbox_has_black_bands() -> None:
    pixels = torch.full((100, 200, 3), 255, dtype=torch.uint8)
    black = -torch.tensor(CLIP_MEAN) / torch.tensor(CLIP_STD)
    white = (1 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    boxed, cropped = (PREPROCESS[name].apply(pixels) for name in ("letter224", "clip224"))
    torch.testing.assert_close(boxed[:, :56], black[:, None, None].expand(3, 56, 224))
    torch.testing.assert_close(boxed[:, 56:168], white[:, None, None].expand(3, 112, 224))
    torch.testing.assert_close(boxed[:, 168:], black[:, None, None].expand(3, 56, 224))
    torch.testing.assert_close(cropped, white[:, None, None].expand(3, 224, 224))
