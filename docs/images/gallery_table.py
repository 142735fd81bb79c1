"""From rows and pictures of the work folder to `gallery.json`, `gallery.md` and the sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gallery_pictures import COLOURS, ONLY, OTHERS, SECOND, WAYS
from PIL import Image, ImageColor
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts.sheets import grid
from stylecli.backbone.registry import ASSETS
from stylecli.evaluation import metrics
from stylecli.evaluation.frechet import art_fid, frechet_distance_features
from stylecli.evaluation.matching import block_descriptors, style_match
from stylecli.evaluation.perceptual import NATIVE_PX, load_pocket_lpips
from stylecli.evaluation.statistics import Interval, jackknife_interval, mean_interval

Rows = Sequence[Mapping[str, Any]]
ANCHORS = ("content copy", "reference copy", "palette", "true drawing")
# Of pocket-lpips: blocks at a half and a quarter of the picture; fewer blocks than VGG's 16 x 16,
# because the pictures are small.
LAYERS, BLOCKS = (1, 2), 8
SEED = 0
# Of fewer pictures no set is a set.
FEWEST = 4
SHOWN = (
    *("content", "ref1", "answer", "gallery", "true masks", "without masks"),
    *("styleid", "attn-distill", "diffstyler"),
)
PICTURE_FIGURES = {
    "style": "Style up",
    "gram": "Gram down",
    "content": "LPIPS down",
    "answer": "to answer down",
    "things": "its things down",
}


def write(work: Path, folder: Path, px: int, autoencode: Callable[[Tensor], Tensor]) -> None:
    """Everything, from whatever is in the work folder."""
    lines = (work / "regions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    wanted = [f"{way}.png" for way in (*WAYS, *OTHERS)]
    done = [
        _Painted(work / row["id"], autoencode)
        for row in rows
        if all((work / row["id"] / name).exists() for name in wanted)
    ]
    found: dict[str, Any] = {"px": px, "scenes": len(rows), "regions": _regions(rows)}
    found["second reference"] = _second(rows, work, autoencode)
    found["questions painted"] = len(done)
    if len(done) >= FEWEST:
        found["pictures"], ratios = _pictures(done)
        found["leakage"] = _leakage(done)
        _sheet([done[i] for i in _ends(ratios)]).save(
            folder / "gallery-proof.jpg", quality=88, optimize=True
        )
    (folder / "gallery.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "gallery.md").write_text(_text(found))


class _Painted:
    """The pictures of one question, and how far they are from one another."""

    lpips = load_pocket_lpips(ASSETS / "pocket" / "lpips")

    def __init__(self, folder: Path, autoencode: Callable[[Tensor], Tensor]) -> None:
        self.folder, self._autoencode = folder, autoencode

    @cached_property
    def made(self) -> dict[str, Tensor]:
        """Way -> picture, with anchors."""
        found = {way: self.read(way) for way in (*WAYS, *OTHERS)}
        palette = metrics.palette_transfer(self.content[None], self.reference[None])[0]
        anchors = (self.content, self.reference, palette.clamp(0, 1), self.answer)
        return {**dict(zip(ANCHORS, anchors, strict=True)), **found}

    @cached_property
    def content(self) -> Tensor:
        return self.read("content")

    @cached_property
    def reference(self) -> Tensor:
        return self.read("ref1")

    @cached_property
    def answer(self) -> Tensor:
        return self.read("answer")

    def read(self, name: str) -> Tensor:
        with Image.open(self.folder / f"{name}.png") as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1) / 255

    def things(self, name: str) -> list[Tensor]:
        """Masks by a painted picture, in the order of the things."""
        pixels = (self.read(name) * 255).round().long()
        masks = [
            (pixels == torch.tensor(ImageColor.getrgb(colour))[:, None, None]).all(dim=0).float()
            for colour in COLOURS
        ]
        # The ground is black and in none; a thing may be hidden, but not the last.
        last = max(index for index, mask in enumerate(masks) if mask.any())
        return masks[: last + 1]

    def common(self, number: int | None = None) -> Tensor:
        """Where content and answer both show things, or one of them."""
        pairs = zip(self.things("mask"), self.things("answer-mask"), strict=False)
        shared = [ours * theirs for ours, theirs in pairs]
        return shared[number] if number is not None else torch.stack(shared).amax(dim=0)

    def figures(self, way: str) -> dict[str, float]:
        picture = self.made[way]
        return {
            "style": self._style(picture),
            "gram": float(
                metrics.gram_rel(self._features(picture), self._features(self.reference))
            ),
            "content": self.distance(picture, self.content),
            "answer": self.distance(picture, self.answer),
            "things": self.inside(picture, self.common()),
        }

    def distance(self, one: Tensor, other: Tensor) -> float:
        """At the size that pocket-lpips knows, as `style evaluate` has it."""
        pair = torch.stack([one, other])
        if one.shape[-1] > NATIVE_PX:
            pair = F.interpolate(pair, (NATIVE_PX, NATIVE_PX), mode="bilinear", antialias=True)
        with torch.inference_mode():
            return float(self.lpips.distance(pair[:1], pair[1:])[0])

    def inside(self, picture: Tensor, mask: Tensor) -> float:
        """To the answer, as if everything outside the mask were right; per share of the mask."""
        pasted = torch.lerp(self.answer, picture, mask)
        return self.distance(pasted, self.answer) / max(float(mask.mean()), 1e-6)

    def outside(self, way: str) -> float:
        """What changed outside the last thing, per share of what lies outside."""
        picture = self._autoencode(self.content) if way == "autoencoder" else self.made[way]
        mask = self.things("mask")[-1]
        pasted = torch.lerp(picture, self.content, mask)
        return self.distance(pasted, self.content) / float((1 - mask).mean())

    def embedding(self, picture: Tensor) -> Tensor:
        small = F.interpolate(picture[None], (64, 64), mode="bicubic", antialias=True)
        with torch.inference_mode():
            return self.lpips.embedding(small.clamp(0, 1))

    def _features(self, picture: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return self.lpips.features(picture[None])

    def _style(self, picture: Tensor) -> float:
        ours, theirs = (
            [block_descriptors(self._features(one)[layer], BLOCKS) for layer in LAYERS]
            for one in (picture, self.reference)
        )
        return style_match(ours, theirs).hungarian


def _regions(rows: Rows) -> dict[str, Any]:
    found = {}
    for way in ("objects", "clusters", "true masks"):
        ids, parts = [row["id"] for row in rows], [row[way] for row in rows]

        def over(pick: Callable[[Any], Sequence[float]], ids=ids, parts=parts) -> dict[str, float]:
            values = [
                (key, value) for key, part in zip(ids, parts, strict=True) for value in pick(part)
            ]
            return _interval([v for _, v in values], [k for k, _ in values])

        found[way] = {
            "regions": over(lambda part: [part["regions"]]),
            "IoU of the best region": over(lambda p: [one["best"] for one in p["overlaps"]]),
            "IoU of all its regions": over(lambda p: [one["union"] for one in p["overlaps"]]),
        }
        for who in ("gallery", "palette", "random"):
            known = "gallery" if who == "random" else who
            for verdict in ("right", "strict"):
                key = "random" if who == "random" else verdict
                if who == "random" and verdict == "strict":
                    continue
                found[way][f"{who}: {verdict}"] = over(
                    lambda p, known=known, key=key: [one[key] for one in p["known"][known]]
                )
            found[way][f"{who}: ground"] = over(lambda p, who=who: [p["ground"][who]])
    return found


def _second(rows: Rows, work: Path, autoencode: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What a second reference with the missing thing adds."""
    missing = [row for row in rows if row["kind"] == "one missing"]
    found: dict[str, Any] = {"scenes": len(missing)}
    for way in ("objects", "true masks"):
        for verdict in ("right", "strict"):
            sets = {
                count: [
                    (row["id"], one[verdict]) for row in missing for one in row[way]["all"][count]
                ]
                for count in ("1", "2")
            }
            ids = [key for key, _ in sets["1"]]
            before, after = ([value for _, value in sets[count]] for count in ("1", "2"))
            found[f"{way}: {verdict}"] = {
                "one": _interval(before, ids),
                "two": _interval(after, ids),
                "gain": _interval([b - a for a, b in zip(before, after, strict=True)], ids),
            }
    for way, first in SECOND.items():
        pairs = []
        for row in missing:
            one = _Painted(work / row["id"], autoencode)
            if not all((one.folder / f"{name}.png").exists() for name in (way, first)):
                continue
            thing = one.common(0)
            if thing.any():
                shown = (one.read(first), one.read(way))
                pairs.append(
                    [[one.inside(p, mask) for p in shown] for mask in (thing, one.common())]
                )
        if len(pairs) < FEWEST:
            continue
        ids = [str(index) for index in range(len(pairs))]
        for index, name in enumerate(("the missing thing", "all things")):
            before, after = ([pair[index][i] for pair in pairs] for i in (0, 1))
            found[f"{first}, {len(pairs)} painted: distance in {name}"] = {
                "one": _interval(before, ids),
                "two": _interval(after, ids),
                "gain": _interval([b - a for a, b in zip(before, after, strict=True)], ids),
            }
    return found


def _pictures(done: Sequence[_Painted]) -> tuple[dict[str, Any], list[float]]:
    ids = [one.folder.name for one in done]
    rows = [{way: one.figures(way) for way in one.made} for one in done]
    references = torch.cat([one.embedding(one.reference) for one in done])
    found: dict[str, Any] = {}
    for way in rows[0]:
        own: dict[str, Any] = {}
        for name in PICTURE_FIGURES:
            values = [row[way][name] for row in rows]
            own[name] = _interval(values, ids)
            base = [row["gallery"][name] for row in rows]
            own[f"{name} less gallery's"] = _interval(
                [value - other for value, other in zip(values, base, strict=True)], ids
            )
        contents = [row[way]["content"] for row in rows]
        own |= _of_sets(
            torch.cat([one.embedding(one.made[way]) for one in done]), references, contents
        )
        found[way] = own
    ratios = [row["gallery"]["things"] / max(row["content copy"]["things"], 1e-6) for row in rows]
    return found, ratios


def _of_sets(outputs: Tensor, references: Tensor, contents: Sequence[float]) -> dict[str, Any]:
    """FID and ArtFID, with limits from leaving out one question after another."""

    def both(kept: Sequence[int]) -> tuple[float, float]:
        at = torch.tensor(kept)
        fid = frechet_distance_features(outputs[at], references[at])
        return fid, art_fid(float(np.mean([contents[i] for i in kept])), fid)

    every = range(len(contents))
    whole = both(every)
    without = [both([i for i in every if i != left]) for left in every]
    return {
        name: _limits(jackknife_interval(whole[i], [one[i] for one in without]))
        for i, name in enumerate(("fid", "artfid"))
    }


def _leakage(done: Sequence[_Painted]) -> dict[str, Any]:
    ids = [one.folder.name for one in done]
    ways = ("autoencoder", ONLY, "true masks", "gallery", *OTHERS)
    return {way: _interval([one.outside(way) for one in done], ids) for way in ways}


def _interval(values: Sequence[float], ids: Sequence[str]) -> dict[str, float]:
    """Scenes are drawn anew: things of one scene are not independent."""
    return _limits(mean_interval(values, ids, ["all"] * len(ids), seed=SEED))


def _limits(one: Interval) -> dict[str, float]:
    return {
        "mean": round(one.value, 4),
        "low": round(one.low, 4),
        "high": round(one.high, 4),
    }


def _ends(ratios: Sequence[float]) -> list[int]:
    """Two of the best, of the middle and of the worst."""
    order = sorted(range(len(ratios)), key=ratios.__getitem__)
    middle = len(order) // 2
    return list(dict.fromkeys([*order[:2], *order[middle - 1 : middle + 1], *order[-2:]]))


def _sheet(shown: Sequence[_Painted]) -> Image.Image:
    cells = [[one.read(name) for name in SHOWN] for one in shown]
    labels = ["reference" if name == "ref1" else name for name in SHOWN]
    return Image.fromarray(grid(cells, column_labels=labels).numpy())


def _text(found: Mapping[str, Any]) -> str:
    """Tables for people; every number with the limits of its 95 % interval."""
    lines = [
        f"Pictures of {found['px']} px; means with 95 % intervals over scenes.",
        "",
        f"## Regions and matches, {found['scenes']} scenes",
        "",
        "| | objects | clusters | true masks |",
        "|---|---|---|---|",
    ]
    regions = found["regions"]
    lines += [
        f"| {name} | " + " | ".join(_cell(regions[way][name]) for way in regions) + " |"
        for name in regions["objects"]
    ]
    second = found["second reference"]
    lines += [
        "",
        f"## A second reference with the missing thing, {second['scenes']} scenes",
        "",
        "| | one reference | two | difference |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | " + " | ".join(_cell(row[part]) for part in ("one", "two", "gain")) + " |"
        for name, row in second.items()
        if isinstance(row, dict)
    ]
    if "pictures" in found:
        names = [*PICTURE_FIGURES.values(), "FID down", "ArtFID down"]
        lines += [
            "",
            f"## Pictures, {found['questions painted']} questions",
            "",
            "| | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for way, row in found["pictures"].items():
            cells = []
            for name in PICTURE_FIGURES:
                apart = row[f"{name} less gallery's"]
                differs = way != "gallery" and apart["low"] * apart["high"] > 0
                cells.append(_cell(row[name]) + "\\*" * differs)
            cells += [_cell(row["fid"]), _cell(row["artfid"])]
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
        lines += ["", "\\* The interval of the difference to `gallery` leaves out 0."]
        lines += ["", "## Change outside the last thing", "", "| | |", "|---|---|"]
        lines += [f"| {way} | {_cell(row)} |" for way, row in found["leakage"].items()]
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
