"""RegionRoute's protocol (section 5): one object of each photograph, in each of the styles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stylecli.artifacts import images, store
from stylecli.engine.protocols.tasks import HERE, OUT, TASKS, Shelf, Task, below, command, name_from
from stylecli.engine.route.data.making import mask_image, png, slug
from stylecli.engine.route.data.photographs import Listing, Outline, Photograph, candidates
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Data

# Objects of COCO by the rule of training; those of the two others were picked by people.
RULES: Mapping[str, Data] = {
    "coco": Data(),
    "voc": Data(min_area=0.0, max_area=0.9999, min_side_px=0),
    "big": Data(min_area=0.0, max_area=0.9999, min_side_px=0),
}


class Regions:
    """See `tasks.Source`."""

    recipe = "eval-regionroute"

    def __init__(
        self,
        listings: Sequence[Listing],
        folder: Path,
        *,
        data: Data,
        styles: Sequence[Style],
        seed: int,
        excluded: Collection[str],
        images: int | None,
    ) -> None:
        """Name what is asked for; photographs are chosen when the tasks are gone through.

        Args:
            folder: Where the tasks will lie.
            data: Which objects will do.
            excluded: Ids of photographs that a method has learned from.
            images: At most so many photographs.
        """
        self._listings, self._folder, self._data = listings, folder, data
        self._styles, self._seed, self._images = styles, seed, images
        self._excluded = frozenset(excluded)
        self.left_out: Counter[str] = Counter()
        self.facts: Mapping[str, Any] = {
            "sources": [{"name": one.name, "identity": one.identity} for one in listings],
            "filters": [data.min_area, data.max_area, data.min_side_px],
            "styles": [style.id for style in styles],
            "images": images,
            "excluded": store.digest(sorted(excluded)) if excluded else None,
            "seed": seed,
        }

    def count(self) -> int:
        """Of every photograph that comes into question one mask at least is read."""
        return sum(1 for _ in self._chosen()) * len(self._styles)

    def tasks(self, shelf: Shelf) -> Iterator[Task]:
        """Photograph by photograph, in an order that the seed draws.

        Raises:
            ImageError: A mask changed since it was looked at.
        """
        for photograph, outline in self._chosen():
            name = slug(photograph.id, photograph.id)
            mask = f"masks/{name}.png"
            shelf.put(mask, png(mask_image(outline.read(images.size_of(photograph.file)))))
            content = name_from(self._folder, photograph.file)
            for style in self._styles:
                output = f"{style.id}/{name}.png"
                run = {
                    "content": content,
                    "object": [outline.name],
                    "style_name": [style.phrase],
                    "output": output,
                }
                row = {
                    "id": f"{style.id}/{name}",
                    "output": output,
                    "content": content,
                    "mask": mask,
                    "region_text": outline.name,
                    "style_text": style.text,
                    "style_family": style.id,
                }
                yield Task(run={TASKS: run}, row=row)

    def _chosen(self) -> Iterator[tuple[Photograph, Outline]]:
        self.left_out.clear()
        found = candidates(self._listings, self._data, self._seed, self._excluded, self.left_out)
        return islice(found, self._images)

    def script(self) -> Sequence[str]:
        manifest = below(HERE, TASKS)
        return [command("style", "route-apply", "--manifest", manifest, "-o", OUT)]
