"""ImageReward: BLIP's fusion encoder under the published keys, against the same written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.errors import WeightsError
from stylecli.evaluation import published, weights
from stylecli.evaluation.taste.imagereward import (
    CONTEXT,
    DEVIATION,
    MEAN,
    ImageReward,
    Prompts,
    imagereward,
)
from tests.evaluation.taste.tiny import (
    CLS,
    SEP,
    TINY_TEXT,
    TINY_VISION,
    VOCABULARY,
    WORDS,
    published_keys,
)
from tests.reference import imagereward as reference


def build(tensors: dict[str, Tensor], vocabulary: dict[str, int] | None = None) -> ImageReward:
    """Ours, tiny."""
    return imagereward(
        tensors, vocabulary or VOCABULARY, file="f", vision=TINY_VISION, text=TINY_TEXT
    )


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return published_keys()


@pytest.fixture(scope="module")
def network(tensors: dict[str, Tensor]) -> ImageReward:
    return build(tensors)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(6))


TEXTS = [
    "a cat",
    "a red dog, painting",
    "",
    "oil of oil of oil of a dog",
    "Café",
    "cat",
    "a",
    "dog",
]


def test_rewards_are_those_of_the_equations(
    network: ImageReward, tensors: dict[str, Tensor], images: Tensor
) -> None:
    words = {
        "a cat": [CLS, 5, 6, SEP],
        "A red painting": [CLS, 5, 9, 11, 12, SEP],
        "Café zebra, [ENC]": [CLS, 13, 1, 14, len(WORDS) + 1, SEP],
    }
    found = network(images[:3], list(words))
    wanted = [
        reference.reward(tensors, image, tokens, picture_heads=3, text_heads=2)
        for image, tokens in zip(images, words.values(), strict=False)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.01


def test_the_published_mean_and_deviation_are_applied(network: ImageReward, images: Tensor) -> None:
    tokens, present = network.prompts(["a cat"])
    raw = network.head(network.class_token(images[:1], tokens, present))
    assert (MEAN, DEVIATION) == (0.16717362830052426, 1.0333394966054072)
    assert float(network(images[:1], ["a cat"])) == pytest.approx(
        (float(raw) - 0.16717362830052426) / 1.0333394966054072, rel=1e-6
    )


def test_a_batch_of_eight_is_eight_batches_of_one(network: ImageReward, images: Tensor) -> None:
    alone = torch.cat([network(i[None], [t]) for i, t in zip(images, TEXTS, strict=True)])
    torch.testing.assert_close(network(images, TEXTS), alone, atol=1e-5, rtol=1e-5)
    assert alone.std() > 1e-3


def test_the_class_token_comes_first_and_sees_later_words(
    network: ImageReward, images: Tensor
) -> None:
    tokens, present = network.prompts(["a cat", "a dog"])
    assert tokens[:, 0].tolist() == [CLS, CLS]
    assert torch.equal(tokens[:, 1], tokens[[1, 0], 1])
    both = network.class_token(images[[0, 0]], tokens, present)
    # Under a causal mask the first token would not know which animal follows.
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_padding_is_not_seen(network: ImageReward, images: Tensor) -> None:
    tokens, present = network.prompts(["a cat"])
    other = torch.where(present.bool(), tokens, VOCABULARY["dog"])
    same = network.class_token(images[:1], other, present)
    torch.testing.assert_close(same, network.class_token(images[:1], tokens, present))


def test_the_picture_is_seen(network: ImageReward, images: Tensor) -> None:
    two = network(images[:2], ["a cat", "a cat"])
    assert abs(float(two[0] - two[1])) > 1e-3


def test_prompts_are_padded_and_cut_to_thirty_five_tokens() -> None:
    prompts = Prompts(VOCABULARY)
    short, fits, cut = "a cat", "cat " * 33, "cat " * 34
    tokens, present = prompts([short, fits, cut])
    assert tokens.shape == present.shape == (3, CONTEXT)
    assert present.sum(1).tolist() == [4, 35, 35]
    assert torch.equal(tokens[1], tokens[2])
    assert tokens[2, -1] == SEP
    assert [prompts.truncated([text]) for text in (short, fits, cut)] == [0, 0, 1]
    assert prompts.truncated([cut, short, cut]) == 2


def test_a_vocabulary_of_another_file_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"knows 20 words.*has 21") as no:
        build(tensors, VOCABULARY | {"more": len(WORDS)})
    assert "bert-base-uncased" in no.value.fix


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("blip.visual_encoder.blocks.1.attn.qkv.weight", "lacks vision.encoder.layers.1.self_attn"),
        ("blip.visual_encoder.norm.bias", "lacks vision.post_layernorm.bias"),
        ("blip.text_encoder.encoder.layer.0.crossattention.self.key.weight", "crossattention"),
        ("mlp.layers.4.bias", r"lacks head\.layers\.4\.bias"),
    ],
)
def test_a_file_that_lacks_a_key_is_refused(
    tensors: dict[str, Tensor], key: str, said: str
) -> None:
    with pytest.raises(WeightsError, match=said):
        build({k: t for k, t in tensors.items() if k != key})


def test_a_file_with_an_unknown_key_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"unknown blip\.visual_encoder_m\.norm\.bias"):
        build(tensors | {"blip.visual_encoder_m.norm.bias": torch.ones(24)})


def test_only_declared_keys_may_be_left_over(tensors: dict[str, Tensor], images: Tensor) -> None:
    bare = {k: t for k, t in tensors.items() if not k.endswith(("_proj.weight", "_proj.bias"))}
    without = {k: t for k, t in bare.items() if not k.endswith("position_ids")}
    assert len(without) == len(tensors) - 5
    assert torch.equal(build(without)(images[:1], ["a"]), build(tensors)(images[:1], ["a"]))


def test_the_published_shape_has_as_many_tensors_as_the_file_must_have() -> None:
    """Sixteen a block of BERT and ten more for its cross attention, twelve a block of the ViT."""
    vocabulary = {str(number): number for number in range(30517)}
    whole = {word: i for i, word in enumerate((*WORDS[:5], *vocabulary))}
    keys = 24 * 12 + 6 + 12 * 26 + 4 + 10
    with pytest.raises(WeightsError, match=rf"^f lacks .* and {keys - 4} more$"):
        imagereward({}, whole, file="f")


def test_words_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    assert weights.read_vocabulary(file) == VOCABULARY
    file.write_text("a\nb\na\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="a word twice"):
        weights.read_vocabulary(file)


def test_the_vocabulary_is_known_by_its_hash(tmp_path: Path) -> None:
    file: Any = tmp_path / "vocab.txt"
    file.write_text("a\n")
    with pytest.raises(WeightsError, match="has SHA-256"):
        weights.check(published.WEIGHTS["bert-vocabulary"], file)
