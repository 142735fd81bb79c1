"""Which method a transfer uses: what it cannot do, what decides its results, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stylecli.engine import plan
from stylecli.errors import UsageError
from stylecli.recipe.schema import Recipe, Sampling

# Learns a LoRA; the others take a style straight from its picture.
LEARNS = "diffstyler"
# Of the recipe, what a row of a manifest may change for its content alone.
ROW_SECTIONS: Mapping[str, Sequence[str]] = {
    LEARNS: ("sampling", "injection", "inversion"),
    "styleid": ("sampling", "styleid", "inversion"),
    "attn-distill": ("sampling", "distill"),
}
# Where the settings of a method are that learns nothing.
SECTIONS: Mapping[str, str] = {"styleid": "styleid", "attn-distill": "distill"}
# What decides a picture: its own section, and those of others that it uses.
_DECISIVE: Mapping[str, Mapping[str, Any]] = {
    "styleid": {
        "styleid": True,
        "inversion": True,
        "sampling": {"method", "size", "steps", "timesteps"},
    },
    "attn-distill": {
        "distill": {"layers", "iterations", "lr", "content_weight", "scale"},
        "sampling": {"method", "size"},
    },
}


def learns(sampling: Sampling) -> bool:
    """Whether styles become LoRAs."""
    return sampling.method == LEARNS


def refuse_unfit(command: str, recipe: Recipe, roles: set[plan.Role]) -> None:
    """See that a method that looks at pictures is asked for nothing that takes LoRAs or words.

    Raises:
        UsageError: It is.
    """
    if learns(recipe.sampling):
        return
    sampling, name = recipe.sampling, recipe.sampling.method
    if command != "transfer":
        raise UsageError(
            f"sampling.method {name} is for `style transfer`, and {command} paints with LoRAs",
            fix=f"--set sampling.method={LEARNS}",
        )
    asked = {
        "a LoRA is none": ("lora" in roles, "use --style"),
        "there are no regions": (bool(sampling.regions), "--set sampling.regions=[]"),
        "there is no schedule": (sampling.schedule is not None, "--set sampling.schedule=null"),
        "no words are read": (sampling.prompt_from_style, "leave out --prompt-from-style"),
        "an accelerator is a LoRA": (
            sampling.accelerator is not None,
            "--set sampling.accelerator=null",
        ),
        "no negative prompt is seen under a LoRA": (
            sampling.negative_lora is not None,
            "--set sampling.negative_lora=null",
        ),
    }
    for why, (is_asked, fix) in asked.items():
        if is_asked:
            raise UsageError(
                f"--method {name} works with style pictures alone: {why}",
                fix=f"{fix}, or --method {LEARNS}",
            )


def decisive(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide a picture's bytes, of a method that learns nothing."""
    return recipe.model_dump(include=dict(_DECISIVE[recipe.sampling.method]))


def rows(recipes: Sequence[Recipe]) -> dict[str, int]:
    """UNet rows per item before anything is cached, of a method that learns nothing.

    Args:
        recipes: Of every picture that is made for one item.
    """
    first = recipes[0]
    if first.sampling.method == "attn-distill":
        steps = sum(recipe.distill.iterations for recipe in recipes)
        # A pass backwards to the latents costs about as much as one forwards.
        return {"content": steps, "style": steps, "distilled": steps, "gradients": steps}
    steps = sum(recipe.sampling.steps for recipe in recipes)
    inversion = first.inversion.steps * (1 + first.inversion.refine_iters)
    return {"inversion": 2 * inversion, "content": steps, "style": steps, "stylised": steps}
