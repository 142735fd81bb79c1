"""Finders on tiny models of the real classes: random weights, real geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylecli.errors import UsageError, WeightsError
from stylecli.masks.base import MaskBackend, PointsBackend, box_of
from stylecli.masks.detectors import ClipSeg, GroundedSam2, Sam3, best_token
from stylecli.masks.sam2 import distinct
from tests.masks import finders
from tests.masks.setups import picture, setup

Make = Callable[..., MaskBackend]
# Random weights are never sure of anything: their logits are smaller than SAM's offset of 1.
OFFSET = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finders")
    for build in (finders.sam2, finders.grounding_dino, finders.clipseg, finders.sam3):
        build(folder / build.__name__)
    return folder


@pytest.fixture(scope="module")
def grounded(folder: Path) -> Make:
    return lambda **settings: GroundedSam2(
        setup(
            **{
                "model": str(folder / "grounding_dino"),
                "segmenter": str(folder / "sam2"),
                "threshold": 0.1,
                "text_threshold": 0.05,
                **settings,
            }
        )
    )


@pytest.fixture(scope="module")
def clipseg(folder: Path) -> Make:
    return lambda **settings: ClipSeg(setup(model=str(folder / "clipseg"), **settings))


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Make:
    return lambda **settings: Sam3(
        setup(model=str(folder / "sam3"), **({"threshold": 0.1} | settings))
    )


@pytest.fixture(params=["grounded", "clipseg", "sam3"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.getfixturevalue(request.param)
    return found


@pytest.mark.mostly_slow
@pytest.mark.parametrize("size", [(50, 30), (24, 61)])
def test_masks_have_the_size_of_the_picture_and_lie_in_the_unit_interval(
    make: Make, size: tuple[int, int]
) -> None:
    image = picture(*size)
    found = make().segment(image, ["red deer", "sky"])
    assert found
    for one in found:
        assert tuple(one.mask.shape) == (image.height, image.width)
        assert one.mask.dtype == torch.float32
        assert 0 <= float(one.mask.min()) <= float(one.mask.max()) <= 1
        assert one.mask.any()
        for left, top, right, bottom in one.boxes:
            assert 0 <= left < right <= image.width
            assert 0 <= top < bottom <= image.height


@pytest.mark.slow
def test_every_prompt_keeps_its_own_finds_and_their_order(make: Make) -> None:
    prompts = ["sky", "red deer"]
    found = make().segment(picture(), prompts)
    names = [one.prompt for one in found]
    assert sorted(set(names)) == sorted(prompts)
    assert names == sorted(names, key=prompts.index)
    for prompt in prompts:
        scores = [one.score for one in found if one.prompt == prompt]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_threshold_drops_what_scores_less(make: Make) -> None:
    everything = make().segment(picture(), ["sky"])
    limit = sorted(one.score for one in everything)[len(everything) // 2]
    kept = make(threshold=limit).segment(picture(), ["sky"])
    assert all(one.score >= limit for one in kept)
    assert make(threshold=1.0).segment(picture(), ["sky"]) == []


def test_words_of_two_prompts_do_not_share_a_box() -> None:
    ids = torch.tensor([101, 7, 8, 1012, 9, 1012, 102])
    fits = torch.zeros(2, 10)
    fits[0, 2], fits[0, 4], fits[0, 3] = 0.6, 0.5, 0.9  # the period itself fits nobody
    fits[1, 4] = 0.7
    assert torch.equal(best_token(fits, ids, 1012), torch.tensor([[0.6, 0.5], [0.0, 0.7]]))


@pytest.mark.slow
def test_grounding_dinos_boxes_are_those_of_its_own_processor(
    grounded: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    monkeypatch.setattr("stylecli.masks.detectors.MAX_OVERLAP", 1.0)
    model = GroundingDinoForObjectDetection.from_pretrained(folder / "grounding_dino").eval()
    processor = GroundingDinoProcessor.from_pretrained(folder / "grounding_dino")
    image = picture()
    inputs = processor(images=image, text="red deer. sky.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (wanted,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.3, target_sizes=[(30, 50)]
    )
    # [CLS] red deer . sky . [SEP]
    fits = outputs.logits[0].sigmoid()
    fits = fits[fits.max(dim=1).values > 0.3]
    by_hand = []
    for box, score, row in zip(wanted["boxes"], wanted["scores"], fits, strict=True):
        deer, sky = float(row[1:3].max()), float(row[4])
        clipped = [min(max(float(v), 0.0), m) for v, m in zip(box, (50, 30, 50, 30), strict=True)]
        is_there = clipped[0] < clipped[2] and clipped[1] < clipped[3] and max(deer, sky) > 0.05
        if is_there:
            by_hand.append(("red deer" if deer >= sky else "sky", float(score), clipped))
    assert len({prompt for prompt, *_ in by_hand}) == 2
    found = grounded(threshold=0.3).segment(image, ["Red deer.", "sky"])
    assert found[0].prompt == "Red deer."
    ours = sorted((one.prompt.lower().strip("."), one.score, list(one.boxes[0])) for one in found)
    for (name, score, box), (other, value, edges) in zip(ours, sorted(by_hand), strict=True):
        assert name == other
        assert score == pytest.approx(value, abs=1e-5)
        assert box == pytest.approx(edges, abs=1e-3)


def test_sam_masks_are_those_of_its_own_processor(grounded: Make, folder: Path) -> None:
    from transformers import Sam2Model, Sam2Processor

    model = Sam2Model.from_pretrained(folder / "sam2").eval()
    processor = Sam2Processor.from_pretrained(folder / "sam2")
    image, box = picture(), [5.0, 3.0, 40.0, 25.0]
    inputs = processor(images=image, input_boxes=[[box]], return_tensors="pt")
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=False)
    wanted = processor.post_process_masks(outputs.pred_masks, sizes)[0][0, 0]
    backend = grounded()
    assert isinstance(backend, PointsBackend)
    (found,) = backend.segment_at(image, boxes=[(5.0, 3.0, 40.0, 25.0)])
    assert torch.equal(found.mask, wanted.float())
    assert found.score == pytest.approx(float(outputs.iou_scores), abs=1e-6)
    assert found.boxes == (box_of(wanted),)


def test_points_are_one_region_and_boxes_one_each(grounded: Make) -> None:
    backend = grounded()
    assert isinstance(backend, PointsBackend)
    points = [(10.0, 10.0, True), (40.0, 20.0, False)]
    boxes = [(0.0, 0.0, 20.0, 10.0), (5.0, 5.0, 50.0, 30.0)]
    found = backend.segment_at(picture(), points=points, boxes=boxes)
    assert len(found) == 3
    one = backend.segment_at(picture(), points=points)
    other = backend.segment_at(picture(), points=[(10.0, 10.0, True), (40.0, 20.0, True)])
    assert torch.equal(one[0].mask, found[0].mask)
    assert one[0].score != other[0].score, "what does not belong changes the question"


@pytest.mark.slow
def test_without_words_grounded_sam2_cuts_out_everything(
    grounded: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.masks.sam2.MIN_STABILITY", 0.0)
    monkeypatch.setattr("stylecli.masks.sam2.POINTS_PER_SIDE", 3)
    few = grounded(threshold=0.0).segment(picture(), [])
    monkeypatch.setattr("stylecli.masks.sam2.MAX_OVERLAP", 1.0)
    found = grounded(threshold=0.0).segment(picture(), [])
    assert len(few) < len(found) == 3 * 3 * 3
    assert {one.prompt for one in found} == {""}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert grounded(threshold=1.0).segment(picture(), []) == []


@pytest.mark.slow
def test_everything_is_the_stable_of_what_lies_at_points_of_a_grid(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Sam2Model, Sam2Processor

    model = Sam2Model.from_pretrained(folder / "sam2").eval()
    processor = Sam2Processor.from_pretrained(folder / "sam2")
    image = picture()
    found = []
    for x, y in [(12.5, 7.5), (37.5, 7.5), (12.5, 22.5), (37.5, 22.5)]:
        inputs = processor(images=image, input_points=[[[[x, y]]]], return_tensors="pt")
        sizes = inputs.pop("original_sizes")
        with torch.no_grad():
            outputs = model(**inputs)
        for logits in outputs.pred_masks[0, 0]:
            inner, outer = int((logits > OFFSET).sum()), int((logits > -OFFSET).sum())
            mask = processor.post_process_masks([logits[None, None]], sizes)[0][0, 0]
            found.append((inner / max(outer, 1), mask))
    limit = sorted(stability for stability, _ in found)[6]
    wanted = {mask.numpy().tobytes() for stability, mask in found if stability >= limit}
    for name, value in {
        "POINTS_PER_SIDE": 2,
        "PROMPTS_PER_BATCH": 3,
        "MAX_OVERLAP": 1.0,
        "STABILITY_OFFSET": OFFSET,
        "MIN_STABILITY": limit - 1e-6,
    }.items():
        monkeypatch.setattr(f"stylecli.masks.sam2.{name}", value)
    backend = GroundedSam2(setup(segmenter=str(folder / "sam2"), threshold=0.0))
    ours = {one.mask.bool().numpy().tobytes() for one in backend.segment(image, [])}
    assert 1 < len(wanted) < 12
    assert ours == wanted


@pytest.mark.parametrize("name", ["clipseg", "sam3"])
def test_what_needs_words_says_so(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(UsageError, match="only what words name"):
        request.getfixturevalue(name)().segment(picture(), [])


@pytest.mark.slow
def test_words_too_many_or_none_are_refused(grounded: Make, sam3: Make) -> None:
    with pytest.raises(UsageError, match="32 tokens"):
        grounded().segment(picture(), ["deer"] * 20)
    with pytest.raises(UsageError, match="names nothing"):
        grounded().segment(picture(), ["..."])
    with pytest.raises(UsageError, match="too long"):
        sam3().segment(picture(), ["deer " * 40])


@pytest.mark.mostly_slow
def test_equal_pictures_make_equal_masks(make: Make) -> None:
    one, other = (make().segment(picture(), ["deer"]) for _ in range(2))
    assert [found.score for found in one] == [found.score for found in other]
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(one, other, strict=True))


def test_closing_lets_go_of_the_networks_and_using_loads_them_again(clipseg: Make) -> None:
    backend = clipseg()
    first = backend.segment(picture(), ["deer"])
    networks = backend._networks  # type: ignore[attr-defined]
    assert len(networks._loaded) == 1
    backend.close()  # type: ignore[attr-defined]
    assert not networks._loaded
    assert torch.equal(backend.segment(picture(), ["deer"])[0].mask, first[0].mask)


def test_weights_that_are_not_there_name_the_repository_and_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="IDEA-Research/grounding-dino-tiny") as caught:
        GroundedSam2(setup()).segment(picture(), ["deer"])
    assert "--allow-download" in caught.value.fix
    with pytest.raises(WeightsError, match="no folder"):
        ClipSeg(setup(model=str(tmp_path / "absent"))).segment(picture(), ["deer"])


def test_weights_are_found_below_the_weights_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "CIDAS" / "clipseg-rd64-refined"
    place.parent.mkdir()
    place.symlink_to(folder / "clipseg")
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path))
    assert ClipSeg(setup()).segment(picture(), ["deer"])


def test_a_missing_tensor_is_named_and_not_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "clipseg", tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["decoder.film_add.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"decoder\.film_add\.weight"):
        ClipSeg(setup(model=str(tmp_path / "torn"))).segment(picture(), ["deer"])


@pytest.mark.slow
def test_distinct_boxes_are_those_of_greedy_suppression() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, 2, generator=random).sort(dim=1).values
    boxes = [tuple(box) for box in corners.flatten(1).tolist()]
    scores = torch.rand(30, generator=random).tolist()

    def cells(box: tuple[float, ...]) -> set[tuple[int, int]]:
        left, top, right, bottom = (round(edge * 200) for edge in box)
        return {(x, y) for x in range(left, right) for y in range(top, bottom)}

    left, wanted = sorted(range(30), key=lambda i: -scores[i]), []
    while left:
        best = left.pop(0)
        wanted.append(best)
        mine = cells(boxes[best])
        left = [i for i in left if len(mine & cells(boxes[i])) <= 0.4 * len(mine | cells(boxes[i]))]
    assert 5 < len(wanted) < 30
    assert distinct(boxes, scores, 0.4) == wanted  # type: ignore[arg-type]


@pytest.mark.mostly_slow
def test_a_picture_of_one_pixel_is_no_crash(make: Make) -> None:
    for one in make().segment(Image.new("RGB", (1, 1)), ["deer"]):
        assert tuple(one.mask.shape) == (1, 1)
