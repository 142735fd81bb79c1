"""Texts that are cut off are counted once each, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stylecli.engine.scoring.networks import Networks
from stylecli.engine.scoring.texts import Cut, Texts
from stylecli.evaluation.table import METRICS
from tests.evaluation.taste.tiny import WORDS

LONG = "cat " * 76


def test_a_text_counts_once_however_often_it_is_read() -> None:
    asked: list[str] = []

    def truncated(network: str, texts: Sequence[str]) -> int:
        assert network == "clip-h14"
        asked.extend(texts)
        return sum(len(text) > 20 for text in texts)

    found = Texts(truncated)
    for text in ("short", LONG, "short", LONG, "other"):
        found.look(METRICS["clip_text"], text)
    assert asked == ["short", LONG, "other"]
    assert found.cuts() == {"clip_text": Cut(1, 3, 77)}


def test_what_is_not_cut_is_not_spoken_of() -> None:
    found = Texts(lambda *_: 0)
    found.look(METRICS["clip_text"], "short")
    found.look(METRICS["pocket-clip-text"], LONG)
    assert found.cuts() == {}


def test_no_weights_are_opened_to_count(tmp_path: Path) -> None:
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(WORDS), encoding="utf-8")
    gone = {"clip-h14": tmp_path / "gone", "imagereward": tmp_path / "gone"}
    networks = Networks({**gone, "bert-vocabulary": words}, torch.device("cpu"))
    texts = ["cat " * 30, "cat " * 40, LONG]
    assert networks.truncated("clip-h14", texts) == 1
    assert networks.truncated("imagereward", texts) == 2
