"""Pocket's predictor of LoRAs: what it learns from, its training, and whether it looks.

It belongs to the base model to the bit, so it is trained on the one that ships, after that did.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images
from stylecli.backbone import row_loras
from stylecli.backbone.denoisers.base import Branch
from stylecli.backbone.denoisers.stable_diffusion import StableDiffusion
from stylecli.backbone.model import Backbone
from stylecli.backbone.registry import ASSETS
from stylecli.backbone.row_loras import Factors, Pairs
from stylecli.engine.context import RunContext
from stylecli.engine.i2l.data import items
from stylecli.engine.i2l.data.building import Build
from stylecli.engine.i2l.data.icons import Icons, Wanted
from stylecli.engine.i2l.data.prepare import PER_STYLE
from stylecli.engine.i2l.data.styles import Counts
from stylecli.engine.i2l.data.tuples import Pick, Tuples
from stylecli.engine.i2l.forward import Forward
from stylecli.engine.i2l.training.prepare import i2l_train
from stylecli.engine.request import Destination
from stylecli.evaluation.perceptual import PocketLpips
from stylecli.pocket.reporting import Plain
from stylecli.recipe import load
from stylecli.recipe.i2l import Data, Encoder, References

if TYPE_CHECKING:
    from stylecli.pocket.parts import Job

NAME = "predictors/pocket.safetensors"
RECIPE = "pocket-cpu"
PX, STEPS, REFERENCES = 64, 25, 4
# Of the styles that training never saw; none of training's, of which a set has at least one.
JUDGED = Counts(train=1, easy=32, medium=16, hard=16)
KINDS = ("easy", "medium", "hard")
ROWS = 16


def icons(data: Path, folder: Path, counts: Counts) -> Path:
    """The set of icons in that many styles, made if it is not there.

    Raises:
        InputError: npm's packages are not in `data`.
    """
    wanted = Wanted(
        icons=data / "node_modules" / "@iconify-json",
        counts=counts,
        per_style=PER_STYLE,
        px=PX,
        seed=0,
    )
    Build(source=Icons(wanted), folder=folder, workers=2, reporter=Plain(), overwrite=True).run()
    return folder


def train(job: Job) -> None:
    """Learn with the `i2l` section of the recipe; the same command again goes on.

    Raises:
        StyleError: It failed.
    """
    flags: dict[str, object] = {"backbone.id": "pocket", "device.name": job.profile.device}
    if job.steps is not None:
        flags["i2l.train.steps"] = job.steps
    recipe = load.load(RECIPE, environ={}, flags=flags).recipe
    dataset = icons(job.data, job.work / "i2l-data", Counts())
    prepared = i2l_train(
        recipe,
        dataset,
        Destination(output=str(job.work / NAME), overwrite=job.is_fresh),
        Plain(),
    )
    for result in prepared.run():
        if result.error is not None:
            raise result.error


def figures(
    backbone: Backbone, lpips: PocketLpips, predictor: Path, dataset: Path
) -> dict[str, float]:
    """Distance to the same thing as the style itself draws it, over that with a LoRA of another.

    Below one, references count; at one, any others would have done. Of what training never saw:
    `easy` new styles of known kinds, `medium` treatments, `hard` families.
    """
    found: dict[str, float] = {}
    for kind in KINDS:
        distances = _distances(backbone, lpips, predictor, dataset, kind)
        means = {way: float(each.mean()) for way, each in distances.items()}
        found[f"i2l_{kind}_match_over_mis"] = means["match"] / means["mis"]
        found[f"i2l_{kind}_match_over_base"] = means["match"] / means["base"]
        is_nearer = distances["match"] < distances["mis"]
        found[f"i2l_{kind}_nearer_than_mis"] = float(is_nearer.float().mean())
    return found


def predictor_in(work: Path) -> Path | None:
    """The one trained in a work folder, else the one that ships; None where there is neither."""
    places = (work / NAME, ASSETS / NAME)
    return next((file for file in places if file.is_file()), None)


def ship(work: Path) -> None:
    """Put the trained predictor in the place of the shipped one."""
    if (work / NAME).is_file():
        (ASSETS / NAME).parent.mkdir(exist_ok=True)
        shutil.copyfile(work / NAME, ASSETS / NAME)
        (ASSETS / NAME).chmod(0o644)


@torch.no_grad()
def _distances(
    backbone: Backbone, lpips: PocketLpips, predictor: Path, dataset: Path, kind: str
) -> Mapping[str, Float[Tensor, " picks"]]:
    context = RunContext(backbone.device, backbone.dtype, Plain())
    forward = Forward.load(predictor, Encoder(), context)
    split = items.read(dataset).split(kind)
    asked = Data(n_refs=References(max=REFERENCES))
    picks = Tuples(split, asked, seed=0).fixed(2 * len(split.styles), REFERENCES)
    own = [_lora(forward, pick) for pick in picks]
    # Neighbours are of different styles.
    others = [*own[1:], own[0]]
    truth = torch.stack([_picture(pick.targets[0]) for pick in picks])
    found = {}
    for way, loras in (("match", own), ("mis", others), ("base", None)):
        drawn = _drawn(backbone, picks, loras)
        found[way] = torch.cat(
            [
                lpips.distance(some, true)
                for some, true in zip(drawn.split(ROWS), truth.split(ROWS), strict=True)
            ]
        )
    return found


def _lora(forward: Forward, pick: Pick) -> Pairs:
    return forward.pairs([forward.prepared(items.picture(item).pixels) for item in pick.references])


def _drawn(
    backbone: Backbone, picks: Sequence[Pick], loras: Sequence[Pairs] | None
) -> Float[Tensor, "picks 3 h w"]:
    """What the captions give with a LoRA each, from noise that is the same for all ways."""
    denoiser = StableDiffusion(backbone)
    drawn = []
    for at in range(0, len(picks), ROWS):
        some = picks[at : at + ROWS]
        factors = None if loras is None else Factors.stacked(loras[at : at + ROWS])

        def applied(_: Branch, factors: Factors | None = factors) -> AbstractContextManager[None]:
            if factors is None:
                return nullcontext()
            return row_loras.applied(denoiser.model, factors, range(len(factors.packed)))

        pictures = denoiser.sample(
            denoiser.encode_prompt([pick.targets[0].caption for pick in some]),
            denoiser.encode_prompt([denoiser.negative_prompt] * len(some)),
            seeds=range(at, at + len(some)),
            steps=STEPS,
            guidance=1.0,
            applied=applied,
        )
        drawn.append(pictures)
    return torch.cat(drawn)


def _picture(item: items.Item) -> Float[Tensor, "3 h w"]:
    return images.to_float(items.picture(item).pixels)
