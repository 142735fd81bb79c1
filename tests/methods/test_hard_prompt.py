"""A look is put into words that a person can type, and that score what is said of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stylecli.artifacts.glyphs import FAMILIES
from stylecli.artifacts.images import read, to_tensor
from stylecli.errors import UsageError
from stylecli.evaluation.perceptual import PocketClip, load_pocket_clip
from stylecli.methods.hard_prompt import Language, _Search, find, nearest
from tests.conftest import ROOT

TEMPLATE = "a picture in the style of {}"


@pytest.fixture(scope="module")
def clip() -> PocketClip:
    return load_pocket_clip(ROOT / "stylecli/assets/pocket/clip")


@pytest.fixture(scope="module")
def pocket(clip: PocketClip) -> Language:
    return Language.of_pocket(clip)


@pytest.fixture(scope="module")
def published() -> Language:
    """OpenAI's vocabulary, whole, in front of a network of random weights."""
    import open_clip
    from open_clip.model import CLIP

    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(
            embed_dim=16,
            vision_cfg={
                "image_size": 32,
                "layers": 1,
                "width": 16,
                "patch_size": 16,
                "head_width": 8,
            },  # type: ignore[arg-type]
            text_cfg={
                "context_length": 24,
                "vocab_size": tokenizer.vocab_size,
                "width": 16,
                "heads": 2,
                "layers": 1,
            },  # type: ignore[arg-type]
        )
    return Language.of_open_clip(model.eval().requires_grad_(False), tokenizer)


@pytest.fixture(params=["pocket", "published"])
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.getfixturevalue(request.param)
    return found


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def width(language: Language) -> int:
    return language.features([""]).shape[1]


@pytest.mark.slow
def test_both_tokenizers_have_words_enough(pocket: Language, published: Language) -> None:
    assert len(pocket.words) > 2000
    assert {"heart", "gradient", "3", ","} <= set(pocket.words)
    assert len(published.words) > 30_000
    assert {"impressionism", "watercolor", "van"} <= set(published.words)


@pytest.mark.slow
def test_every_word_is_one_token_that_can_be_printed(language: Language) -> None:
    assert language.words
    assert len(language.words) == len(language.tokens) == len(language.vectors)
    assert all(word.isprintable() and word == word.strip() and word for word in language.words)
    assert not {language.start, language.end} & set(language.tokens.tolist())
    for index in range(0, len(language.words), 97):
        assert language.tokens_of(language.words[index]) == [int(language.tokens[index])]


@given(data=st.data())
def test_words_keep_their_tokens_beside_others(pocket: Language, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(pocket.words) - 1), min_size=1, max_size=20))
    text = " ".join(pocket.words[index] for index in chosen)
    assert pocket.tokens_of(text) == pocket.tokens[chosen].tolist()


def test_prompts_given_as_vectors_are_read_as_their_text_is(language: Language) -> None:
    search = _Search(language, unit(width(language)), "a red {} , on blue", 4)
    prompts = torch.randint(len(language.words), (3, 4), generator=torch.Generator().manual_seed(1))
    found = language.read(search.frame, language.vectors[prompts], search.at)
    expected = language.features([search.text(prompt) for prompt in prompts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), words=st.integers(1, 30), scale=st.floats(0.01, 100))
def test_the_nearest_word_is_at_the_smallest_angle(seed: int, words: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(words, 5, generator=random) * torch.rand(words, 1, generator=random)
    free = torch.randn(2, 3, 5, generator=random) * scale
    found = nearest(free, vectors)
    for row in range(2):
        for place in range(3):
            one = free[row, place].tolist()
            angles = [
                math.acos(
                    max(
                        -1,
                        min(
                            1,
                            sum(a * b for a, b in zip(one, other, strict=True))
                            / math.hypot(*one)
                            / math.hypot(*other),
                        ),
                    )
                )
                for other in vectors.tolist()
            ]
            assert angles[found[row, place]] <= min(angles) + 1e-3


def test_the_gradient_is_taken_at_the_words_and_not_where_the_free_vectors_are(
    pocket: Language,
) -> None:
    search = _Search(pocket, unit(width(pocket)), TEMPLATE, 3)
    prompts = torch.tensor([[5, 50, 500]])
    hard = pocket.vectors[prompts]
    free = hard * torch.tensor([0.3, 1.5, 3.0])[:, None]
    found, scores, gradient = search.scored(free)
    assert torch.equal(found, prompts)
    assert scores.item() == pytest.approx(search.score(search.text(prompts[0])), abs=1e-5)

    def score(vectors: torch.Tensor) -> float:
        return float(pocket.read(search.frame, vectors, search.at) @ search.target)

    small = 1e-2 / float(gradient.norm())
    slope = (score(hard - small * gradient) - score(hard + small * gradient)) / (2 * small)
    assert slope == pytest.approx(float(gradient.square().sum()), rel=0.02)


def test_the_score_is_that_of_the_text(language: Language) -> None:
    pictures = unit(3, width(language), seed=4)
    found = find(language, pictures, length=3, steps=8, template=TEMPLATE, seed=1)
    assert found.text.startswith("a picture in the style of ")
    words = found.text.removeprefix("a picture in the style of ").split(" ")
    assert len(words) == 3
    assert set(words) <= set(language.words)
    mean = F.normalize(pictures.mean(dim=0), dim=0)
    assert found.score == pytest.approx(float(language.features([found.text])[0] @ mean), abs=1e-6)
    assert found.score >= found.start_score


@pytest.mark.slow
def test_the_longer_the_search_the_better_or_equal_its_end(pocket: Language) -> None:
    target = unit(1, width(pocket), seed=2)
    runs = [find(pocket, target, length=4, steps=steps, starts=2) for steps in (0, 1, 5, 20, 60)]
    scores = [run.score for run in runs]
    assert scores == sorted(scores)
    assert scores[0] == runs[0].start_score
    assert {run.start_score for run in runs} == {scores[0]}
    assert scores[-1] > scores[0] + 0.1


def test_the_best_prompt_seen_is_kept_when_the_search_moves_on(
    pocket: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    scored = _Search.scored

    def noting(self: _Search, free: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = scored(self, free)
        seen.append(float(found[1].max()))
        return found

    monkeypatch.setattr(_Search, "scored", noting)
    found = find(pocket, unit(1, width(pocket), seed=2), length=4, steps=60, lr=2.0, starts=2)
    assert len(seen) == 61
    assert found.score == pytest.approx(max(seen), abs=1e-5)
    assert seen[-1] < max(seen) - 0.01


def test_equal_seeds_find_equal_prompts_whatever_was_drawn_before(pocket: Language) -> None:
    target = unit(1, width(pocket), seed=3)
    first = find(pocket, target, length=4, steps=12, seed=5)
    torch.rand(7)
    with torch.inference_mode():
        assert find(pocket, target.clone(), length=4, steps=12, seed=5) == first
    assert find(pocket, target, length=4, steps=12, seed=6).text != first.text


def test_a_prompt_that_does_not_survive_its_text_is_never_chosen(pocket: Language) -> None:
    """Here the tokenizer mends every prompt but the one that holds a single word throughout."""
    target = unit(1, width(pocket), seed=2)
    encode = pocket._encode

    def mending(texts: list[str]) -> torch.Tensor:
        same = [text if len(set(text.split())) <= 1 else "mended" for text in texts]
        return encode(same)

    mended = object.__new__(Language)
    mended.__dict__.update(pocket.__dict__, _encode=mending)
    free = find(pocket, target, length=3, steps=20)
    found = find(mended, target, length=3, steps=20)
    assert len(set(free.text.split())) > 1
    assert found.text == find(mended, target, length=3, steps=0).text != free.text


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ["style.png", "styles/ink.png"])
def test_found_words_beat_the_phrases_that_the_model_learned_from(
    clip: PocketClip, pocket: Language, name: str
) -> None:
    pictures = clip.image_features(to_tensor(read(ROOT / "docs/images" / name).pixels))
    found = find(pocket, pictures, length=6, steps=80)
    random = torch.Generator().manual_seed(9)
    drawn = torch.randint(len(pocket.words), (100, 6), generator=random)
    rivals = ["", *(family.style for family in FAMILIES.values())]
    rivals += [" ".join(pocket.words[index] for index in row) for row in drawn.tolist()]
    assert found.score > (pocket.features(rivals) @ pictures[0]).max() + 0.1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("in the style of", "does not say where"),
        ("{} and {}", "does not say where"),
        ("un{}", "does not say where"),
        ("{}, on blue", "does not say where"),
        ("a " * 26 + "{}", "34 tokens are more than the 32"),
    ],
)
def test_a_template_without_room_for_words_is_refused(
    pocket: Language, template: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find(pocket, unit(1, width(pocket)), length=6, steps=1, template=template)
    assert caught.value.fix
