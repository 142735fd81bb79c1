"""`python -m stylecli.pocket PART --hours H --profile cpu|gpu --data DIR --work DIR`.

Run the same command again to resume. Parts train a candidate in the work folder, which begins as a
copy of what ships; `judge` measures it and draws sheets, `ship` measures it and replaces the
shipped files if no figure is worse. Two parts are trained on the model that ships, and are none of
`all`: `i2l` is the predictor of LoRAs, which learns for as many steps as the recipe says and takes
no notice of `--hours`; `edit` is what makes an editor of the model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from stylecli.artifacts import glyphs
from stylecli.errors import StyleError
from stylecli.pocket import data, edit, i2l, judge, parts, sheets, trial

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "pocket"
# Share of `--hours` each part gets under `all`.
PARTS = {"vae": 0.25, "clip": 0.08, "lpips": 0.1, "unet": 0.57}


def _judge(job: parts.Job, *, ship: bool) -> None:
    world = data.load(job.data, job.work)
    models = judge.load(job.candidate)
    found = judge.figures(models, world)
    trials = trial.run(models.backbone, models.lpips, world)
    found["transfer_wins"] = round(trial.share_won(trials), 4)
    if (predictor := i2l.predictor_in(job.work)) is not None:
        dataset = i2l.icons(job.data, job.work / "i2l-judged", i2l.JUDGED)
        measured = i2l.figures(models.backbone, models.lpips, predictor, dataset)
        found |= {name: round(value, 4) for name, value in measured.items()}
    if (folder := edit.editor_in(job.work)) is not None:
        measured = edit.figures(models.lpips, folder, world)
        found |= {name: round(value, 4) for name, value in measured.items()}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sheets.draw(models, world, trials, job.work / "sheets")
    if ship:
        judge.ship(job.candidate, found, SHIPPED)
        i2l.ship(job.work)
        edit.ship(job.work)
        record = json.dumps(glyphs.split_record(), indent=1)
        (SHIPPED / "split.json").write_text(record + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stylecli.pocket", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all", "i2l", "edit", "judge", "ship"])
    parser.add_argument("--hours", type=float, default=1.0, help="of training, over all restarts")
    parser.add_argument("--steps", type=int, help="instead of hours")
    parser.add_argument("--profile", choices=parts.PROFILES, default="cpu")
    parser.add_argument("--data", type=Path, default=Path("pocket-data"))
    parser.add_argument("--work", type=Path, default=Path("pocket-work"))
    parser.add_argument("--fresh", action="store_true", help="from new weights, not the shipped")
    return parser.parse_args()


def main() -> int:
    """Returns the exit status."""
    asked = _arguments()
    torch.set_flush_denormal(True)
    trainers = {
        "vae": parts.train_vae,
        "clip": parts.train_clip,
        "lpips": parts.train_lpips,
        "unet": parts.train_unet,
        "i2l": i2l.train,
        "edit": edit.train,
    }
    names = list(PARTS) if asked.part == "all" else [asked.part]
    if not (asked.work / "candidate").exists():
        shutil.copytree(SHIPPED, asked.work / "candidate", dirs_exist_ok=True)
    try:
        for name in names:
            share = PARTS[name] if asked.part == "all" else 1.0
            job = parts.Job(
                parts.PROFILES[asked.profile],
                asked.hours * share,
                asked.steps,
                asked.data,
                asked.work,
                asked.fresh,
            )
            if name in trainers:
                trainers[name](job)
            else:
                _judge(job, ship=name == "ship")
    except StyleError as failure:
        sys.stderr.write(f"error  {failure.what}\nfix    {failure.fix}\n")
        return failure.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
