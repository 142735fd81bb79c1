"""Transformers in one file: told from their tensors, loaded whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone import (
    flow_model,
    headers,
    registry,
    single_file,
    transformer_files,
    transformer_kinds,
)
from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.editors import opening
from stylecli.errors import StyleError, WeightsError
from tests import flows, ldm, released
from tests.backbone.full_size import on_paper
from tests.released import CLASSES, FLOWS, KINDS, Released
from tests.small import noise

GOLDEN = "tests/backbone/golden"
CPU = torch.device("cpu")
Tensors = dict[str, Tensor]


@pytest.fixture(params=KINDS)
def model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Released:
    return Released(request.param, tmp_path, monkeypatch)


@pytest.fixture
def klein(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Released:
    return Released("flux2-klein", tmp_path, monkeypatch)


def load(model: Released, dtype: torch.dtype = torch.float32) -> Any:
    import diffusers

    cls = getattr(diffusers, CLASSES[model.name])
    return transformer_files.load(cls, model.rest, dtype, file=model.file)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_every_tensor_arrives(model: Released, prefix: str) -> None:
    ldm.saved(model.file, {prefix + key: value for key, value in model.tensors.items()})
    loaded, wanted = load(model).state_dict(), released.state_of(model.whole)
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], value) for key, value in wanted.items())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_answers_and_draws_as_that_of_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released(name, tmp_path, monkeypatch)
    source = registry.find(str(made.file))
    own = flow_model.load(
        source,
        registry.snapshot(source),
        fingerprint="",
        device=CPU,
        dtype=torch.float32,
        size_px=flows.SIZE_PX,
    )
    other = flows.backbone(FLOWS[name])
    latents, words = flows.latents(own), "a cat"
    answers = [one.call(latents, 500, one.encode_prompt([words])) for one in (own, other)]
    # Where weights lie in memory, which is where they lie in their file, decides the last bits.
    assert torch.allclose(*answers, atol=1e-5)
    assert torch.allclose(own.decode(latents), other.decode(latents), atol=1e-5)


def test_an_editor_answers_as_that_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released("flux1-kontext", tmp_path, monkeypatch)

    def edited(name: Path) -> Tensor:
        source = registry.find(str(name))
        editor = opening.open(
            source,
            registry.snapshot(source),
            fingerprint="",
            device=CPU,
            text_length=24,
        )
        text = editor.encode_prompt(["make the cat red"])
        return editor.edit(noise(1, 4, 4, 4), text, seeds=[1], steps=2, guidance=2.0)

    assert torch.allclose(edited(made.file), edited(made.whole), atol=1e-5)


def test_a_file_is_told_and_stands_beside_the_parts_of_its_model(model: Released) -> None:
    assert single_file.identify(model.file) == single_file.Found(model.name, is_transformer=True)
    source = registry.find(str(model.file))
    known = registry.SOURCES[model.name]
    assert (source.file, source.beside, source.kind) == (model.file, model.name, known.kind)
    assert source.weighed == known.weighed[1:]
    assert "transformer/config.json" in source.patterns
    assert "transformer/*" not in source.patterns
    assert {*source.patterns} - {"transformer/config.json"} < {*known.patterns}
    assert registry.snapshot(source) == model.rest


def test_without_the_other_parts_a_line_says_what_to_pull(
    klein: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match="what goes with the transformer in") as caught:
        registry.snapshot(registry.find(str(klein.file)))
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("style models pull flux2-klein, or")


def test_a_fingerprint_tells_the_file_and_its_company_apart(klein: Released) -> None:
    prints = [transformer_files.fingerprint(klein.file, klein.rest)]
    assert prints == [transformer_files.fingerprint(klein.file, klein.whole)]
    (klein.rest / "scheduler" / "scheduler_config.json").write_text("{}")
    prints.append(transformer_files.fingerprint(klein.file, klein.rest))
    klein.save(lambda tensors: tensors["img_in.weight"].add_(1))
    prints.append(transformer_files.fingerprint(klein.file, klein.rest))
    assert len({*prints}) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in prints)


def test_one_tensor_less_or_more_is_refused_by_name(model: Released) -> None:
    signs = {*transformer_kinds.SIGNS}
    for victim in [key for key in model.tensors if key not in signs][::7]:
        model.save(lambda tensors, victim=victim: tensors.pop(victim))
        with pytest.raises(WeightsError, match=re.escape(f"tensor {victim} of {model.name}")):
            load(model)
    model.save(lambda tensors: tensors.update({"odd.weight": torch.ones(1)}))
    with pytest.raises(WeightsError, match=r"tensor odd\.weight is none of the transformer"):
        load(model)


def misshape(tensors: Tensors, key: str) -> None:
    tensors[key] = torch.cat([tensors[key]] * 2)


def rounded(tensors: Tensors, *scales: str) -> None:
    key = "double_blocks.0.img_attn.qkv.weight"
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)
    tensors.update(dict.fromkeys(scales, torch.ones(1)))


def in_whole_numbers(tensors: Tensors) -> None:
    tensors["img_in.weight"] = tensors["img_in.weight"].to(torch.int8)


QKV = "double_blocks.0.img_attn.qkv"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (partial(misshape, key="single_blocks.0.linear2.weight"), "linear2.weight is 64x"),
        (partial(misshape, key="img_in.weight"), "of another size: img_in.weight is 64x16"),
        (lambda t: rounded(t, f"{QKV}.scale_weight"), f"not whole without {QKV}.scale_weight"),
        (lambda t: rounded(t, "scaled_fp8"), "not whole without scaled_fp8"),
        (lambda t: rounded(t, f"{QKV}.weight_scale"), f"not whole without {QKV}.weight_scale"),
        (in_whole_numbers, "is quantized: img_in.weight is I8"),
        (
            lambda t: t.update(x=t.pop("double_stream_modulation_img.lin.weight")),
            "is no transformer of",
        ),
    ],
)
def test_what_cannot_be_loaded_right_is_refused(
    change: Callable[[Tensors], None], words: str, klein: Released
) -> None:
    klein.save(change)
    with pytest.raises(StyleError, match=re.escape(words)) as caught:
        load(klein)
    assert "\n" not in caught.value.what


def test_eight_bits_without_a_scale_are_the_numbers_they_are(klein: Released) -> None:
    def change(tensors: Tensors) -> None:
        for key, value in tensors.items():
            tensors[key] = value.to(torch.float8_e4m3fn)

    klein.save(change)
    loaded, wanted = load(klein).state_dict(), released.state_of(klein.whole)
    for key, value in wanted.items():
        assert torch.equal(loaded[key], value.to(torch.float8_e4m3fn).float()), key


def test_a_file_that_was_cut_off_is_refused(klein: Released) -> None:
    whole = klein.file.read_bytes()
    klein.file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be read"):
        registry.find(str(klein.file))


def test_a_folders_own_file_is_sent_back_to_its_folder(klein: Released) -> None:
    (file,) = (klein.whole / "transformer").glob("*.safetensors")
    with pytest.raises(WeightsError, match="under diffusers' names"):
        registry.find(str(file))


def test_norms_are_found_under_either_name_and_an_idle_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Released("flux2-klein", tmp_path / "klein", monkeypatch)
    names = {key: re.sub(r"_norm\.scale$", "_norm.weight", key) for key in made.tensors}
    ldm.saved(made.file, {names[key]: value for key, value in made.tensors.items()})
    load(made)
    idle = Released("z-image", tmp_path / "z", monkeypatch)
    idle.save(lambda tensors: tensors.update({"norm_final.weight": torch.ones(4)}))
    load(idle)


def test_what_tensors_cannot_tell_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Released("flux1-kontext", tmp_path, monkeypatch)
    assert single_file.identify(made.file).doubt is None
    other = made.file.rename(tmp_path / "flux.safetensors")
    doubt = single_file.identify(other).doubt
    assert doubt is not None
    assert "FLUX.1-dev" in doubt
    ldm.saved(other, made.tensors, {"modelspec.title": "FLUX.1 Kontext [dev]"})
    assert single_file.identify(other).doubt is None


def full_size(name: str) -> torch.nn.Module:
    import diffusers

    return on_paper(lambda: getattr(diffusers, CLASSES[name]).from_config(dict(CONFIGS[name])))


# FLUX.1-dev's own file has as many; the others follow from their configurations.
COUNTS = {"z-image": 453, "flux2-klein": 149, "flux1-kontext": 780}


@pytest.mark.parametrize("name", KINDS)
def test_the_published_model_has_all_tensors_of_the_released_file(
    name: str, committed: Callable[[str, str], None]
) -> None:
    """Names and sizes at full size, without a number: the list is what a file must hold."""
    from tests.backbone.test_golden_keys import counted

    state = full_size(name).state_dict()
    tensors = released.original(name, state)
    header = headers.Header({key: tuple(one.shape) for key, one in tensors.items()}, {}, {})
    file = Path(f"{name}.safetensors")
    assert transformer_kinds.told(file, header) == name
    shapes = {key: tuple(one.shape) for key, one in state.items()}
    places = transformer_files._checked(file, header, name, shapes)
    assert {place.path for place in places.values()} == tensors.keys()
    assert len(tensors) == COUNTS[name]
    committed(f"{GOLDEN}/{name}.released.txt", counted(tensors))


@pytest.mark.parametrize("name", KINDS)
def test_the_librarys_own_converter_makes_the_same_of_it(name: str, tmp_path: Path) -> None:
    """On numbers: a column of each tensor, since FLUX.1's converter knows its width alone."""
    from diffusers.loaders import single_file_utils
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    state = {
        key: torch.rand(one.shape[:1] + (1,) * (one.ndim - 1), generator=random)
        for key, one in full_size(name).state_dict().items()
    }
    tensors = released.original(name, state)
    file = tmp_path / "thin.safetensors"
    save_file(tensors, file)
    stem = transformer_kinds.FAMILIES[name].replace("-", "_").replace("flux1", "flux")
    convert = getattr(single_file_utils, f"convert_{stem}_transformer_checkpoint_to_diffusers")
    theirs = convert(dict(tensors))
    shapes = {key: tuple(one.shape) for key, one in state.items()}
    header = headers.read(file)
    places = transformer_files._checked(file, header, name, shapes)
    ours = transformer_files._tensors(file, header, places, shapes)
    assert ours.keys() == theirs.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(ours[key], value), key
        assert torch.equal(theirs[key], value), key
