"""Files are made again, byte for byte, from what they say of themselves."""

from __future__ import annotations

import getpass
import json
import random
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.artifacts import store
from stylecli.engine.again import facts
from stylecli.engine.again.calls import COMMANDS, NOT_AGAIN
from stylecli.engine.again.origins import SUFFIXES, Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import Again, locator_for, rerun
from stylecli.engine.context import Reporter
from stylecli.engine.provenance import carrier
from stylecli.errors import InputError
from tests.cli.conftest import draw
from tests.masks import plugs
from tests.tiny import save_folder

pytestmark = pytest.mark.slow

PICTURES = (".png", ".png", ".jpg", ".webp")
RECIPE = """\
backbone: {{id: "{folder}"}}
sampling: {{size: 32, steps: 3}}
inversion: {{steps: 3}}
injection: {{feature_steps: 2, attn_steps: 2}}
lora: {{resolution: 32, steps: 1, rank: 4, prompt: a picture}}
dfcc: {{steps: 2, k: 2, merge_distance: 0, depth: none}}
matching: {{semantics: features}}
gallery: {{steps: 2}}
"""


class Desk:
    """Pictures, LoRAs, masks and a model in one folder, and ways to draw a command line on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = save_folder(folder / "model/tiny")
        self.recipe = folder / "tiny.yaml"
        self.recipe.write_text(RECIPE.format(folder=self.model))
        inputs = folder / "inputs"
        self.contents = [draw(inputs / f"photo{i}.png", seed=i) for i in range(2)]
        self.styles = [draw(inputs / f"look{i}.png", seed=9 + i, size=(70, 66)) for i in range(2)]
        self.styles[1].with_suffix(".txt").write_text("a red cat\n")
        self.masks = [inputs / "masks" / f"{name}.png" for name in ("photo0", "photo1", "half")]
        for number, mask in enumerate(self.masks):
            draw(mask, seed=20 + number)
        self.loras = [inputs / "oil.safetensors", inputs / "ink"]
        for style, lora, layout in zip(self.styles, self.loras, ("diffusers", "peft"), strict=True):
            self.run("train-lora", style, "-o", lora, "--format", layout, "--steps", 2)

    def run(self, *words: object) -> None:
        from stylecli.cli.app import main

        assert main([str(word) for word in (*words, "-r", self.recipe, "-q")]) == 0, words

    def pack_up(self) -> None:
        """Inputs lie elsewhere now, some under other names."""
        attic = self.folder / "attic"
        shutil.move(self.folder / "inputs", attic)
        for old, new in (("photo1.png", "renamed.jpg"), ("oil.safetensors", "other.safetensors")):
            (attic / old).rename(attic / new)


def drawn_command(seed: int, desk: Desk, out: Path) -> tuple[list[object], Path]:
    """A random command line, and what it writes."""
    chance = random.Random(seed)
    command = sorted(LINES)[seed % len(LINES)]
    words, output = LINES[command](chance, desk, out)
    sets: dict[str, object] = {"sampling.seed": chance.randrange(9)}
    if command not in ("masks", "train-lora"):
        steps = chance.choice([3, 4])
        sets |= {
            "sampling.guidance": chance.choice([1, 2.5, 4]),
            "sampling.weight": chance.choice([0.5, 1]),
            "sampling.steps": steps,
            "inversion.steps": steps,
            "injection.feature_steps": chance.randrange(4),
            "injection.attn_steps": chance.randrange(4),
            "injection.attn_tail": chance.choice(["adaptive", "hard", "full"]),
            "injection.source": chance.choice(["replay", "denoise"]),
        }
    changes = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return [command, *words, "-o", output, *changes], output


def _transfer(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    one = _look(chance, desk)
    look = ("-s" if one in desk.styles else "-l", one)
    more: Sequence[object] = chance.choice(
        [
            (),
            ("--prompt", "a blue dog, {trigger}"),
            ("--compare",),
            ("--set", "sampling.start=palette"),
            ("--sweep", "features=0,2 injection.attn_tail=hard,full"),
            ("--ablate", "adaptive"),
        ]
    )
    output = out.with_suffix(chance.choice(PICTURES))
    return [chance.choice(desk.contents), *look, *more], output


def _look(chance: random.Random, desk: Desk) -> Path:
    """Mostly LoRAs: one has to be learnt from each picture, twice."""
    return chance.choice([*desk.styles, *desk.loras * 3])


def _schedule(chance: random.Random, desk: Desk) -> str:
    first, second = (_look(chance, desk) for _ in range(2))
    return chance.choice(
        [f"{first}:0%-40%,{second}:40%-", f"{first}:50%-,base:0-50%", f"{first}*0.7+{second}*0.2"]
    )


def _region(chance: random.Random, desk: Desk, masks: Sequence[Path]) -> list[object]:
    prompt = chance.choice(["", "@a blue dog"])
    look = chance.choice([str(_look(chance, desk)), _schedule(chance, desk)])
    return ["--region", f"{chance.choice(masks)}={look}{prompt}"]


def _mask_transfer(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    masks = [*desk.masks[2:], desk.masks[0].with_name("{content}.png")]
    regions = [word for _ in range(chance.choice([1, 2])) for word in _region(chance, desk, masks)]
    more: Sequence[object] = chance.choice(
        [(), ("--feather", 2), ("--background", "denoise"), ("--no-composite",), ("--sheet",)]
    )
    output = out.with_suffix(chance.choice(PICTURES))
    return [chance.choice(desk.contents), *regions, *more], output


def _switch(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    output = out.with_suffix(chance.choice(PICTURES))
    return [chance.choice(desk.contents), "--schedule", _schedule(chance, desk)], output


def _generate(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    look: Sequence[object] = chance.choice(
        [
            (),
            ("-s", chance.choice(desk.styles)),
            *(("-l", one) for one in desk.loras),
            ("--schedule", _schedule(chance, desk)),
        ]
    )
    region = chance.choice([[], _region(chance, desk, desk.masks[2:])])
    words = ["--prompt", chance.choice(["a red cat", "", "dog 2"]) or "a", *look, *region]
    if chance.random() < 0.5:
        return [*words, "--size", "48x40"], out.with_suffix(chance.choice(PICTURES))
    return [*words, "--count", 2, "--size", "48x40", "--name", "{prompt}.png"], out


def _invert(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    more: Sequence[object] = chance.choice([(), ("--refine", 1), ("--verify",)])
    return [chance.choice(desk.contents), *more], out.with_suffix(".safetensors")


def _train_lora(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    layout = chance.choice(["diffusers", "kohya", "comfy", "peft"])
    styles = chance.sample(desk.styles, chance.choice([1, 2]))
    words = [*styles, "--steps", 2, "--format", layout, "--prompt", "a red picture"]
    return words, out if layout == "peft" else out.with_suffix(".safetensors")


def _masks(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    asked: Sequence[object] = chance.choice(
        [
            ("--backend", "fake", "-t", "deer", "-t", "sky"),
            ("--backend", "fake", "-t", "deer", "--all"),
            ("--backend", "fake", "--point", "12,9", "--box", "1,2,20.5,30"),
            ("--backend", "clusters", "--set", "masks.clusters=2"),
        ]
    )
    if chance.random() < 0.2:
        return [chance.choice(desk.contents), "--backend", "fake", "-t", "sky"], out.with_suffix(
            ".png"
        )
    return [chance.choice(desk.contents), *asked], out


def _gallery(chance: random.Random, desk: Desk, out: Path) -> tuple[list[object], Path]:
    refs = [word for style in desk.styles for word in ("--refs", style)]
    more: Sequence[object] = chance.choice(
        [
            (),
            ("--explain",),
            ("--dump", out.with_name(f"{out.name}.dump.safetensors")),
            ("--only", 1, "--strength", "1=0.5"),
            ("--match", "1=keep"),
        ]
    )
    return [chance.choice(desk.contents), *refs, *more], out.with_suffix(chance.choice(PICTURES))


# Those of i2L take a predictor or a data set: their own tests make theirs again.
LINES: dict[str, Any] = {
    "gallery": _gallery,
    "transfer": _transfer,
    "mask-transfer": _mask_transfer,
    "switch": _switch,
    "generate": _generate,
    "invert": _invert,
    "train-lora": _train_lora,
    "masks": _masks,
}


class Silent:
    """Nobody is told."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def task(self, label: str, total: int) -> Any:
        from stylecli.cli.console import console

        console.set_mode(quiet=True)
        return console.task(label, total)


def again(path: Path, desk: Desk, **options: Any) -> Again:
    reporter: Reporter = Silent()
    machine = options.pop("machine", Machine(backbone=str(desk.model)))
    places = options.pop("places", [desk.folder / "attic"])
    return rerun(path, Origins(), locator_for([path], places), machine, reporter, **options)


def made_by(output: Path) -> list[Path]:
    """All that a command wrote, each as it would be named to `rerun`."""
    if output.is_file():
        return [output, *output.parent.glob(f"{output.stem}.*.*")]
    if carrier(output).is_file():
        return [output]
    return [file for file in sorted(output.iterdir()) if file.suffix in SUFFIXES]


def reproduced(
    seeds: Sequence[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Make random files, forget all that is cached, move the inputs, and make them again."""
    plugs.install(monkeypatch, fake="tests.masks.plugs:FakeAtPlaces")
    # How well a LoRA learns is judged elsewhere.
    monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
    desk = Desk(folder / f"home of {getpass.getuser()}")
    lines = {}
    for seed in seeds:
        words, output = drawn_command(seed, desk, desk.folder / f"out/{seed}/x")
        desk.run(*words)
        lines[output] = words
    desk.pack_up()
    monkeypatch.setenv("STYLE_CACHE_DIR", str(folder / "another cache"))
    counts: dict[str, int] = {}
    for output, words in lines.items():
        for file in made_by(output):
            found = again(file, desk)
            assert not found.differences, (file.name, words, found.differences)
            said = json.dumps(store.read_provenance(carrier(file)))
            for secret in (str(folder), "home of", socket.gethostname()):
                assert secret not in said
            counts[str(words[0])] = counts.get(str(words[0]), 0) + 1
    return counts


def test_random_files_come_out_the_same_wherever_their_inputs_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each command but transfer and masks, which the tests of the command line make again.

    Among them are a check beside its output, and a look that has to be learnt.
    """
    found = reproduced((8, 10, 14, 29, 41, 43), tmp_path, monkeypatch)
    assert set(found) == set(LINES) - {"transfer", "masks"}
    assert (found["invert"], found["gallery"]) == (2, 3)


@pytest.mark.parametrize("tenth", range(10))
def test_a_hundred_random_files_come_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenth: int
) -> None:
    counts = reproduced(range(10 * tenth, 10 * tenth + 10), tmp_path, monkeypatch)
    assert set(counts) == set(LINES)
    assert sum(counts.values()) >= 10


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
    return Desk(tmp_path / "desk")


def test_a_row_of_a_manifest_with_settings_of_its_own_is_made_again(desk: Desk) -> None:
    """It has the key of a run with these settings for all; only so is it told from the others."""
    lists: dict[str, dict[str, Any]] = {
        "transfer": {"content": str(desk.contents[0])},
        "generate": {"prompt": "a red cat"},
    }
    for command, line in lists.items():
        out = desk.folder / command
        rows = [line | {"output": "plain.png"}]
        rows += [line | {"output": "own.png", "sampling.guidance": 4, "sampling.weight": 0.5}]
        manifest = desk.folder / f"{command}.jsonl"
        manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        desk.run(command, "--manifest", manifest, "-l", desk.loras[0], "-o", f"{out}/")
        for name in ("plain.png", "own.png"):
            found = again(out / name, desk, places=[desk.folder / "inputs"])
            assert not found.differences, (command, name, found.differences)
        said = store.read_provenance(out / "own.png")
        assert said is not None
        assert said["recipe"]["sampling"]["guidance"] == 4
        words = [desk.contents[0]] if command == "transfer" else ["--prompt", "a red cat"]
        sets = ("--set", "sampling.guidance=4", "--set", "sampling.weight=0.5")
        alone = out / "alone.png"
        desk.run(command, *words, "-l", desk.loras[0], "-o", alone, *sets)
        assert (store.read_provenance(alone) or {})["key"] == said["key"]
        assert alone.read_bytes() == (out / "own.png").read_bytes()


def test_places_that_nobody_named_are_left_out_where_they_are_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, home, far = tmp_path / "out/made.png", tmp_path / "home", tmp_path / "far"
    for number, folder in enumerate((made.parent, home, far)):
        draw(folder / f"{number}.png", seed=number)
    digests = {f"{n}.png": store.file_sha256(next(tmp_path.rglob(f"{n}.png"))) for n in range(3)}
    monkeypatch.chdir(home)

    def found() -> list[str]:
        locator = locator_for([made], [far])
        return [name for name, sha256 in digests.items() if locator.find(name, sha256)]

    assert found() == ["0.png", "1.png", "2.png"]
    for name in ("more.png", "and more.png"):
        draw(home / name, seed=7)
    monkeypatch.setattr("stylecli.artifacts.locate.SEARCHED_FILES", 2)
    assert found() == ["0.png", "2.png"]


def test_inputs_of_one_name_are_told_apart_by_the_key(desk: Desk) -> None:
    """Three regions, two LoRAs, one name: which is where, no list of inputs says."""
    loras = []
    for number, style in enumerate(desk.styles):
        loras.append(desk.folder / f"inputs/{number}/same.safetensors")
        desk.run("train-lora", style, "-o", loras[-1])
    for name, order in (("one", (0, 1, 1)), ("other", (0, 1, 0))):
        regions = [
            word
            for mask, which in zip(desk.masks, order, strict=True)
            for word in ("--region", f"{mask}={loras[which]}")
        ]
        out = desk.folder / f"{name}.png"
        desk.run("mask-transfer", desk.contents[0], *regions, "-o", out, "--feather", 1)
        assert not again(out, desk, places=[desk.folder / "inputs"]).differences
    one, other = (store.read_provenance(desk.folder / f"{n}.png") for n in ("one", "other"))
    assert one is not None
    assert other is not None
    assert one["inputs"] == other["inputs"]


def test_a_picture_from_a_batch_is_made_again_alone(desk: Desk) -> None:
    out = desk.folder / "out"
    words = ("--set", "device.batch=3", "-l", desk.loras[0], "-o", f"{out}/")
    desk.run("transfer", *desk.contents, *words)
    for file in sorted(out.glob("*.png")):
        assert not again(file, desk, places=[desk.folder / "inputs"]).differences


def said_by(**changes: Any) -> dict[str, Any]:
    inputs = [{"role": "style", "name": f"{i}.png", "sha256": "0" * 64} for i in range(3)]
    said = {"schema_version": 1, "command": "transfer", "key": "k", "recipe": {}, "inputs": inputs}
    return said | changes


def test_a_list_of_inputs_that_was_left_to_the_journal_is_taken_from_there() -> None:
    whole = said_by()
    omitted = {"count": 3, "sha256": store.digest(whole["inputs"])}
    short = {key: value for key, value in whole.items() if key != "inputs"}
    short["inputs_omitted"] = omitted
    row = {"inputs": whole["inputs"]}
    path = Path("x.jpg")
    assert facts.read(path, short, row, COMMANDS) == facts.read(path, whole, None, COMMANDS)
    for wrong in (None, {"inputs": whole["inputs"][1:]}):
        with pytest.raises(InputError, match="leaves its list of inputs to the journal"):
            facts.read(path, short, wrong, COMMANDS)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b.png", "/a.png", "a\0.png"])
def test_a_name_that_leads_out_of_its_folder_is_none(name: str) -> None:
    said = said_by(inputs=[{"role": "style", "name": name, "sha256": "0" * 64}])
    with pytest.raises(InputError, match="is no file's name"):
        facts.read(Path("x.png"), said, None, COMMANDS)


@pytest.mark.parametrize("command", sorted(NOT_AGAIN))
def test_what_took_a_whole_set_of_pictures_is_refused_in_one_line(
    command: str, tmp_path: Path
) -> None:
    file = tmp_path / "made.safetensors"
    said = {"schema_version": 1, "command": command}
    store.save_tensors(file, {"x": torch.zeros(1)}, {store.KEY: json.dumps(said)})
    with pytest.raises(InputError, match=f"made by {command} from a whole set"):
        rerun(file, Origins(), locator_for([file], []), Machine(), Silent())


def test_every_command_that_writes_provenance_is_known() -> None:
    """A new one that `rerun` has not heard of fails here."""
    from stylecli.cli.app import COMMANDS as TYPED
    from stylecli.cli.app import MAKE

    made = {command.name for command in TYPED if command.panel == MAKE}
    assert made == COMMANDS.keys() | NOT_AGAIN
    assert not COMMANDS.keys() & NOT_AGAIN
