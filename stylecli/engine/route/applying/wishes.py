"""What is asked for, in words: which edits, in which order, by which experts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from stylecli.errors import UsageError
from stylecli.methods.regionroute.router import Hit, UnknownStyleError, clauses, route
from stylecli.methods.regionroute.styles import Style, instruct
from stylecli.methods.regionroute.wording import is_whole
from stylecli.recipe.route import Apply

# What an instruction may say without naming a thing.
_IDLE_WORDS = """
a alone an and apply area areas as at be but by change changed changes changing convert do draw
drawing edit effect else everything everywhere filter for form give in into is it its just keep
leave like look looks make no not nothing of on only other others paint parts please region regions
render repaint rest same some something staying stays style styled styles stylise stylize that the
them these thing things this those to turn unchanged untouched use using want with without would
"""
_IDLE = frozenset(_IDLE_WORDS.split())
# Words around a style that nobody knows; where none of these is there, nobody can tell which it is.
_UNKNOWN = re.compile(
    r"(?:please )?(?:make|turn|change|convert|paint|repaint|draw|render)(?: only| just)?"
    r" (?:the |a |an |my )?(?P<object>.+?) (?:in|into|to|as)(?: the| a| an)? (?P<style>.+?)"
    r"(?: style)?(?:[,.;].*| and leave .*| without .*)?",
    re.IGNORECASE | re.DOTALL,
)
# In the name of a thing, or of a style that nobody knows: there is a second edit in it.
_MORE = re.compile(r"\b(?:style|(?:and|then|but)\s+(?:the|a|an|my))\b", re.IGNORECASE)
MIX = "or mix the nearest: --soft-route"
EXAMPLE = "--object cat --style-name pixel-art"


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing to do to a picture.

    Attributes:
        prompt: What the model is told.
        span: Where it says the style: first character, and one past the last.
        object: What is to change, as far as the words are understood.
        experts: The one that does it; or all of those that the nearest are mixed from.
        mix: How many of the nearest, and the temperature of their weights; None is no mix.
    """

    prompt: str
    span: tuple[int, int]
    object: str | None
    experts: tuple[str, ...]
    mix: tuple[int, float] | None = None

    @property
    def style(self) -> str:
        """As the instruction says it."""
        return self.prompt[slice(*self.span)]


def edits(asked: Apply, styles: Sequence[Style]) -> tuple[Edit, ...]:
    """The edits that settings ask for, in their order.

    Args:
        asked: Instructions, or objects and their styles.
        styles: Those that there are experts for.

    Raises:
        UsageError: Nothing is asked for, or in two ways; an instruction names no style that is
            known, or no object.
    """
    if asked.instruction and (asked.object or asked.style_name):
        raise UsageError(
            "--instruction says object and style itself",
            fix="leave out --object and --style-name, or --instruction",
        )
    if len(asked.object) != len(asked.style_name):
        count = f"{len(asked.object)} --object and {len(asked.style_name)} --style-name"
        raise UsageError(
            f"{count}: each object has a style, in the same order", fix=f"such as {EXAMPLE}"
        )
    if not asked.instruction and not asked.object:
        raise UsageError(
            "nothing says what to do",
            fix=f"--instruction 'make the cat in pixel-art style', or {EXAMPLE}",
        )
    found: list[Edit] = []
    for text in asked.instruction:
        found += _told(text, styles, asked)
    for thing, name in zip(asked.object, asked.style_name, strict=True):
        found.append(_named(thing, name, styles, asked))
    return tuple(found)


def unknown(edits: Iterable[Edit], things: Collection[str]) -> list[str]:
    """Objects in whose names there is none of the things that a model was taught.

    >>> made = Edit("", (0, 0), "two red dogs", ())
    >>> unknown([made], {"dog"}), unknown([made], {"cat"})
    ([], ['two red dogs'])
    """
    plurals = {*things, *(f"{one}{ending}" for one in things for ending in ("s", "es"))}
    named = dict.fromkeys(edit.object for edit in edits if edit.object)
    return [
        one for one in named if not (is_whole(one.casefold()) or plurals & _nouns(one.casefold()))
    ]


def _nouns(name: str) -> set[str]:
    """What a name is the name of: "dog house" is a house, "slice of bread" is both.

    >>> sorted(_nouns("the red slice of bread on a plate"))
    ['bread', 'slice']
    """
    parts = re.split(r"\b(?:with|in|on|near|at|by|behind|before|next|under)\b", name)[0].split(
        " of "
    )
    return {words[-1] for part in parts if (words := re.findall(r"\w+", part))}


def _told(text: str, styles: Sequence[Style], asked: Apply) -> list[Edit]:
    """The edits of one instruction."""
    try:
        hits = route(text, styles)
    except UnknownStyleError as error:
        if not asked.soft_route:
            fix = f"{error.fix}; {MIX}"
            raise UsageError(error.what, fix=fix) from error
        understood = _UNKNOWN.fullmatch(text.strip())
        if understood is None or any(_says_more(part, styles) for part in understood.groups()):
            raise UsageError(
                f"{text!r}: which of these words are a style cannot be told",
                fix=f"say it like 'make the cat in mosaic style', or {EXAMPLE}",
            ) from error
        return [_mixed(understood["object"], understood["style"], styles, asked)]
    if len(hits) == 1:
        _refuse_no_object(text, hits[0])
    return [
        Edit(clause, _span(clause, text, hit), hit.object, (hit.style.id,))
        for hit, clause in zip(hits, clauses(text, hits), strict=True)
    ]


def _span(clause: str, text: str, hit: Hit) -> tuple[int, int]:
    """Where a clause says its style, whose words are those of the text or the canonical ones."""
    if clause == text or hit.object is None:
        return hit.span
    made = instruct(hit.object, hit.style)
    _, last = made.style_span
    if clause.startswith(made.prompt[:last]):
        return made.style_span
    first = clause.index(hit.style.text)  # of a whole picture
    return first, first + len(hit.style.text)


def _named(thing: str, name: str, styles: Sequence[Style], asked: Apply) -> Edit:
    """The edit of an object and a style that were named apart."""
    try:
        style = _style(name, styles)
    except UnknownStyleError as error:
        if asked.soft_route:
            return _mixed(thing, name, styles, asked)
        raise UsageError(error.what, fix=f"{error.fix}; {MIX}") from error
    made = instruct(_bare(thing), style)
    return Edit(made.prompt, made.style_span, _bare(thing), (style.id,))


def _mixed(thing: str, name: str, styles: Sequence[Style], asked: Apply) -> Edit:
    made = instruct(_bare(thing), Style("", name.strip()))
    ids = tuple(sorted(style.id for style in styles))
    mix = asked.top, asked.mix_tau
    return Edit(made.prompt, made.style_span, _bare(thing), ids, mix)


def _says_more(words: str, styles: Sequence[Style]) -> bool:
    """Whether there is more in some words than one thing, or one style that nobody knows."""
    try:
        return bool(_MORE.search(words) or route(words, styles))
    except UnknownStyleError:
        return False


def _style(name: str, styles: Sequence[Style]) -> Style:
    """The one style that a name means, with or without the word.

    Raises:
        UsageError: None, or it says more than a style.
    """
    hits = route(name, styles)
    (first, last), found = hits[0].span, hits[0].style
    around = f"{name[:first]} {name[last:]}".split()
    if len(hits) > 1 or [word.casefold() for word in around] not in ([], ["style"]):
        raise UsageError(
            f"--style-name {name!r} is more than one style's name",
            fix=f"--style-name {found.phrase}; what is to change goes with --object",
        )
    return found


def _refuse_no_object(clause: str, hit: Hit) -> None:
    """See that something besides the style is named; whether the model knows it, nobody can tell.

    Raises:
        UsageError: Nothing is.
    """
    first, last = hit.span
    around = re.findall(r"[^\W\d_]+(?:'\w+)?", f"{clause[:first]} {clause[last:]}".casefold())
    if hit.object is None and all(word in _IDLE for word in around):
        raise UsageError(
            f"{clause!r} names the style {hit.style.phrase}, and nothing to give it to",
            fix=f"such as 'make the cat in {hit.style.phrase} style'",
        )


def _bare(thing: str) -> str:
    """Without the article that templates have."""
    return re.sub(r"^\s*the\s+", "", thing, flags=re.IGNORECASE).strip()
