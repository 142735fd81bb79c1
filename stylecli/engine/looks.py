"""What areas of a painting ask of the model at every step: LoRAs by their weights, and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stylecli.backbone.lora import LoraFile
from stylecli.engine.context import Reporter
from stylecli.engine.painting import Area, Part, Stretch
from stylecli.engine.style_words import StyleWords
from stylecli.engine.wardrobe import Wardrobe
from stylecli.methods.diffstyler import Look
from stylecli.recipe.schema import Sampling

# Stands in a prompt for the captions the LoRAs were trained with.
TRIGGER = "{trigger}"


def weights(parts: Sequence[Part], accelerator: Part | None) -> dict[str, float]:
    """Adapters and their strengths: those of a look, and what works beside it.

    An accelerator of no strength is left out, so that a look without LoRAs is the base model.
    """
    if accelerator is not None and accelerator.weight:
        parts = [*parts, accelerator]
    found: dict[str, float] = {}
    for part in parts:
        name = Wardrobe.name(part)
        found[name] = found.get(name, 0.0) + part.weight
    return found


class Looks:
    """Puts looks together, and says once what of their words the model will not read."""

    def __init__(
        self, reads: Callable[[str], tuple[int, int]], words: StyleWords, reporter: Reporter
    ) -> None:
        self._reads = reads
        self._words = words
        self._reporter = reporter
        self._said: set[str] = set()

    def of(self, area: Area, files: Mapping[str, LoraFile], sampling: Sampling) -> list[Look]:
        """What an area asks for at every step.

        Args:
            area: Of a painting.
            files: Its LoRAs, by their adapters' names.
            sampling: Says whether words follow that were found from style pictures.
        """
        found = []
        for stretch in area.stretches:
            look = Look(
                weights=weights(stretch.parts, area.accelerator),
                prompt=self._prompt(area, stretch, files, sampling),
                negative=area.negative,
                guidance=area.guidance,
                negative_weights=None
                if stretch.negative is None
                else weights(stretch.negative, area.accelerator),
            )
            self._warn_of_a_cut(look.prompt)
            found += [look] * (stretch.stop - stretch.start)
        return found

    def _prompt(
        self, area: Area, stretch: Stretch, files: Mapping[str, LoraFile], sampling: Sampling
    ) -> str:
        """The stretch's own words, else the area's, else what the LoRAs were trained with.

        Words found from style pictures follow, where they are asked for.
        """
        found = (files[Wardrobe.name(part)].trigger for part in stretch.parts)
        triggers = ", ".join(dict.fromkeys(trigger for trigger in found if trigger))
        own = stretch.prompt if stretch.prompt is not None else area.prompt
        if own is not None and TRIGGER in own and not triggers:
            self._warn_once(f"no LoRA says its caption, so {TRIGGER} in a prompt is nothing")
        said = triggers if own is None else own.replace(TRIGGER, triggers)
        if not sampling.prompt_from_style:
            return said
        pictures = [part.look for part in stretch.parts if part.look.role == "style"]
        words = [self._words.find(picture).text for picture in pictures]
        return ", ".join(text for text in (said, *words) if text)

    def _warn_of_a_cut(self, prompt: str) -> None:
        """Where the model will not read a prompt to its end."""
        length, most = self._reads(prompt)
        if length > most:
            self._warn_once(
                f"a prompt has {length} tokens, and the model reads {most}: {prompt[:40]}..."
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._reporter.warn(text)
