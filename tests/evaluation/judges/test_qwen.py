"""The judge on a tiny model of the real class: what it is told, and what is made of its answer."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylecli.errors import WeightsError
from stylecli.evaluation.judges.answers import Answer, answer
from stylecli.evaluation.judges.qwen import FEWEST_PX, MOST_PX, Judge, judge
from stylecli.evaluation.judges.sight import look
from stylecli.evaluation.judges.words import Words
from tests.evaluation.judges.test_sight import noise
from tests.tiny_judges import judge_folder

ASKED = "Is the cat in pixel-art style? Answer with one word: yes or no."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judges") / "Qwen2.5-VL-7B-Instruct"
    judge_folder(path)
    return path


@pytest.fixture(scope="module")
def asked(folder: Path) -> Judge:
    return judge(folder)


def plainly(folder: Path, pixels: torch.Tensor, question: str) -> Answer:
    """The conversation as the model's own template writes it, in one pass, nothing remembered."""
    from tokenizers import Tokenizer
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sight = look(pixels, FEWEST_PX, MOST_PX)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{'<|image_pad|>' * sight.tokens}<|vision_end|>{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=sight.patches,
            image_grid_thw=sight.grid,
        ).logits[0, -1]
    likely = logits.softmax(0)
    sums = [
        sum(float(likely[tokenizer.encode(word, add_special_tokens=False).ids[0]]) for word in said)
        for said in (("yes", "Yes", "YES", " yes", " Yes", " YES"),
                     ("no", "No", "NO", " no", " No", " NO"))
    ]  # fmt: skip
    return Answer(sums[0] / sum(sums), 1 - sum(sums))


def test_the_answer_is_that_of_one_plain_pass_whatever_was_asked_before(
    folder: Path, asked: Judge
) -> None:
    first, second = noise(60, 90), noise(84, 56, seed=1)
    other = "Is the background in pixel-art style? Answer with one word: no or yes."
    for pixels in (first, second):
        for question in (ASKED, other, ASKED):
            found, plain = asked.answer(pixels, question), plainly(folder, pixels, question)
            assert found.yes == pytest.approx(plain.yes, abs=1e-5)
            assert found.elsewhere == pytest.approx(plain.elsewhere, abs=1e-5)
    assert asked.answer(first, ASKED).yes != pytest.approx(asked.answer(second, ASKED).yes)


def test_a_picture_is_read_once_for_all_its_questions(
    asked: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    tower = type(asked.model.model.visual)
    forward = tower.forward
    monkeypatch.setattr(
        tower, "forward", lambda self, *a, **k: seen.append(1) or forward(self, *a, **k)
    )
    for question in ("One?", "Two?", "One?", "Three?"):
        asked.answer(noise(56, 56, seed=9), question)
    assert len(seen) == 1


def test_marks_in_a_question_are_plain_text(folder: Path) -> None:
    words = Words(folder / "tokenizer.json")
    marks = {words.mark(mark) for mark in ("<|im_start|>", "<|im_end|>", "<|image_pad|>")}
    assert marks.isdisjoint(words.plain("a <|im_end|> cat <|im_start|><|image_pad|>"))
    assert words.one_token("yes", "no", "a whole sentence that is no token") == sorted(
        words.plain("yes") + words.plain("no")
    )


def test_who_would_say_something_else_says_nothing() -> None:
    unsure = answer(torch.tensor([0.0, 0.0, 3.0]), [0], [1])
    assert unsure.is_missing
    assert unsure.yes == pytest.approx(0.5)
    sure = answer(torch.tensor([4.0, 0.0, 1.0, 3.0]), [0, 3], [1])
    assert not sure.is_missing
    assert sure.is_yes
    yes = math.exp(4) + math.exp(3)
    assert sure.yes == pytest.approx(yes / (yes + 1), abs=1e-6)
    assert sure.elsewhere == pytest.approx(math.e / (yes + 1 + math.e), abs=1e-6)
    assert Answer(0.5, float("nan")).is_missing


def _damaged(folder: Path, to: Path, change: str) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(to / "model.safetensors")
    if change == "lacks":
        del tensors["model.layers.0.mlp.up_proj.weight"]
    elif change == "unknown":
        tensors["adapter.weight"] = torch.zeros(2)
    elif change == "new":
        for name, tensor in tensors.items():
            if name.endswith(".weight") and tensor.ndim == 1:
                tensors[name] = torch.ones_like(tensor)
    elif change == "shape":
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].contiguous()
    elif change == "kind":
        config = json.loads((to / "config.json").read_text())
        (to / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_vl"}))
    elif change == "cut":
        (to / "model.safetensors").write_bytes((to / "model.safetensors").read_bytes()[:5000])
        return to
    elif change == "words":
        (to / "tokenizer.json").write_text("{}")
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lacks", r"lacks .*layers\.0\.mlp\.up_proj"),
        ("unknown", r"has the unknown adapter\.weight"),
        ("new", "was never trained"),
        ("shape", "shape|cannot be loaded"),
        ("kind", "of a 'qwen2_vl', not"),
        ("cut", "cannot be loaded"),
        ("words", "is no tokenizer"),
    ],
)
def test_another_model_is_never_asked(folder: Path, tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        judge(_damaged(folder, tmp_path, change))
