"""Words for a look: the prompt of a few tokens whose CLIP embedding is nearest to some pictures'.

PEZ (Wen et al. 2023, "Hard Prompts Made Easy", algorithm 1): vectors are optimised freely, but
every gradient is taken where the vocabulary's nearest words lie, so that what is scored is always a
prompt a person can type. Only whole words take part, whose tokens survive being written and read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.errors import UsageError
from stylecli.evaluation.perceptual import PocketClip, clip_tokens

PLACE = "{}"
# The paper's; without it the free vectors drift away from all words, and no longer change any.
WEIGHT_DECAY = 0.1
# Start and end.
FRAME = 2


class SimpleTokenizer(Protocol):
    """What is asked of open_clip's tokenizer."""

    def decode(self, tokens: list[int]) -> str:
        """Their text."""

    def __call__(self, texts: list[str]) -> Int[Tensor, "n context"]:
        """Start, tokens, end, zeros."""


@dataclass(frozen=True, slots=True)
class HardPrompt:
    """A prompt that was found.

    Attributes:
        text: All of it, the template included.
        score: Cosine of `text`, tokenized anew, and the mean of the pictures.
        start_score: That of the best prompt the search began with.
    """

    text: str
    score: float
    start_score: float


class Language:
    """The text half of an open_clip model, and every word that is one token of it.

    Attributes:
        context: Most tokens of a prompt, `start` and `end` included.
        words: As text.
        tokens: Theirs, in the same order.
        vectors: What the model begins with for each.
    """

    def __init__(
        self,
        model: nn.Module,
        encode: Callable[[list[str]], Int[Tensor, "n context"]],
        decode: Callable[[list[int]], str],
    ) -> None:
        # open_clip's attributes are not those of every module.
        self._model = cast(Any, model)
        self._encode = encode
        embedding = self._model.token_embedding.weight.detach()
        self.context = int(self._model.context_length)
        empty = encode([""])[0]
        self.start, self.end = int(empty[0]), int(empty.max())
        self.words, tokens = self._vocabulary(len(embedding), decode)
        self.tokens = tokens.to(embedding.device)
        self.vectors: Float[Tensor, "words d"] = embedding[self.tokens].float().clone()

    @classmethod
    def of_pocket(cls, clip: PocketClip) -> Language:
        def decode(tokens: list[int]) -> str:
            return str(clip.tokenizer.decode(tokens))

        return cls(clip.model, lambda texts: clip_tokens(clip.tokenizer, texts), decode)

    @classmethod
    def of_open_clip(cls, model: nn.Module, tokenizer: SimpleTokenizer) -> Language:
        return cls(model, tokenizer, tokenizer.decode)

    def encode(self, texts: Sequence[str]) -> Int[Tensor, "n context"]:
        """Start, tokens, end, zeros."""
        return self._encode(list(texts)).to(self._model.token_embedding.weight.device)

    def tokens_of(self, text: str) -> list[int]:
        """Between start and end; cut to what the model reads."""
        row = self.encode([text])[0]
        return [int(token) for token in row[1 : int(row.argmax())]]

    def features(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors."""
        with torch.no_grad():
            found: Tensor = self._model.encode_text(self.encode(texts), normalize=True)
        return found

    def read(
        self, frame: Int[Tensor, " n"], vectors: Float[Tensor, "b length d"], at: int
    ) -> Float[Tensor, "b e"]:
        """What `features` says of prompts whose words are given as vectors, with a gradient.

        Args:
            frame: Tokens up to and with the end; every token sees only those before it, so what
                follows the end is not needed.
            vectors: Stand in the frame from token `at` on.
        """
        model = self._model
        around = model.token_embedding(frame).expand(len(vectors), -1, -1)
        parts = [around[:, :at], vectors.to(around.dtype), around[:, at + vectors.shape[1] :]]
        hidden = torch.cat(parts, dim=1) + model.positional_embedding[: len(frame)]
        mask = model.attn_mask[: len(frame), : len(frame)]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=mask))[:, -1]
        project = model.text_projection
        hidden = project(hidden) if isinstance(project, nn.Module) else hidden @ project
        return F.normalize(hidden.float(), dim=-1)

    def _vocabulary(
        self, size: int, decode: Callable[[list[int]], str]
    ) -> tuple[list[str], Int[Tensor, " words"]]:
        known = [(token, decode([token]).strip()) for token in range(size)]
        known = [(token, word) for token, word in known if word and word.isprintable()]
        rows = self._encode([word for _, word in known])
        tokens = torch.tensor([token for token, _ in known])
        # The frame's own tokens have a text, and come back from it.
        whole = (rows[:, 1] == tokens) & (rows[:, 2] == self.end)
        whole &= (tokens != self.start) & (tokens != self.end)
        kept = whole.nonzero()[:, 0].tolist()
        return [known[index][1] for index in kept], tokens[kept]


def find(
    language: Language,
    pictures: Float[Tensor, "n e"],
    *,
    length: int = 8,
    steps: int = 300,
    lr: float = 0.1,
    starts: int = 8,
    template: str = PLACE,
    seed: int = 0,
) -> HardPrompt:
    """The best prompt seen on the way from several random ones, optimised side by side.

    Equal arguments find the same prompt on a CPU. The time is that of `steps` passes of `starts`
    prompts through the text half and back.

    Args:
        pictures: Embeddings of the same model, each of unit length.
        length: Words to find; one token each.
        template: Around the words, which take the place of ``{}`` in it.

    Raises:
        UsageError: A template in which ``{}`` does not stand once and between spaces, or more
            tokens than the model reads.
    """
    # Gradients are needed, whatever the caller has switched off; tensors from there are copied.
    with torch.inference_mode(False), torch.enable_grad():
        target = F.normalize(pictures.clone().float().mean(dim=0), dim=-1)
        search = _Search(language, target, template, length)
        start, best = search.run(steps=steps, lr=lr, starts=starts, seed=seed)
    text = search.text(best)
    return HardPrompt(text, search.score(text), search.score(search.text(start)))


def nearest(free: Float[Tensor, "*n d"], vectors: Float[Tensor, "words d"]) -> Int[Tensor, "*n"]:
    """Index of the word at the smallest angle to each."""
    return (F.normalize(free, dim=-1) @ F.normalize(vectors, dim=-1).T).argmax(dim=-1)


class _Search:
    """Prompts as indices of words: their texts, their scores, and the way to better ones."""

    def __init__(
        self, language: Language, target: Float[Tensor, " e"], template: str, length: int
    ) -> None:
        self.language, self.target = language, target
        self.template, self.length = template, length
        self.frame, self.at = self._framed()

    def run(
        self, *, steps: int, lr: float, starts: int, seed: int
    ) -> tuple[Int[Tensor, " length"], Int[Tensor, " length"]]:
        """The best of the prompts begun with, and the best of all."""
        vectors = self.language.vectors
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(vectors), (starts, self.length), generator=random)
        free = vectors[drawn.to(vectors.device)].requires_grad_()
        optimizer = torch.optim.AdamW([free], lr=lr, weight_decay=WEIGHT_DECAY)
        prompts, scores, free.grad = self.scored(free)
        start, reached = prompts[scores.argmax()], scores.max()
        best = start
        for _ in range(steps):
            optimizer.step()
            prompts, scores, free.grad = self.scored(free)
            candidate = prompts[scores.argmax()]
            if scores.max() > reached and self.survives(candidate):
                best, reached = candidate, scores.max()
        return start, best

    def scored(
        self, free: Float[Tensor, "b length d"]
    ) -> tuple[Int[Tensor, "b length"], Float[Tensor, " b"], Float[Tensor, "b length d"]]:
        """The nearest prompts, their scores, and the gradient of ``1 - score`` at their vectors."""
        prompts = nearest(free.detach(), self.language.vectors)
        hard = self.language.vectors[prompts].requires_grad_()
        scores = self.language.read(self.frame, hard, self.at) @ self.target
        (gradient,) = torch.autograd.grad((1 - scores).sum(), hard)
        return prompts, scores.detach(), gradient

    def text(self, prompt: Int[Tensor, " length"]) -> str:
        words = " ".join(self.language.words[index] for index in prompt.tolist())
        return self.template.replace(PLACE, words)

    def score(self, text: str) -> float:
        return float(self.language.features([text])[0].float() @ self.target)

    def survives(self, prompt: Int[Tensor, " length"]) -> bool:
        """Whether the text has the tokens that were scored: tokenizers mend what looks broken."""
        wanted = self.frame.clone()
        wanted[self.at : self.at + self.length] = self.language.tokens[prompt]
        return self.language.encode([self.text(prompt)])[0, : len(wanted)].equal(wanted)

    def _framed(self) -> tuple[Int[Tensor, " n"], int]:
        """Tokens of the template around a first word, and where the words begin."""
        # Beside other signs a word may have other tokens, so it needs spaces around it.
        if self.template.count(PLACE) != 1 or PLACE not in self.template.split():
            raise UsageError(
                f"the template {self.template!r} does not say where the words go",
                fix='write {} once in it and apart, as in "a picture in the style of {}"',
            )
        before, after = map(self.language.tokens_of, self.template.split(PLACE))
        needed = len(before) + self.length + len(after) + FRAME
        if needed > self.language.context:
            raise UsageError(
                f"{needed} tokens are more than the {self.language.context} this CLIP reads",
                fix="ask for fewer words, or shorten the template",
            )
        words = self.language.tokens[:1].tolist() * self.length
        tokens = [self.language.start, *before, *words, *after, self.language.end]
        return torch.tensor(tokens, device=self.language.tokens.device), 1 + len(before)
