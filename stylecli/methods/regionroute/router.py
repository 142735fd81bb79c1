"""Which experts an instruction asks for, and for which objects: by name, never by guessing.

The paper takes the expert of the style's word. Here words are also found in other spellings, and
what reads like a style and is none is refused rather than left undone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stylecli.errors import UsageError
from stylecli.methods.regionroute import wording
from stylecli.methods.regionroute.styles import GAP, TEMPLATES, WHOLE, Style, instruct, plain

NEAREST = 3
# How alike two names are (difflib) before one is taken for a misspelling of the other.
ALIKE = 0.8
# More characters than any text encoder reads.
LONGEST = 2000
# Nobody means anything by more, and patterns take ever longer over them.
MOST_BLANKS = 32
EXAMPLE = "make the cat in {} style and the dog in {} style"
# How the canonical instruction ends.
_NOTHING_ELSE = TEMPLATES[0].partition("{style} style")[2]

Span = tuple[int, int]


class UnknownStyleError(UsageError):
    """No style is named, or one that is not among those to choose from."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A style that an instruction names.

    Attributes:
        span: Of its name in the prompt: first character, and one past the last.
        object: What the words around it say it is for; None where they are not understood.
    """

    style: Style
    span: Span
    object: str | None


def route(prompt: str, styles: Sequence[Style]) -> list[Hit]:
    """The styles that an instruction names, in the order of the text; one may come twice.

    Upper case, hyphens, underscores and spaces make no difference. The longest name wins. A name
    that is turned down ("not cyberpunk") is no hit, nor one that says which object is meant in
    front of another name ("the pixel-art cat cyberpunk").

    >>> from stylecli.methods.regionroute.styles import PAPER
    >>> [(hit.style.id, hit.object) for hit in route("turn the dog into Line Art", PAPER)]
    [('line_art', 'dog')]

    Raises:
        UnknownStyleError: No style is named, or one that is not known; the message names those
            that are.
        UsageError: There is none to choose from, the instruction is too long to be one, or it says
            what is not to be done.
    """
    if not styles:
        raise UsageError("there is no style to choose from", fix="give experts that are trained")
    if len(prompt) > LONGEST:
        raise UsageError(
            f"the instruction has {len(prompt)} characters, and {LONGEST} is the most",
            fix="say it in fewer words",
        )
    if re.search(rf"\s{{{MOST_BLANKS + 1}}}", prompt):
        raise UsageError(
            f"the instruction has more than {MOST_BLANKS} blanks in a row",
            fix="leave them out; one is enough",
        )
    found = _find(prompt, styles)
    denied = [span for span, _ in found if wording.DENIED.search(prompt[: span[0]])]
    named = _meant(prompt, [hit for hit in found if hit[0] not in denied])
    between = wording.pieces(_without(prompt, denied), [span for span, _ in named])
    for words, is_called_style in wording.claimed(between):
        wrong = _misspelt(words, styles) or (words if is_called_style else None)
        if wrong:
            raise _unknown(f"{wrong!r} is no style that is known", wrong, styles)
    if not named:
        raise _unknown(f"no style is named in {prompt!r}", prompt, styles)
    objects, _ = wording.read(between)
    for name in filter(None, objects):
        if wording.DENYING.search(name):
            raise UsageError(
                f"{prompt!r}: {name!r} says what is not to be done",
                fix=f'say what is to change, like "{EXAMPLE.format(*[named[0][1].phrase] * 2)}"',
            )
    return [
        Hit(style, span, name)
        for (span, style), name in zip(named, wording.referred(objects), strict=True)
    ]


def clauses(prompt: str, hits: Sequence[Hit]) -> list[str]:
    """One instruction for each hit, to be carried out one after another.

    In the words that experts are trained with where object and style are all that is said; what
    is said besides stays as it was written.

    >>> from stylecli.methods.regionroute.styles import PAPER
    >>> said = "paint the cat as pixel art, and the two dogs cyberpunk"
    >>> for clause in clauses(said, route(said, PAPER)):
    ...     print(clause)
    make the cat in pixel-art style, keep other area unchanged
    make the two dogs in cyberpunk style, keep other area unchanged

    Args:
        prompt: That `route` was asked about.
        hits: All that it answered.

    Raises:
        UsageError: There are several, and the words do not say which object one of them is for.
    """
    _, rest = wording.read(wording.pieces(prompt, [hit.span for hit in hits]))
    if len(hits) == 1 and (hits[0].object is None or rest):
        return [prompt]
    made = []
    for hit in hits:
        if hit.object is None:
            raise UsageError(
                f"{prompt!r} does not say clearly what is to be in {hit.style.phrase} style",
                fix=f'write one edit after the other, like "{_example(hits)}"',
            )
        if wording.is_whole(hit.object):
            made.append(WHOLE.replace("{style}", hit.style.text))
        else:
            made.append(instruct(hit.object, hit.style).prompt)
    if rest:
        made[-1] = made[-1].removesuffix(_NOTHING_ELSE) + rest
    return made


def _by_name(styles: Sequence[Style]) -> dict[str, Style]:
    """Longest first.

    Raises:
        UsageError: Two styles share a name.
    """
    owners: dict[str, Style] = {}
    for style in styles:
        for name in map(plain, style.names):
            if not name:
                raise UsageError(f"{style.id!r} goes by an empty name", fix="take that alias away")
            if owners.setdefault(name, style).id != style.id:
                raise UsageError(
                    f"{name!r} is the name of two styles: {owners[name].id} and {style.id}",
                    fix="take that alias from one of them",
                )
    return dict(sorted(owners.items(), key=lambda item: len(item[0]), reverse=True))


def _find(prompt: str, styles: Sequence[Style]) -> list[tuple[Span, Style]]:
    """All names on word boundaries, none inside a longer one."""
    found: list[tuple[Span, Style]] = []
    for name, style in _by_name(styles).items():
        words = GAP.join(map(re.escape, name.split(" ")))
        # An underscore is a gap here, and a letter in \b.
        pattern = rf"(?<![^\W_]){words}(?![^\W_])"
        for match in re.finditer(pattern, prompt, re.IGNORECASE):
            start, stop = match.span()
            if all(stop <= first or last <= start for (first, last), _ in found):
                found.append(((start, stop), style))
    return sorted(found, key=lambda item: item[0])


def _meant(prompt: str, found: Sequence[tuple[Span, Style]]) -> list[tuple[Span, Style]]:
    """Without names that describe an object in front of another name."""
    meant = list(found[-1:])
    for (span, style), (following, _) in zip(found[-2::-1], found[:0:-1], strict=True):
        describes = wording.BEFORE_DESCRIBED.search(prompt[: span[0]])
        if not (describes and wording.AFTER_DESCRIBED.match(prompt[span[1] : following[0]])):
            meant.insert(0, (span, style))
    return meant


def _without(prompt: str, denied: Sequence[Span]) -> str:
    """Blanks in place of names that are turned down, and of the word that does so."""
    for start, stop in denied:
        refusal = wording.DENIED.search(prompt[:start])
        first = refusal.start() if refusal else start
        prompt = prompt[:first] + " " * (stop - first) + prompt[stop:]
    return prompt


def _misspelt(words: str, styles: Sequence[Style]) -> str | None:
    """The end of some words that is almost a name."""
    names = _by_name(styles)
    said = plain(words).split()
    for end in (" ".join(said[k:]) for k in range(len(said))):
        if difflib.get_close_matches(end, names, n=1, cutoff=ALIKE):
            return end
    return None


def _example(hits: Sequence[Hit]) -> str:
    return EXAMPLE.format(hits[0].style.phrase, hits[-1].style.phrase)


def _unknown(what: str, said: str, styles: Sequence[Style]) -> UnknownStyleError:
    """With the nearest names, by the best of all runs of words as long as each name."""
    words = plain(said).split()

    def nearness(style: Style) -> float:
        best = 0.0
        for name in map(plain, style.names):
            length = len(name.split())
            runs = [words[k : k + length] for k in range(max(1, len(words) - length + 1))]
            ratios = (difflib.SequenceMatcher(None, " ".join(run), name).ratio() for run in runs)
            best = max(best, *ratios)
        return best

    nearest = sorted(styles, key=nearness, reverse=True)[:NEAREST]
    known = ", ".join(style.phrase for style in styles)
    near = ", ".join(style.phrase for style in nearest)
    hint = f"; nearest are {near}" if len(styles) > NEAREST else ""
    return UnknownStyleError(what, fix=f"name one of {known}{hint}")
