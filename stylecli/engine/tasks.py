"""What is to be painted, in which order, and what of it side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.backbone.adapters import MAX_COPIES
from stylecli.engine import method
from stylecli.engine.contents import Canvas
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input, Job
from stylecli.engine.wardrobe import MAX_LOADED
from stylecli.recipe.schema import Device, Recipe


@dataclass(frozen=True, slots=True)
class Task:
    """One content and what becomes of it.

    Attributes:
        recipe: Of the run, with what the content's row of a manifest changes.
        folder: Of the content, below the one that was named.
    """

    content: Input
    painting: Painting
    recipe: Recipe
    output: Path | None = None
    folder: str = ""


def is_shared(task: Task) -> bool:
    """Whether other looks of the same content share its passes: they see the content as it is."""
    if not method.learns(task.recipe.sampling):
        return True
    return task.recipe.sampling.start != "palette" and not task.painting.has_masks


def in_order(tasks: Sequence[Task], device: Device) -> list[Task]:
    """As few looks at a time as are painted side by side, so that each LoRA is loaded once.

    Looks that share what their content leaves behind follow one another on each content; with a
    place where it waits for them, as many as the model holds.
    """
    at_once = device.looks
    if device.source_cache != "none":
        at_once = max(at_once, MAX_LOADED)
    asked = {id(task.painting): task.painting for task in tasks}
    looks = {
        key: tuple((part.look.role, part.look.sha256) for part in painting.parts)
        for key, painting in asked.items()
    }
    numbers = {look: n for n, look in enumerate(sorted(set(looks.values())))}
    contents: dict[Input, int] = {}

    def place(task: Task) -> tuple[int, ...]:
        look = numbers[looks[id(task.painting)]]
        content = contents.setdefault(task.content, len(contents))
        if not is_shared(task):
            return look, content, 0
        return look // at_once * at_once, content, look

    return sorted(tasks, key=place)


def side_by_side(tasks: Sequence[Task], device: Device) -> int:
    """How many looks of one content are painted together."""
    of_content = Counter(task.content for task in tasks if is_shared(task))
    most = device.looks
    if device.adapters == "fused":
        sides = 2 if any(task.painting.is_asymmetric for task in tasks) else 1
        most = min(most, MAX_COPIES // sides)
    return min(most, max(of_content.values(), default=1))


def blocks(
    group: Sequence[tuple[Job, Canvas]], tasks: Mapping[str, Task], rows: int, looks: int
) -> Iterator[tuple[list[Canvas], list[list[Job]]]]:
    """Contents that are to be painted in the same ways, and for every way a job of each.

    Args:
        group: Jobs of one bucket.
        rows: At most so many contents in a block.
        looks: At most so many ways.
    """
    ways: dict[tuple[Input, int], dict[Painting, Job]] = {}
    canvases = {}
    for job, canvas in group:
        painting, twin = tasks[job.key].painting, 0
        # A manifest may want the same of the same content twice.
        while painting in ways.setdefault((job.content, twin), {}):
            twin += 1
        ways[job.content, twin][painting] = job
        canvases[job.content, twin] = canvas
    alike: dict[tuple[Painting, ...], list[tuple[Input, int]]] = {}
    for content, own in ways.items():
        alike.setdefault(tuple(own), []).append(content)
    for paintings, contents in alike.items():
        for at in range(0, len(contents), rows):
            some = contents[at : at + rows]
            for start in range(0, len(paintings), looks):
                jobs = [
                    [ways[content][painting] for content in some]
                    for painting in paintings[start : start + looks]
                ]
                yield [canvases[content] for content in some], jobs
