"""The table of costs of docs/methods/regionroute.md, from sizes and recipes: no weights are needed.

    python docs/images/make_route_costs.py

The memory is `costs.memory`'s, which knows nothing of a library's work space; the operations are
those of a step of the optimiser, with attention recorded in every layer.
"""

from __future__ import annotations

import sys

from stylecli.backbone.configs import CONFIGS
from stylecli.methods.regionroute import costs
from stylecli.recipe.load import load

RECIPES = ("flux1-kontext-24gb", "flux1-kontext-80gb", "flux1-kontext-120gb")
HEAD = ("recipe", "side", "tokens", "weights", "a step", "the probe's share", "memory")
# Pixels of a token's side; the model's own length of an instruction, and its own size.
TOKEN_PX, TEXT, NATIVE_PX = 16, 512, 1024
CONFIG = CONFIGS["flux1-kontext"]
LAYERS = CONFIG["num_layers"] + CONFIG["num_single_layers"]
PETA, GIB = 1e15, 2**30


def table() -> str:
    """In Markdown, without a line break at its end."""
    rows = [HEAD, ("---",) * len(HEAD), *map(_cells, RECIPES)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(name: str) -> tuple[str, ...]:
    recipe = load(name).recipe
    route, quantize = recipe.route, recipe.backbone.quantize
    train, side = route.train, route.data.resolution or NATIVE_PX
    text = TEXT if route.text_length is None else route.text_length
    step = costs.Step(train.micro_batch, (side // TOKEN_PX) ** 2, text)
    again = train.checkpointing
    once = costs.training(CONFIG, step, checkpointing=again)
    probe = costs.probing(CONFIG, step, layers=LAYERS, checkpointing=again)
    memory = costs.memory(
        CONFIG, step, checkpointing=again, quantize=quantize, rank=route.lora.rank
    )
    return (
        f"`{name}`",
        f"{side} px",
        str(step.tokens),
        "bfloat16" if quantize == "none" else quantize,
        f"{train.accumulation * (once + probe) / PETA:.2g} PFLOP",
        f"{100 * probe / once:.0f} %",
        f"{memory.total / GIB:.0f} GiB",
    )


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
