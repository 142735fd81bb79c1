"""What a judge is told: Qwen's tokens, in the frame of a conversation about one picture."""

from __future__ import annotations

from pathlib import Path

from stylecli.errors import WeightsError

SYSTEM = "You are a helpful assistant."
BEGIN, END = "<|im_start|>", "<|im_end|>"
SEEN, SEEN_END, PIXELS = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"


class Words:
    """A tokenizer that takes everything a user wrote for plain text."""

    def __init__(self, file: Path) -> None:
        """Read `tokenizer.json`.

        Raises:
            WeightsError: It is none, or one of another family of models.
        """
        from tokenizers import Tokenizer

        self._file = file
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more special
            raise WeightsError(
                f"{file} is no tokenizer: {str(error).partition(chr(10))[0]}",
                fix="give the published folder",
            ) from error
        # A manifest that says <|im_end|> must not end the question.
        self._tokenizer.encode_special_tokens = True
        self._marks = {mark: self.mark(mark) for mark in (BEGIN, END, SEEN, SEEN_END, PIXELS)}

    def __len__(self) -> int:
        """How many tokens there are, special ones among them."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def mark(self, token: str) -> int:
        """The number of a special token.

        Raises:
            WeightsError: There is none.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise WeightsError(
                f"{self._file} knows no {token}", fix="give the tokenizer of a Qwen-VL model"
            )
        return int(found)

    def plain(self, text: str) -> list[int]:
        """A text's tokens; what looks like a special token is text, too."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def one_token(self, *texts: str) -> list[int]:
        """The numbers of those of the texts that are one token each."""
        found = [self.plain(text) for text in texts]
        return sorted({ids[0] for ids in found if len(ids) == 1})

    def opening(self, tokens: int) -> list[int]:
        """What comes before the question: who the judge is, and a picture of so many tokens."""
        marks = self._marks
        return [
            *(marks[BEGIN], *self.plain(f"system\n{SYSTEM}"), marks[END], *self.plain("\n")),
            *(marks[BEGIN], *self.plain("user\n")),
            *(marks[SEEN], *[marks[PIXELS]] * tokens, marks[SEEN_END]),
        ]

    @property
    def before_picture(self) -> int:
        """How many of the opening's tokens come before those of the picture."""
        return len(self.opening(0)) - 1

    def question(self, text: str) -> list[int]:
        """A question, and the turn to answer it."""
        marks = self._marks
        return [
            *(*self.plain(text), marks[END], *self.plain("\n")),
            *(marks[BEGIN], *self.plain("assistant\n")),
        ]
