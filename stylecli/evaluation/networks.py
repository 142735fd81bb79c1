"""The networks behind the metrics: what fills each, what it is shown, how it is made.

A network that is shown pictures in one way is an extractor: one vector per picture, kept in a
cache. Others are dense, and run on the pair of pictures that a row asks about, or give maps of one
picture (taps). Pocket's own ship with the package and need no file here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

# Of each file its tensors by key, or the numbers of a vocabulary's words.
Tables = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One row of the table.

    Attributes:
        needs: Files of `published.WEIGHTS` it is filled from.
        shown: Key of `pixels.PREPROCESS`; empty for a dense network.
        tapped: Key of `pixels.PREPROCESS` for its maps; empty if it is not asked for any.
        taps: Names of the places whose maps a row gets, in order.
        any_size: Its inputs differ in size, so they go through one by one.
        load: From the tensors of each file, and the first file's name for messages; None for
            pocket's.
        open: Instead, from the files themselves, where one of them is a folder.
        context: How many tokens of a text it reads.
        truncated: How many of the texts are longer; given the files, whose tensors it leaves alone.
    """

    needs: tuple[str, ...] = ()
    shown: str = ""
    tapped: str = ""
    taps: tuple[str, ...] = ()
    any_size: bool = False
    load: Callable[[Tables, str], Any] | None = None
    open: Callable[[Sequence[Path]], Any] | None = None
    context: int = 0
    truncated: Callable[[Sequence[Path], Sequence[str]], int] | None = None


# Each brings in a library that the others do not need, so each imports it when it is called.
def _lpips(trunk: str, tables: Tables, file: str) -> Any:
    from stylecli.evaluation.lpips import lpips_network

    return lpips_network(trunk, tables[0], file=file)


def _vgg19(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.vgg import vgg19

    return vgg19(tables[0], file=file)


def _inception(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.inception import fid_inception

    return fid_inception(tables[0], file=file)


def _art_inception(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.inception import art_inception

    return art_inception(tables[0], file=file)


def _clip(name: str, tables: Tables, file: str) -> Any:
    from stylecli.evaluation.clip import clip_network

    return clip_network(name, tables[0], file=file)


def _dinov2(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.dino import dinov2

    return dinov2(tables[0], file=file)


def _aesthetic(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.taste.aesthetic import aesthetic

    return aesthetic(tables[0], file=file)


def _pickscore(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.taste.pickscore import pickscore

    return pickscore(tables[0], file=file)


def _hpsv2(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.taste.hpsv2 import hpsv2

    return hpsv2(tables[0], file=file)


def _imagereward(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.taste.imagereward import imagereward

    return imagereward(tables[0], tables[1], file=file)


def _judge(paths: Sequence[Path]) -> Any:
    from stylecli.evaluation.judges.qwen import judge

    return judge(paths[0])


def _hpsv3(paths: Sequence[Path]) -> Any:
    from stylecli.evaluation.judges.hpsv3 import hpsv3
    from stylecli.evaluation.published import WEIGHTS
    from stylecli.evaluation.weights import read

    tensors, shape, instruction = paths
    return hpsv3(read(WEIGHTS["hpsv3"], tensors), shape, instruction, file=str(tensors))


def _truncated_by_clip(_: Sequence[Path], texts: Sequence[str]) -> int:
    from stylecli.evaluation.clip import truncated

    return truncated(texts)


def _truncated_by_bert(files: Sequence[Path], texts: Sequence[str]) -> int:
    return int(_prompts(files[1]).truncated(texts))


@cache
def _prompts(vocabulary: Path) -> Any:
    from stylecli.evaluation.taste.imagereward import Prompts
    from stylecli.evaluation.weights import read_vocabulary

    return Prompts(read_vocabulary(vocabulary))


def _clip_of(
    name: str, *, shown: str = "clip224", load: Callable[[Tables, str], Any] | None = None
) -> Network:
    return Network(
        needs=(name,),
        shown=shown,
        load=load or partial(_clip, name),
        context=77,
        truncated=_truncated_by_clip,
    )


def _dinov2_large(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.dino import LARGE, dinov2

    return dinov2(tables[0], file=file, config=LARGE)


def _dino(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.dino import dino

    return dino(tables[0], file=file)


def _csd(tables: Tables, file: str) -> Any:
    from stylecli.evaluation.csd import csd_network

    return csd_network(tables[0], file=file)


GRAM_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


NETWORKS: Mapping[str, Network] = {
    "lpips-alex": Network(needs=("alexnet",), load=partial(_lpips, "alex")),
    "lpips-vgg": Network(needs=("vgg16",), load=partial(_lpips, "vgg")),
    "vgg19": Network(needs=("vgg19",), tapped="vgg512", taps=GRAM_TAPS, load=_vgg19),
    "inception": Network(needs=("inception",), shown="fid299", load=_inception),
    "art-inception": Network(
        needs=("artfid",), shown="artfid512", any_size=True, load=_art_inception
    ),
    "clip-b32": _clip_of("clip-b32"),
    "clip-l14": _clip_of("clip-l14"),
    "clip-l14-336": _clip_of("clip-l14-336", shown="clip336sq"),
    "clip-h14": _clip_of("clip-h14"),
    "aesthetic": Network(needs=("aesthetic",), load=_aesthetic),
    "pickscore": _clip_of("pickscore", load=_pickscore),
    "hpsv2": _clip_of("hpsv2", shown="letter224", load=_hpsv2),
    "imagereward": Network(
        needs=("imagereward", "bert-vocabulary"),
        load=_imagereward,
        context=35,
        truncated=_truncated_by_bert,
    ),
    "hpsv3": Network(needs=("hpsv3", "qwen2-vl-7b-words", "hpsv3-instruction"), open=_hpsv3),
    "qwen2.5-vl": Network(needs=("qwen2.5-vl-7b",), open=_judge),
    "csd": Network(needs=("csd",), shown="clip224", load=_csd),
    "dinov2": Network(needs=("dinov2-base",), shown="dinov2_224", load=_dinov2),
    "dinov2-large": Network(needs=("dinov2-large",), shown="dinov2_224", load=_dinov2_large),
    # The same file as a network of its own: who asks for maps needs no vectors.
    "dinov2-maps": Network(
        needs=("dinov2-base",),
        tapped="dinov2_224",
        taps=("block3", "block6", "block9", "patches"),
        load=_dinov2,
    ),
    "dino-vitb8": Network(needs=("dino-vitb8",), tapped="dino224", taps=("keys",), load=_dino),
    "pocket-lpips": Network(),
    "pocket-embedding": Network(shown="pocket64"),
    "pocket-clip": Network(shown="pocket64"),
}
