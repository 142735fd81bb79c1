"""LoRA files of three kinds of model: what they are called, what diffusers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylecli.backbone import lora, lora_layouts, lora_names, lora_trial
from stylecli.backbone.linears import Layer, matching
from stylecli.backbone.lora_names import Format
from stylecli.backbone.row_loras import Factors, Pairs, applied
from stylecli.errors import ItemError, UsageError, WeightsError
from tests.small import base_unet, noise, relative

RANK = 3
PATTERNS = {
    "unet": [r".*\.attn[12]\.to_[qkv]", r".*\.attn[12]\.to_out\.0", r".*\.ff\.net\.2"],
    "z-image": [
        r"(layers|noise_refiner|context_refiner)\.\d+\.attention\.(to_[qkv]|to_out\.0)",
        r"(layers|noise_refiner|context_refiner)\.\d+\.feed_forward\.w[123]",
    ],
    "flux2": [
        r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)",
        r"transformer_blocks\.\d+\.ff(_context)?\.linear_(in|out)",
        r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
    ],
}
KINDS = [*PATTERNS]


@cache
def model(kind: str) -> Any:
    """A tiny model of the real class; nobody leaves anything in it."""
    from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel

    torch.manual_seed(0)
    if kind == "unet":
        return base_unet()
    made: Any
    if kind == "z-image":
        made = ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=12,
            axes_dims=[4, 6, 6],
            axes_lens=[64, 32, 32],
        )
    else:
        made = Flux2Transformer2DModel(
            in_channels=8,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    for tensor in made.parameters():  # some of them are left empty
        nn.init.normal_(tensor, std=0.05)
    return made.requires_grad_(False).eval()


def output(kind: str) -> Tensor:
    """What the model makes of one fixed input."""
    found: Any
    with torch.no_grad():
        if kind == "unet":
            found = model(kind)(noise(1, 4, 8, 8), 500, noise(1, 5, 32, seed=1)).sample
        elif kind == "z-image":
            found = model(kind)(
                [noise(4, 1, 8, 8)], torch.tensor([0.5]), [noise(5, 12, seed=1)]
            ).sample[0]
        else:
            ids = torch.zeros(4, 4)
            ids[:, 3] = torch.arange(4)
            found = model(kind)(
                noise(1, 4, 8),
                encoder_hidden_states=noise(1, 5, 12, seed=1),
                timestep=torch.tensor([0.5]),
                img_ids=ids,
                txt_ids=torch.zeros(5, 4),
                guidance=None,
            ).sample
    assert isinstance(found, Tensor)
    return found


def layers(kind: str) -> tuple[Layer, ...]:
    return matching(model(kind), PATTERNS[kind])


@cache
def pairs(kind: str) -> Pairs:
    random = torch.Generator().manual_seed(5)
    return {
        layer.path: (
            torch.randn(RANK, layer.width_in, generator=random) / RANK,
            torch.randn(layer.width_out, RANK, generator=random) / 8,
        )
        for layer in layers(kind)
    }


def prefix(kind: str) -> str:
    return "unet" if kind == "unet" else "transformer"


def same(left: Pairs, right: Pairs) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in ((left[path], right[path]) for path in left)
    )


def saved(path: Path, kind: str, layout: Format, dtype: torch.dtype = torch.float32) -> Path:
    """As the engine saves what `write` gives."""
    tensors, header = lora_layouts.write(
        pairs(kind), prefix=prefix(kind), layout=layout, dtype=dtype
    )
    if layout == "peft":
        path = path.with_suffix("")
        path.mkdir()
        config = json.dumps(lora_layouts.peft_config(pairs(kind)))
        (path / lora.PEFT_CONFIG).write_text(config)
    save_file(tensors, path / lora.PEFT_WEIGHTS if path.is_dir() else path, metadata=header)
    return path


def by_hand(kind: str, template: str, **more: float) -> dict[str, Tensor]:
    """Files of others: ``{path}`` and ``{side}`` filled in; `more` is said of each layer."""
    found: dict[str, Tensor] = {}
    for path, pair in pairs(kind).items():
        for side, tensor in zip("AB", pair, strict=True):
            found[template.format(path=path, side=side)] = tensor
        for name, value in more.items():
            key = template.format(path=path, side="A").partition(".lora_")[0]
            found[f"{key}.{name}"] = torch.tensor(value)
    return found


ROWS: list[tuple[str, Format]] = [
    ("z-image", "diffusers"),
    ("z-image", "comfy"),
    ("z-image", "peft"),
    ("flux2", "diffusers"),
    ("flux2", "comfy"),
    ("flux2", "peft"),
    ("unet", "diffusers"),
    ("unet", "kohya"),
    ("unet", "comfy"),
    ("unet", "peft"),
]
FIRST: Mapping[tuple[str, Format], str] = {
    ("z-image", "diffusers"): "transformer.layers.0.attention.to_q.lora_A.weight",
    ("z-image", "comfy"): "diffusion_model.layers.0.attention.to_q.lora_A.weight",
    ("z-image", "peft"): "base_model.model.layers.0.attention.to_q.lora_A.weight",
    ("flux2", "diffusers"): "transformer.transformer_blocks.0.ff_context.linear_in.lora_B.weight",
    ("flux2", "comfy"): "transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight",
    ("flux2", "peft"): "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight",
    ("unet", "diffusers"): (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    ),
    ("unet", "kohya"): (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
    ),
    ("unet", "comfy"): (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha"
    ),
    ("unet", "peft"): (
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    ),
}


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("kind", "layout"), ROWS)
def test_what_is_written_is_what_diffusers_loads(tmp_path: Path, kind: str, layout: Format) -> None:
    """Spec 4.2: every row by its key, by its numbers, and left without a trace."""
    path = saved(tmp_path / "x.safetensors", kind, layout)
    tensors, _, _ = lora.opened(path)
    assert FIRST[kind, layout] in tensors
    modules = [name for name, _ in model(kind).named_modules()]
    lora_trial.verify_load(model(kind), pairs(kind), path)
    assert [name for name, _ in model(kind).named_modules()] == modules
    assert not getattr(model(kind), "peft_config", None)
    found = lora_layouts.read(path)
    assert same(found.pairs, pairs(kind))
    assert (found.prefix, found.rank, found.flaw) == (prefix(kind), RANK, None)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_loaded_it_computes_what_the_hooks_do(tmp_path: Path, kind: str) -> None:
    """Spec 9, formats: the pipeline's adapter and the rows of a batch are one LoRA."""
    path = saved(tmp_path / "x.safetensors", kind, "diffusers")
    base = output(kind)
    with applied(model(kind), Factors.stacked([pairs(kind)]), [0]):
        hooked = output(kind)
    assert relative(hooked, base) > 1e-3
    with lora_trial.loaded(model(kind), path):
        assert relative(output(kind), hooked) < 1e-5
    assert torch.equal(output(kind), base)


BAD = {
    "bare": ("{path}.lora_{side}.weight", KINDS, "0 of"),
    "authors": ("{path}.lora_{side}.default.weight", ["flux2", "unet"], "0 of"),
    "adapter-name": ("{prefix}.{{path}}.lora_{{side}}.default.weight", KINDS, "were made"),
}
MORE = [
    ("base_model.model.{path}.lora_{side}.default.weight", ["z-image", "flux2"]),
    ("diffusion_model.{path}.lora_{side}.default.weight", ["flux2"]),
]


def bad() -> Iterator[Any]:
    for layout, (template, kinds, words) in BAD.items():
        for kind in kinds:
            shown = template.format(prefix=prefix(kind)) if "{prefix}" in template else template
            yield pytest.param(layout, shown, kind, words, id=f"{layout}-{kind}")
    for template, kinds in MORE:
        for kind in kinds:
            stem = template.partition(".")[0]
            yield pytest.param("adapter-name", template, kind, "were made", id=f"{stem}-{kind}")


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("layout", "template", "kind", "words"), [*bad()])
def test_the_layouts_that_load_as_nothing_are_named_and_refused(
    tmp_path: Path, layout: str, template: str, kind: str, words: str
) -> None:
    """Spec 4.2: diffusers raises for none of them, and leaves the model as it was."""
    path = tmp_path / "bad.safetensors"
    save_file(by_hand(kind, template), path)
    found = lora_layouts.read(path)
    assert found.layout == layout
    assert found.flaw is not None
    assert "diffusers" in found.flaw
    assert same(found.pairs, pairs(kind))  # what it means is plain
    with pytest.raises(UsageError, match=words) as caught:
        lora_trial.verify_load(model(kind), found.pairs, path)
    assert found.flaw in caught.value.what
    assert "style lora convert" in caught.value.fix
    assert not getattr(model(kind), "peft_config", None)


@pytest.mark.parametrize("template", [BAD["bare"][0], "unet.{path}.lora_{side}.default.weight"])
def test_a_command_names_the_layout_that_would_load_nothing(tmp_path: Path, template: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file(by_hand("unet", template), path)
    with pytest.raises(UsageError, match="diffusers") as caught:
        lora.read(path, model("unet"))
    assert "style lora convert" in caught.value.fix


@pytest.mark.parametrize(("prefix", "layout"), [("", "authors"), ("diffusion_model.", "comfy")])
def test_the_authors_own_files_of_z_image_load(tmp_path: Path, prefix: str, layout: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(by_hand("z-image", prefix + "{path}.lora_{side}.default.weight"), path)
    found = lora_layouts.read(path)
    assert (found.layout, found.flaw) == (layout, None)
    lora_trial.verify_load(model("z-image"), found.pairs, path)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_number_is_found(tmp_path: Path, kind: str) -> None:
    """By value: the layers are all there and all but one number is right."""
    path = saved(tmp_path / "x.safetensors", kind, "diffusers")
    tensors = load_file(path)
    key = sorted(tensors)[len(tensors) // 2]
    tensors[key].view(-1)[7] += 1e-3
    save_file(tensors, path)
    count = len(pairs(kind))
    with pytest.raises(UsageError, match=f"{count - 1} of {count} layers"):
        lora_trial.verify_load(model(kind), pairs(kind), path)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_is_checked_as_fine_as_halves_are(
    tmp_path: Path, dtype: torch.dtype, layout: Format
) -> None:
    path = saved(tmp_path / "x.safetensors", "unet", layout, dtype)
    lora_trial.verify_load(model("unet"), pairs("unet"), path)
    other = {layer: (down, up * 1.02) for layer, (down, up) in pairs("unet").items()}
    with pytest.raises(UsageError, match="0 of"):
        lora_trial.verify_load(model("unet"), other, path)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_not_written_is_missed(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "x.safetensors", kind, "diffusers")
    tensors = load_file(path)
    gone = next(iter(pairs(kind)))
    kept = {key: value for key, value in tensors.items() if f".{gone}." not in key}
    with pytest.raises(UsageError, match="layers"):
        lora_trial.verify_load(model(kind), pairs(kind), kept)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("kind", "layout"), ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_read_and_saved_again_is_the_same_to_the_bit(
    tmp_path: Path, kind: str, layout: Format, dtype: torch.dtype
) -> None:
    first = saved(tmp_path / "a.safetensors", kind, layout, dtype)
    found = lora_layouts.read(first)
    again, header = lora_layouts.write(
        found.pairs, prefix=found.prefix, layout=layout, dtype=found.dtype
    )
    tensors, before, _ = lora.opened(first)
    assert header == before
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], value) for key, value in tensors.items())
    assert {value.dtype for key, value in again.items() if "alpha" not in key} == {dtype}


ALPHA = 1.5
CONFIG: Mapping[str, Any] = {
    "r": RANK,
    "lora_alpha": ALPHA,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": ["to_q"],
}


def with_metadata(tensors: dict[str, Tensor], path: Path, **changes: Any) -> None:
    said = {f"unet.{key}": value for key, value in {**CONFIG, **changes}.items()}
    save_file(tensors, path, metadata={lora.METADATA: json.dumps(said)})


UNET = "unet.{path}.lora_{side}.weight"


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "save",
    [
        pytest.param(lambda p: save_file(by_hand("unet", UNET, alpha=ALPHA), p), id="beside"),
        pytest.param(lambda p: with_metadata(by_hand("unet", UNET), p), id="metadata"),
        pytest.param(
            lambda p: with_metadata(
                by_hand("unet", UNET), p, lora_alpha=9, alpha_pattern={".*": ALPHA}
            ),
            id="pattern",
        ),
        pytest.param(
            lambda p: with_metadata(
                by_hand("unet", UNET), p, lora_alpha=ALPHA / 3**0.5, use_rslora=True
            ),
            id="rslora",
        ),
    ],
)
def test_alpha_is_folded_into_up_once(tmp_path: Path, save: Callable[[Path], None]) -> None:
    """Spec 9, round trip: alpha at half the rank halves what the LoRA adds."""
    path = tmp_path / "x.safetensors"
    save(path)
    found = lora_layouts.read(path)
    for layer, (down, up) in pairs("unet").items():
        assert torch.equal(found.pairs[layer][0], down)
        assert torch.allclose(found.pairs[layer][1], up / 2, rtol=1e-6)
    tensors, _ = lora_layouts.write(
        found.pairs, prefix="unet", layout="diffusers", dtype=torch.float32
    )
    lora_trial.verify_load(model("unet"), found.pairs, tensors)


def test_ranks_are_filled_up_to_the_largest() -> None:
    """One alpha would be taken for all ranks of a file."""
    own = dict(pairs("flux2"))
    last = [*own][-1]
    own[last] = tuple(noise(*s, seed=9) for s in [(5, own[last][0].shape[1]), (32, 5)])  # type: ignore[assignment]
    tensors, header = lora_layouts.write(
        own, prefix="transformer", layout="diffusers", dtype=torch.float32
    )
    assert {len(value) for key, value in tensors.items() if "lora_A" in key} == {5}
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "5"
    with lora_trial.loaded(model("flux2"), tensors) as (found, refusal):
        assert not refusal
        for path, (down, up) in own.items():
            assert torch.equal(found[path][1] @ found[path][0], up @ down) or torch.allclose(
                found[path][1] @ found[path][0], up @ down, atol=1e-6
            )


def test_a_file_of_another_tool_with_convolutions_is_read_whole(tmp_path: Path) -> None:
    """Those of SD1.5 have 1x1 convolutions around their attention."""
    path = tmp_path / "x.safetensors"
    stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file(
        {
            f"{stem}.lora_down.weight": noise(4, 16, 1, 1),
            f"{stem}.lora_up.weight": noise(16, 4, 1, 1),
            f"{stem}.alpha": torch.tensor(2.0),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": noise(4, 8),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": noise(8, 4),
        },
        path,
    )
    found = lora_layouts.read(path)
    down, up = found.pairs["down_blocks.0.attentions.0.proj_in"]
    assert (down.shape, up.shape, found.ignored) == ((4, 16, 1, 1), (16, 4, 1, 1), 2)
    assert torch.equal(up, noise(16, 4, 1, 1) * 0.5)


def test_layers_are_compared_with_those_of_a_backbone() -> None:
    own = dict(pairs("flux2"))
    lora_layouts.verify(own, layers("flux2"))
    lora_layouts.verify({path: own[path] for path in [*own][:3]}, layers("flux2"))
    with pytest.raises(UsageError, match=r"fits 0 of its \d+ layers.*no such layer"):
        lora_layouts.verify(own, layers("z-image"))
    last = [*own][-1]
    own[last] = (own[last][0][:, 1:], own[last][1])
    with pytest.raises(UsageError, match=rf"fits {len(own) - 1} of its {len(own)} layers.*{last}"):
        lora_layouts.verify(own, layers("flux2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.zeros(3)}, "holds no LoRA"),
        ({}, "holds no LoRA"),
        ({"unet.a.lora_A.weight": torch.zeros(2, 3)}, "two matrices"),
        (
            {"unet.a.lora_A.weight": torch.zeros(2, 3), "unet.a.lora_B.weight": torch.zeros(3, 4)},
            "two matrices",
        ),
        (
            {
                "unet.a.lora_A.weight": torch.zeros(2, 3),
                "unet.a.lora_B.weight": torch.zeros(3, 2),
                "unet.a.lora_magnitude_vector": torch.zeros(3),
            },
            "more than products",
        ),
        ({"lora_unet_a.dora_scale": torch.zeros(3)}, "magnitudes"),
        ({"lora_unet_up_blocks_1_x.lora_down.weight": torch.zeros(2, 3)}, "cannot be read"),
    ],
)
def test_what_is_no_lora_of_products_is_refused(
    tmp_path: Path, change: dict[str, Tensor], words: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(change, path)
    with pytest.raises((UsageError, WeightsError), match=words) as caught:
        lora_layouts.read(path)
    assert caught.value.fix


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft", "comfy"])
@pytest.mark.parametrize("side", [0, 1])
def test_what_halves_cannot_hold_is_named_before_anything_is_written(
    layout: Format, side: int
) -> None:
    layers = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn{n}.to_q" for n in (1, 2)]
    found = {path: (torch.ones(1, 4), torch.ones(4, 1)) for path in layers}
    found[layers[1]][side].view(-1)[2] = -6.1e4
    with pytest.raises(ItemError, match=r"attn2\.to_q: .* 6\.1e\+04") as caught:
        lora_layouts.write(found, prefix="unet", layout=layout, dtype=torch.float16)
    assert "bfloat16" in caught.value.fix
    lora_layouts.write(found, prefix="unet", layout=layout, dtype=torch.bfloat16)
    found[layers[1]][side].view(-1)[2] = -5.9e4
    tensors, _ = lora_layouts.write(found, prefix="unet", layout=layout, dtype=torch.float16)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_kohya_has_no_names_for_transformers() -> None:
    with pytest.raises(UsageError, match="Stable Diffusion alone"):
        lora_layouts.write(
            pairs("z-image"), prefix="transformer", layout="kohya", dtype=torch.float32
        )


def test_keys_tell_the_layout() -> None:
    assert lora_names.layout_of(["a.weight", "lora.bias"]) is None
    assert lora_names.layout_of(["lora_te_x.lora_down.weight"]) is None
    assert lora_names.layout_of(["unet.a.processor.to_q_lora.up.weight"]) == "old-diffusers"
    assert lora_names.alpha_of("diffusion_model.layers.0.w1.alpha") == "layers.0.w1"
