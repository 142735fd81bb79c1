"""What people would prefer, as networks have learnt it from their choices.

All look at the output, and all but one at the words it was made from. Whether those name the style
is not said in the papers that report these figures: ``evaluate.pref_prompt`` says it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from stylecli.evaluation.catalogue.asking import cosine_to, own_pixels
from stylecli.evaluation.metric import Row, of_style
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.evaluation.taste.hpsv2 import SCALE

CONTENT, BOTH = "content", "content+style"


def asked(row: Row) -> str:
    """The prompt that preference is asked for."""
    prompt = row.words("prompt")
    return f"{prompt}, {row.words('style_text')}" if row.setting("pref_prompt") == BOTH else prompt


def aesthetic(row: Row) -> float:
    return float(row.network("aesthetic")(row.embeddings("clip-l14", "output")))


def pickscore(row: Row) -> float:
    temperature: float = row.network("pickscore").temperature
    return temperature * cosine_to(row, "pickscore", "output", asked(row))


def hpsv2(row: Row) -> float:
    return SCALE * cosine_to(row, "hpsv2", "output", asked(row))


def imagereward(row: Row) -> float:
    network = row.network("imagereward")
    device = next(network.parameters()).device
    shown = PREPROCESS["clip224"].apply(own_pixels(row))
    return float(network(shown[None].to(device), [asked(row)]))


def hpsv3(row: Row) -> float:
    return float(row.network("hpsv3").score(own_pixels(row), asked(row)))


def _columns(settings: Mapping[str, object]) -> tuple[str, ...]:
    return () if settings["pref_prompt"] == CONTENT else ("style_text",)


_PROMPTED = {
    "columns": ("prompt",),
    "settings": ("pref_prompt",),
    "reads": asked,
    "also": _columns,
}
ROWS = (
    of_style(
        "aesthetic",
        "higher",
        "LAION's aesthetic mark of the picture alone",
        columns=(),
        uses=("clip-l14", "aesthetic"),
        scale="about 1 to 10",
        compute=aesthetic,
    ),
    of_style(
        "pickscore",
        "higher",
        "PickScore for the prompt",
        uses=("pickscore",),
        scale="cosine x the learnt temperature, about 100",
        compute=pickscore,
        **_PROMPTED,
    ),
    of_style(
        "imagereward",
        "higher",
        "ImageReward for the prompt",
        uses=("imagereward",),
        scale="deviations from the authors' mean",
        compute=imagereward,
        **_PROMPTED,
    ),
    of_style(
        "hpsv2",
        "higher",
        "HPS v2.1 for the prompt",
        low=-SCALE,
        high=SCALE,
        uses=("hpsv2",),
        scale="cosine x 100",
        compute=hpsv2,
        **_PROMPTED,
    ),
    of_style(
        "hpsv3",
        "higher",
        "HPSv3 for the prompt",
        uses=("hpsv3",),
        compute=hpsv3,
        **_PROMPTED,
    ),
)
