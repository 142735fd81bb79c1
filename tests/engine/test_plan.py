"""Plans: keys change when anything decisive does, shards partition, names cannot collide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine import asking, plan
from stylecli.engine.plan import Input, Job
from stylecli.errors import InputError, UsageError
from stylecli.recipe.schema import Recipe, Sampling


def build(folder: Path, **changes: Any) -> plan.Plan:
    for name in ("photo.png", "look.png"):
        (folder / name).write_bytes(name.encode())
    rows = [([Input.of("content", folder / "photo.png"), Input.of("style", folder / "look.png")],
             None)]  # fmt: skip
    given_ = {"decisive": {"recipe": 1}, "seed": 0, "output": folder / "o.png", "name": "",
              "is_file": True}  # fmt: skip
    return plan.build("transfer", [plan.Wanted(*row) for row in rows], **(given_ | changes))


def test_the_key_follows_everything_decisive_and_nothing_else(tmp_path: Path) -> None:
    (job,) = build(tmp_path).jobs
    (moved,) = build(tmp_path, output=tmp_path / "elsewhere.png").jobs
    assert moved.key == job.key
    assert moved.seed == job.seed
    others = [
        build(tmp_path, seed=1),
        build(tmp_path, decisive={"recipe": 2}),
        plan.build("invert", [plan.Wanted(list(job.inputs))], decisive={"recipe": 1}, seed=0,
                   output=tmp_path / "o.png", name="", is_file=True),
    ]  # fmt: skip
    (tmp_path / "twin").mkdir()
    keys = {other.jobs[0].key for other in others} | {job.key}
    assert len(keys) == 4
    assert build(tmp_path, seed=1).jobs[0].seed != job.seed


def test_every_field_that_shapes_a_picture_counts() -> None:
    """The settings reach the key as one dump, so a field that is dumped is a field that counts."""
    # Two that count where they are set, since results are older than they are.
    recipe = Recipe(sampling=Sampling(accelerator="fast.safetensors", timesteps="lcm"))
    with_masks = asking.decisive(recipe, with_masks=True)
    unset = asking.decisive(Recipe(), with_masks=True)["sampling"]
    assert set(with_masks["sampling"]) - set(unset) == {"accelerator_weight", "timesteps"}
    assert set(with_masks) == {"lora", "inversion", "sampling", "injection", "masks"}
    worded = Recipe(sampling=Sampling(prompt_from_style=True))
    assert set(asking.decisive(worded, with_masks=False)) - set(with_masks) == {"words"}
    left_out = {
        "sampling": {
            *("method", "accelerator", "negative_lora", "schedule", "regions"),
            *("width", "height"),
        },
        "injection": {"preset"},
        "masks": {"backend", "model", "segmenter"},
    }
    for section, values in with_masks.items():
        fields = set(type(getattr(recipe, section)).model_fields)
        assert set(values) == fields - left_out.get(section, set())
    without = asking.decisive(recipe, with_masks=False)
    assert set(without) == set(with_masks) - {"masks"}
    assert set(with_masks["sampling"]) - set(without["sampling"]) == asking.OF_REGIONS - {"regions"}


@pytest.mark.slow
@given(
    names=st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=30, unique=True),
    count=st.integers(1, 7),
)
def test_shards_are_a_partition(names: list[str], count: int) -> None:
    jobs = tuple(Job(name, "transfer", (), Path(f"{name}.png"), 0) for name in names)
    whole = plan.Plan(jobs, Path())
    parts = [plan.shard(whole, (i, count)).jobs for i in range(1, count + 1)]
    assert sorted(job.key for part in parts for job in part) == sorted(names)


@pytest.mark.parametrize("template", ["{who}.png", "../{content}.png", "/{content}.png", "{", ""])
def test_a_name_that_leaves_the_folder_or_names_nothing_is_refused(
    tmp_path: Path, template: str
) -> None:
    with pytest.raises(UsageError):
        build(tmp_path, is_file=False, output=tmp_path / "out", name=template)


def test_a_content_that_cannot_be_read_is_an_item(tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    assert Input.of_content(gone) == Input("content", gone, plan.UNREADABLE)
    with pytest.raises(InputError):
        Input.of("style", gone)


def test_a_sheet_may_not_be_an_input(tmp_path: Path) -> None:
    (job,) = build(tmp_path, sheet="compare").jobs
    assert job.sheet == tmp_path / "o.compare.png"
    photo = Input.of("content", tmp_path / "photo.png")
    beside = tmp_path / "o.compare.png"
    beside.write_bytes(b"x")
    wanted = [plan.Wanted([photo, Input.of("style", beside)])]
    with pytest.raises(UsageError, match="one of the inputs"):
        plan.build("transfer", wanted, decisive={}, seed=0, output=tmp_path / "o.png", name="",
                   is_file=True, sheet="compare")  # fmt: skip


def test_long_names_are_cut(tmp_path: Path) -> None:
    long = tmp_path / f"{'x' * 200}.png"
    long.write_bytes(b"x")
    job = Job("k" * 64, "transfer", (Input.of("content", long),), tmp_path, 0)
    assert len(plan.file_name("{content}-{key}.png", job)) < 120
