"""How far from the true picture, where there is one."""

from __future__ import annotations

from stylecli.evaluation import content, metrics, palette
from stylecli.evaluation.catalogue.asking import lpips_of, pocket_lpips_of
from stylecli.evaluation.metric import Row, of_target


def t_lpips(row: Row) -> float:
    return lpips_of(row, "lpips-alex", "target")


def t_lpips_vgg(row: Row) -> float:
    return lpips_of(row, "lpips-vgg", "target")


def t_ssim(row: Row) -> float:
    return float(content.ssim(row.picture("output"), row.picture("target")))


def t_edge(row: Row) -> float:
    return float(metrics.edge_correlation(row.picture("output"), row.picture("target")))


def t_palette(row: Row) -> float:
    return float(palette.color_sw(row.picture("output"), row.picture("target")))


def t_pocket_lpips(row: Row) -> float:
    return pocket_lpips_of(row, "target")


ROWS = (
    of_target(
        "t_lpips",
        "lower",
        "LPIPS, AlexNet, to the target",
        low=0,
        uses=("lpips-alex",),
        compute=t_lpips,
    ),
    of_target(
        "t_lpips_vgg",
        "lower",
        "LPIPS, VGG16, to the target",
        low=0,
        uses=("lpips-vgg",),
        compute=t_lpips_vgg,
    ),
    of_target(
        "t_ssim", "higher", "structural similarity to the target", low=-1, high=1, compute=t_ssim
    ),
    of_target(
        "t_edge", "higher", "correlation of edges with the target's", low=-1, high=1, compute=t_edge
    ),
    of_target("t_palette", "lower", "color_sw to the target", low=0, compute=t_palette),
    of_target(
        "t-pocket-lpips",
        "lower",
        "pocket-lpips to the target",
        low=0,
        uses=("pocket-lpips",),
        compute=t_pocket_lpips,
    ),
)
