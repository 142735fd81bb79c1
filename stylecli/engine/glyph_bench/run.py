"""The benchmark from pictures to figures: draw, answer, score, compare with the true drawings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stylecli.artifacts.files import to_json, write_atomic
from stylecli.engine.context import Reporter
from stylecli.engine.glyph_bench import gains, questions
from stylecli.engine.glyph_bench.gains import Gain
from stylecli.engine.glyph_bench.questions import METHODS, Asked, Question
from stylecli.engine.request import Prepared
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import Result
from stylecli.engine.scoring.evaluation import Evaluation
from stylecli.engine.scoring.items import Asked as Scored
from stylecli.engine.scoring.wishes import Wishes
from stylecli.errors import UsageError, did_you_mean
from stylecli.recipe.schema import Recipe

# The distance that pictures are ranked by, and that a sentence quotes.
MAIN = "t-pocket-lpips"
REPORT, GAINS, SHEET = "report", "gains.json", "best-and-worst.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlyphBench:
    """A benchmark whose questions are known."""

    asked: Asked
    recipe: Recipe
    reporter: Reporter
    questions: Sequence[Question]

    @classmethod
    def prepare(cls, recipe: Recipe, asked: Asked, reporter: Reporter) -> GlyphBench:
        """Choose the questions; nothing is written.

        Raises:
            InputError: Icon families are missing.
            UsageError: An unknown family or method, or a size that does not fit.
        """
        for name in asked.methods:
            if name not in METHODS:
                raise UsageError(
                    f"--methods {name}: there is no such method",
                    fix=f"{did_you_mean(name, METHODS)}known: {', '.join(METHODS)}",
                )
        found = questions.read(asked)
        sized = questions.at_size(recipe, asked.px)
        return cls(asked=asked, recipe=sized, reporter=reporter, questions=found)

    def run(self, each: Callable[[Result], None]) -> list[Gain]:
        """Answer what is not answered yet, score everything, write figures and pictures.

        Raises:
            LockedError: Another run writes to the same folders.
            WeightsError: The model is not on this machine, or cannot be loaded.
        """
        questions.write(self.asked, self.questions)
        for name in self.asked.methods:
            for prepared in METHODS[name](self.recipe, self.asked, self.questions, self.reporter):
                _forget_others(prepared)
                for result in prepared.run():
                    each(result)
        questions.write_items(self.asked, self.questions)
        evaluation = Evaluation.prepare(
            self.recipe,
            Scored(manifest=self.asked.output / questions.ITEMS),
            Wishes(output=self.asked.output / REPORT, wait=self.asked.wait),
            self.reporter,
        )
        outcome = evaluation.run(lambda _: None)
        settings = evaluation.settings
        found = [
            gain
            for metric in evaluation.ready
            if metric.columns == ("target",)
            for gain in gains.measure(
                outcome.entries, metric.name, seed=settings.seed, resamples=settings.resamples
            )
        ]
        write_atomic(
            self.asked.output / GAINS, to_json([asdict(gain) for gain in found]).encode() + b"\n"
        )
        for method in self.asked.methods:
            items = {item.id: item for item in evaluation.items if item.method == method}
            ids = gains.ranked(outcome.entries, method, MAIN)
            gains.sheet(self.sheet_of(method), items, ids)
        return found

    def sheet_of(self, method: str) -> Path:
        """Where the best and the worst pictures of a method are shown."""
        return self.asked.output / f"{method}.{SHEET}"


def _forget_others(prepared: Prepared) -> None:
    """Remove answers to other questions, or by other settings: they would be scored as these."""
    _, settled = pending(prepared.plan.jobs, Known.of(prepared.plan.folder))
    for result in settled:
        if result.status == "failed":
            result.job.output.unlink(missing_ok=True)
