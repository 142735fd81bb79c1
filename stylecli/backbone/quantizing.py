"""Frozen weights in 8 or 4 bits, by the quantisers that diffusers and transformers load with.

Each tensor is quantised as it is read, so that a model is never in memory as it lies on the disk.
int8 is torchao's: whole numbers and a scale for each row of a matrix, widened for a product, on any
device. nf4 is bitsandbytes': 4 bits and a scale for each 64, on an NVIDIA GPU alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.errors import UsageError
from stylecli.recipe.strict import Quantize

LIBRARY: Mapping[Quantize, str] = {"int8": "torchao", "nf4": "bitsandbytes"}
EXTRA = 'pip install "stylecli[quant]"'
LEAVE_OUT = "--set backbone.quantize=none"
# Weights that share a scale: of nf4 so many; of int8 those of a row.
NF4_GROUP = 64

# What stands around the blocks, or scales what passes them, by the name that a path contains:
# little of the weights, and most of the harm.
WHOLE: Mapping[str, tuple[str, ...]] = {
    "UNet2DConditionModel": ("time_embedding", "add_embedding", "time_emb_proj"),
    "ZImageTransformer2DModel": (
        "all_x_embedder",
        "cap_embedder",
        "t_embedder",
        "adaLN_modulation",
        "all_final_layer",
    ),
    "Flux2Transformer2DModel": (
        "x_embedder",
        "context_embedder",
        "time_guidance_embed",
        "double_stream_modulation_img",
        "double_stream_modulation_txt",
        "single_stream_modulation",
        "norm_out",
        "proj_out",
    ),
    # Its last layer is quantised, because each single block has one of that name.
    "FluxTransformer2DModel": ("x_embedder", "context_embedder", "time_text_embed", "norm_out"),
}


def refuse_unfit(quantize: Quantize, device: torch.device) -> None:
    """See that this machine can, before anything is loaded.

    Raises:
        UsageError: A library is missing, or the device has no such kernels.
    """
    if quantize == "none":
        return
    if quantize == "nf4" and device.type != "cuda":
        raise UsageError(
            f"backbone.quantize nf4 needs an NVIDIA GPU, and this runs on {device.type}",
            fix="--device cuda, or --set backbone.quantize=int8",
        )
    library = LIBRARY[quantize]
    if importlib.util.find_spec(library) is None:
        raise UsageError(
            f"backbone.quantize {quantize} needs {library}, which is not installed",
            fix=f"{EXTRA}, or {LEAVE_OUT}",
        )


def told(cls: Any, quantize: Quantize, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told, so that a model is quantised as it is read.

    Args:
        cls: The model's, of diffusers or transformers.
        quantize: How; nothing is told of none.
        device: Where its weights are to be.
        dtype: That it computes in.

    Raises:
        UsageError: As `refuse_unfit`.
    """
    refuse_unfit(quantize, device)
    if quantize == "none":
        return {}
    whole = list(WHOLE.get(cls.__name__, ()))
    library = importlib.import_module(cls.__module__.partition(".")[0])
    if quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        how = library.TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=whole or None)
    else:
        how = library.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=whole or None,
        )
    found: dict[str, Any] = {"quantization_config": how}
    # To diffusers a map that names the CPU says that weights wait there, and are left as they are.
    if device.type != "cpu":
        found["device_map"] = {"": device}
    return found


def settled(model: Any, quantize: Quantize) -> Any:
    """A model as it was loaded, frozen and in eval mode, that learns LoRAs in little memory."""
    model.requires_grad_(False).eval()
    if quantize == "int8":
        for path, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and _is_int8(module.weight):
                owner, _, name = path.rpartition(".")
                setattr(model.get_submodule(owner), name, Int8Linear(module))
    return model


def _is_int8(weight: Tensor) -> bool:
    from torchao.quantization import Int8Tensor

    return isinstance(weight, Int8Tensor)


class Int8Linear(nn.Linear):
    """A frozen linear layer in 8 bits, of which the way back keeps no wide copy.

    The library's own product keeps the widened weights for gradients, those of all layers at once,
    and training would take as much as without quantising.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, x: Float[Tensor, "*b width_in"]) -> Float[Tensor, "*b width_out"]:
        """In the type of autocast, where that is on, else in that of the input."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias: nn.Parameter | None = self.bias
        bias = None if bias is None else bias.to(x.dtype)  # type: ignore[assignment]
        if not torch.is_grad_enabled():
            return F.linear(x, self.weight, bias)
        found = cast(Tensor, _Product.apply(x, self.weight))  # type: ignore[no-untyped-call]
        return found if bias is None else found + bias


class _Product(torch.autograd.Function):
    """``x W^T`` that remembers W as it is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        wide = ctx.weight.dequantize(slopes[0].dtype)
        return slopes[0] @ wide, None


def is_quantized(path: str, whole: Collection[str]) -> bool:
    """Whether a linear layer of this path is, as the quantisers decide it.

    >>> [is_quantized(path, ["t_embedder"]) for path in ("layers.0.to_q", "t_embedder.0")]
    [True, False]
    """
    return not any(f"{name}." in f"{path}." for name in whole)


def weight_bytes(model: nn.Module, quantize: Quantize) -> dict[str, int]:
    """Bytes of every frozen parameter by its name, as they would be; LoRAs are not among them."""
    whole = WHOLE.get(type(model).__name__, ())
    linears = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if quantize != "none" and isinstance(module, nn.Linear) and is_quantized(path, whole)
    }
    return {
        name: _bits(p, quantize) if name in linears else p.nbytes
        for name, p in model.named_parameters()
        if ".lora_" not in name
    }


def _bits(weight: Tensor, quantize: Quantize) -> int:
    if quantize == "int8":
        # And of each row a float32 scale and a zero of one byte.
        return weight.numel() + 5 * weight.shape[0]
    return weight.numel() // 2 + 4 * -(-weight.numel() // NF4_GROUP)
