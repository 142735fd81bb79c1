"""Styles by name, and the instructions they are learnt with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stylecli.errors import UsageError

# Between the words of a name people write any of these.
GAP = r"[\s_\u2010-\u2014-]+"


def plain(name: str) -> str:
    """A name as it is compared: no case, and one kind of gap.

    >>> plain("Line-Art") == plain("line_art") == plain(" line art ")
    True
    """
    return re.sub(GAP, " ", name.casefold()).strip()


@dataclass(frozen=True, slots=True)
class Style:
    """A look that an expert knows.

    Attributes:
        id: Part of file names.
        phrase: What instructions say, and whose tokens' attention is supervised.
        aliases: What people may say instead; hyphens, underscores and spaces are all alike.
    """

    id: str
    phrase: str
    aliases: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The phrase in plain words.

        >>> Style("line_art", "line-art").text
        'line art'
        """
        return " ".join(self.phrase.replace("-", " ").replace("_", " ").split())

    @property
    def names(self) -> tuple[str, ...]:
        """All that people may call it, the phrase first."""
        return tuple(dict.fromkeys((self.phrase, self.id, *self.aliases)))


# The four of the paper (section 4.1).
PAPER = (
    Style(
        "pixel_art",
        "pixel-art",
        ("pixelart", "pixelated", "pixellated", "8-bit", "8bit", "16-bit", "16bit"),
    ),
    Style("cyberpunk", "cyberpunk", ("cyber-punk",)),
    Style("expressionism", "expressionism", ("expressionist", "expressionistic")),
    Style(
        "line_art",
        "line-art",
        ("lineart", "line-drawing", "line-drawings", "line-work", "linework"),
    ),
)

# The first is the canonical one. In all of them the word "style" follows the phrase.
TEMPLATES = (
    "make the {object} in {style} style, keep other area unchanged",
    "turn the {object} into {style} style and leave everything else as it is",
    "repaint only the {object} in {style} style",
    "{style} style for the {object}, nothing else changes",
    "change the {object} to {style} style",
    "give just the {object} the {style} style, the rest stays the same",
    "render the {object} as {style} style without changing anything else",
)

# For a whole picture; `Style.text` goes in.
WHOLE = "make the image into {style} style"

_OBJECT, _STYLE, _WORD = "{object}", "{style}", " style"


@dataclass(frozen=True, slots=True)
class Instruction:
    """An edit in words.

    Attributes:
        object_span: Of the object's name in the prompt: first character, and one past the last.
        style_span: Likewise of the style's phrase.
    """

    prompt: str
    object_span: tuple[int, int]
    style_span: tuple[int, int]


def instruct(
    object: str,  # noqa: A002 - what it is called in templates and files
    style: Style,
    template: str = TEMPLATES[0],
    *,
    include_style_word: bool = False,
) -> Instruction:
    """Put an object and a style into a template; their places are known, never searched for.

    >>> made = instruct("two dogs", PAPER[0], "repaint only the {object} in {style} style")
    >>> made.prompt
    'repaint only the two dogs in pixel-art style'
    >>> made.prompt[slice(*made.style_span)]
    'pixel-art'

    Args:
        object: As it is called after "the".
        include_style_word: The span of the style takes in the word "style" after it.

    Raises:
        UsageError: The object has no name, or the template does not hold both places exactly once,
            or lacks the word that the span should take in.
    """
    if not object.strip():
        raise UsageError("the object has no name", fix="name what is to be restyled: cat")
    if (template.count(_OBJECT), template.count(_STYLE)) != (1, 1):
        raise UsageError(
            f"the template {template!r} does not hold {_OBJECT} and {_STYLE} once each",
            fix=f'write it like "{TEMPLATES[0]}"',
        )
    if include_style_word and _STYLE + _WORD not in template:
        raise UsageError(
            f'the template {template!r} has no word "style" after {_STYLE}',
            fix=f'write "{_STYLE}{_WORD}" in it, or leave that word out of the span',
        )
    prompt, spans = "", {}
    rest = template
    for place in sorted((_OBJECT, _STYLE), key=template.index):
        before, _, rest = rest.partition(place)
        words = object.strip() if place == _OBJECT else style.phrase
        prompt += before
        spans[place] = len(prompt), len(prompt) + len(words)
        prompt += words
    start, stop = spans[_STYLE]
    reach = len(_WORD) if include_style_word else 0
    return Instruction(prompt + rest, spans[_OBJECT], (start, stop + reach))
