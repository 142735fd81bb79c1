"""The table of costs of docs/methods/i2l.md, from configurations alone: no weights are needed.

    python docs/images/make_i2l_costs.py

Of a UNet, torch counts the operations of a pass at its native size. Of a transformer it is what the
layers of the LoRA do to the tokens of one picture; words and attention come on top, so its passes,
and with them its ratios, are at least what is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import starmap
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.denoisers.layer_sets import layers_of
from stylecli.backbone.registry import ASSETS, find
from stylecli.engine.i2l import encoders
from stylecli.methods.i2l import costs
from stylecli.methods.i2l.encoders.siglip import TOWERS
from stylecli.methods.i2l.presets import resolve
from stylecli.recipe.i2l import I2L, Encoder

ROWS = (
    ("pocket", "nano"),
    ("pocket", "micro"),
    ("sd15", "sd"),
    ("sd21-base", "sd"),
    ("z-image", "paper"),
    ("z-image", "paper-trainable"),
    ("flux2-klein", "paper"),
    ("flux2-klein", "paper-trainable"),
    ("hidream-o1", "paper"),
    ("hidream-o1", "paper-trainable"),
)
HEAD = (
    "backbone, preset",
    "one pass",
    f"predict, {costs.REFERENCES} references",
    f"{costs.LORA_STEPS} steps",
    "ratio",
)
# Of 1024 pixels a side, and of HiDream's 2048.
IMAGE_TOKENS = 64 * 64
# Of the text encoders that belong to the UNets.
WORDS = {"pocket": 32, "sd15": 77, "sd21-base": 77}
PREFIXES = " kMGTPE"


def table() -> str:
    """In Markdown, without a line break at its end."""
    rows = [HEAD, ("---",) * len(HEAD), *starmap(_cells, ROWS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(backbone: str, preset: str) -> tuple[str, ...]:
    settings = I2L.model_validate({"predictor": {"preset": preset}})
    meant, kind = resolve(settings, backbone), find(backbone).kind
    config = _config(backbone)
    layers = layers_of(kind, config, meant.layer_set)
    encoding, tokens, width = _encoder(meant.encoder)
    predict = encoding + costs.predicting(meant.shape(width), layers, costs.REFERENCES * tokens)
    least = ""
    if kind == "unet":
        one_pass = _of_unet(config, WORDS[backbone])
    else:
        one_pass, least = costs.passing(layers, IMAGE_TOKENS), "≥ "
    trained = costs.training_a_lora(one_pass)
    return (
        f"{backbone}, `{preset}`",
        f"{least}{flops(one_pass)}",
        flops(predict),
        f"{least}{flops(trained)}",
        f"{least}{float(f'{trained / predict:.2g}'):,.0f}",
    )


def flops(number: float) -> str:
    """To two digits, with the prefix that makes it short."""
    digits, _, power = f"{number:.1e}".partition("e")
    thousands, tens = divmod(int(power), 3)
    return f"{float(digits) * 10**tens:.{int(tens == 0)}f} {PREFIXES[thousands]}FLOP"


def _encoder(name: str) -> tuple[float, int, int]:
    """What it costs on the references, how many tokens it makes of one, and their width."""
    if name in TOWERS:
        tower = TOWERS[name]
        return costs.encoding(tower, costs.REFERENCES), tower.tokens, tower.width
    encoder = encoders.opened(
        Encoder(), default=name, device=torch.device("cpu"), dtype=torch.float32
    )
    said = encoder.description
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(costs.REFERENCES, 3, said.px, said.px))
    return float(counter.get_total_flops()), said.tokens, said.width


def _config(backbone: str) -> Mapping[str, Any]:
    if backbone in CONFIGS:
        return CONFIGS[backbone]
    read: Mapping[str, Any] = json.loads((ASSETS / backbone / "unet" / "config.json").read_bytes())
    return read


def _of_unet(config: Mapping[str, Any], words: int) -> float:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
        side, channels = config["sample_size"], unet.config.in_channels
        noised = torch.zeros(1, channels, side, side)
        text = torch.zeros(1, words, config["cross_attention_dim"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(noised, torch.zeros(1), encoder_hidden_states=text)
    return float(counter.get_total_flops())


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
