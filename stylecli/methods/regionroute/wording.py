"""How people say which object gets a style: patterns only, which know no style by name.

An instruction is cut at the names of its styles. Each piece of text between them is asked: does it
end in an object ("turn the dog into ..."), or begin with one ("... for the dog")? What is not
understood is not guessed at.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence


def _any(words: str) -> str:
    """One of these as whole words; `_` stands for space inside one."""
    choices = sorted(words.split(), key=len, reverse=True)
    return r"\b(?:" + "|".join(one.replace("_", r"\s+") for one in choices) + r")\b"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_QUOTES = r"\"'\u2018\u2019\u201c\u201d«»()*`"
_DEFINITE = _any("the this that these those my our your his her its their all both each every")
_DETERMINER = rf"(?:{_DEFINITE}|{_any('a an some')})"
_VERB = _any(
    "make turn paint repaint render change convert transform restyle stylize stylise style redraw "
    "draw redo give put show depict edit switch set have let apply use add do create recreate"
)
_LEAD_WORD = _any(
    "and then but while also plus next now finally first please kindly just only can_you could_you "
    "would_you i_want i_want_to i_want_you_to i_would_like i_would_like_you_to i'd_like "
    "i'd_like_you_to let's thanks thank_you"
)
_JOINING = _any("and then but while plus")
_TOWARDS = _any(
    "into in to as like be become becomes look looks looking appear should must is are being using "
    "with by drawn painted rendered shown turned made a an the some style_of look_of form_of "
    "manner_of completely entirely fully"
)
_KIND = _any(
    "style styles styled styling look looks effect aesthetic version form fashion manner filter "
    "treatment design drawing painting artwork art image picture illustration rendering"
)
_FOR = _any("for to on onto of over")
_REST = _any(
    "the_rest everything_else all_else anything_else the_others other_areas? other_parts? "
    "the_other_areas? the_background the_rest_of_the_(?:image|picture|photo)"
)
_SAME = _any(
    "unchanged untouched unaltered intact alone (?:the_)?same as_is as_it_(?:is|was) "
    "as_they_(?:are|were) original"
)
# That nothing else is to change: what the canonical instruction says anyway.
_TAIL = "|".join(
    (
        rf"{_any('keep keeping leave leaving preserve preserving')}\s+{_REST}(?:\s+{_SAME})?",
        r"\bnothing\s+else(?:\s+(?:changes|changed|should\s+change))?\b",
        rf"{_any('do_not don.?t without not')}\s+(?:touch|chang|alter|modify)\w*\s+{_REST}",
        rf"{_REST}\s+{_any('stays? remains? is are should_stay should_remain')}\s+{_SAME}",
    )
)
_LEAD = rf"(?:{_LEAD_WORD}|[\s,;.:!?&+\u2013\u2014{_QUOTES}])*"
_BEGIN = (
    rf"{_LEAD}(?:(?:{_TAIL}){_LEAD})?(?:in\s+(?:the|this|my)\s+(?:image|picture|photo)\s*,)?\s*"
)
_ARTICLE = rf"(?:{_any('a an the some in with')}|[\s{_QUOTES}])*"
# No object's name begins with one of these. Commas are part of lists: "the cat, the mat".
_NAMELESS = rf"{_DETERMINER}|{_TOWARDS}|{_LEAD_WORD}|{_FOR}|{_any('from or nor')}"
_NAME = (
    rf"(?!{_NAMELESS})\w"
    rf"(?:(?:[^,;.:!?]|,(?=\s+(?:and\s+)?{_DETERMINER}))*?[^\s,;.:!?])?"
)
_OBJECT = (
    rf"(?:(?:{_DETERMINER}\s+)+|(?!{_VERB}))"
    rf"(?:{_any('style look appearance')}\s+of\s+(?:{_DETERMINER}\s+)*)?"
    rf"[{_QUOTES}]*(?P<object>{_NAME})"
)

OBJECT_FIRST = _pattern(
    rf"{_BEGIN}(?:{_VERB}\s+)?(?:{_any('only just')}\s+)?{_OBJECT}"
    rf"(?:{_TOWARDS}|[\s:=>{_QUOTES}-])*"
)
NO_OBJECT = _pattern(rf"{_BEGIN}(?:{_VERB}\s*)?{_ARTICLE}")
AFTER_STYLE = _pattern(rf"[{_QUOTES}]*(?:\s*{_KIND}){{0,2}}")
STYLE_FIRST = _pattern(
    rf"[{_QUOTES}]*(?:\s*{_KIND}){{0,2}}\s*{_FOR}\s+(?:{_any('only just')}\s+)?{_OBJECT}"
    rf"(?=\s*(?:[,;.!?]|{_JOINING}\s+{_VERB}|{_LEAD}(?:{_TAIL})|{_LEAD}(?:{_VERB}\s*)?{_ARTICLE}$))"
)
ENDING = _pattern(rf"{_LEAD}(?:(?:{_TAIL}){_LEAD})*")

# A name that says which object is meant: "make the pixel-art cat cyberpunk".
BEFORE_DESCRIBED = _pattern(rf"{_DEFINITE}\s+[{_QUOTES}]*$")
AFTER_DESCRIBED = _pattern(rf"\s+(?!{_KIND}|{_TOWARDS}|{_LEAD_WORD}|{_TAIL}|{_FOR}|or\b)\w")
# A name that says what is not wanted, or no longer.
DENIED = _pattern(
    rf"{_any('not no without never neither nor from than instead_of')}\s+"
    rf"(?:(?:in|a|an|the)\s+)*[{_QUOTES}]*$"
)
# No part of the name of an object: an edit that is not wanted, or less of one, is none that a model
# could be told.
DENYING = _pattern(_any("don.?t doesn.?t do_not does_not never not less except excluding besides"))
# What stands where a style would: "the car in watercolour style", "and the car watercolor".
_CLAIMED = (
    r"\s(?P<name>[\w'-]+(?:\s[\w'-]+){0,2}?)(?P<style>\s+style)?"
    rf"(?=\s*(?:[,;.!?]|{_JOINING}|$))"
)
_THING = rf"{_DETERMINER}\s+[^,;.!?]{{1,60}}?"
CLAIMS = (
    _pattern(
        rf"{_THING}\s(?:into|in|to|as)(?:\s+an?)?"
        rf"(?!\s+(?:a|an|the|this|that|its|their|same|original|own)\b){_CLAIMED}"
    ),
    _pattern(rf"(?:^|[,;.&+]|{_JOINING}){_LEAD}(?:{_VERB}\s+)?{_THING}{_CLAIMED}"),
)

_OWN_STYLE = _pattern(rf"['\u2019]s?\s+{_any('style look appearance')}$")
_QUOTE = _pattern(rf"^[\s{_QUOTES}]+|[\s{_QUOTES}]+$")
_OPEN_END = _pattern(rf"{_any('and or with of')}$")
_WHOLE = _pattern(
    r"it|everything|(?:(?:whole|entire|full)\s+)?(?:image|picture|photo|photograph|scene|thing)"
)


def is_whole(name: str) -> bool:
    """Whether the object is all there is in the picture."""
    return _WHOLE.fullmatch(name) is not None


def referred(objects: Iterable[str | None]) -> list[str | None]:
    """Objects with the last thing that was named in place of a word that stands for it.

    >>> referred(["cat", "it"]), referred(["it"])
    (['cat', 'cat'], ['it'])
    """
    found: list[str | None] = []
    last: str | None = None
    for name in objects:
        stands = name is not None and name.casefold() in ("it", "them")
        found.append(last if stands and last else name)
        if name is not None and not is_whole(name):
            last = found[-1]
    return found


def pieces(prompt: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The text before, between and after the names: one piece more than names."""
    edges = [0, *(edge for span in spans for edge in span), len(prompt)]
    return [prompt[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def read(between: Sequence[str]) -> tuple[list[str | None], str]:
    """The object of each style, and what is said at the end besides.

    Args:
        between: Of `pieces`.
    """
    objects: list[str | None] = []
    used = 0
    for before, after in itertools.pairwise(between):
        rest = before[used:]
        used = AFTER_STYLE.match(after).end()  # type: ignore[union-attr] # it matches nothing, too
        found = OBJECT_FIRST.fullmatch(rest)
        if found is None and NO_OBJECT.fullmatch(rest):
            found = STYLE_FIRST.match(after)
            used = found.end() if found else used
        objects.append(_plain(found["object"]) if found else None)
    rest = between[-1][used:]
    return objects, "" if ENDING.fullmatch(rest) else rest


def claimed(between: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Words that stand where a style's name would, and whether they are said to be a style's."""
    for piece in between:
        for claim in CLAIMS:
            for found in claim.finditer(piece):
                yield found["name"], found["style"] is not None


def _plain(name: str) -> str | None:
    """Without quotes, and without what stays when "the cat's style" is changed."""
    name = _OWN_STYLE.sub("", _QUOTE.sub("", name))
    return None if _OPEN_END.search(name) else " ".join(name.split())
