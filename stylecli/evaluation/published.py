"""The published weight files that metrics are computed with: what each is, and whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One file that a metric needs, or a folder that `save_pretrained` would write.

    Attributes:
        name: As in ``style models pull metrics/NAME``.
        family: The folder it lies in below a weights folder.
        what: In words, for messages.
        sha256: Digest of the file, or its first digits where only those are published; empty where
            none is.
        url: Where the authors keep it.
        repository: The hub repository that holds it, under `hub_file` if that is another name.
        holds: Of a folder, which `file` names then: patterns, each of which some file in it has.
    """

    name: str
    family: str
    file: str
    what: str
    licence: str
    megabytes: int
    sha256: str = ""
    url: str = ""
    repository: str = ""
    hub_file: str = ""
    holds: tuple[str, ...] = ()


_TORCHVISION = "https://download.pytorch.org/models/"
_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"

WEIGHTS: Mapping[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name="inception",
            family="inception",
            file="weights-inception-2015-12-05-6726825d.pth",
            what="FID's Inception-v3, ported from TensorFlow",
            licence="Apache-2.0",
            megabytes=96,
            sha256="6726825d",
            url=_FIDELITY + "weights-inception-2015-12-05-6726825d.pth",
        ),
        Weights(
            name="artfid",
            family="artfid",
            file="art_inception.pth",
            what="art-Inception, trained to tell artists and styles",
            licence="MIT",
            megabytes=100,
            repository="matthias-wright/art_inception",
        ),
        Weights(
            name="alexnet",
            family="lpips",
            file="alexnet-owt-7be5be79.pth",
            what="AlexNet, the trunk of LPIPS",
            licence="BSD-3-Clause",
            megabytes=244,
            sha256="7be5be79",
            url=_TORCHVISION + "alexnet-owt-7be5be79.pth",
        ),
        Weights(
            name="vgg16",
            family="lpips",
            file="vgg16-397923af.pth",
            what="VGG16, the other trunk of LPIPS",
            licence="BSD-3-Clause",
            megabytes=553,
            sha256="397923af",
            url=_TORCHVISION + "vgg16-397923af.pth",
        ),
        Weights(
            name="vgg19",
            family="vgg",
            file="vgg19-dcbb9e9d.pth",
            what="VGG19, for Gram matrices and block matching",
            licence="BSD-3-Clause",
            megabytes=575,
            sha256="dcbb9e9d",
            url=_TORCHVISION + "vgg19-dcbb9e9d.pth",
        ),
        Weights(
            name="clip-b32",
            family="clip",
            file="ViT-B-32-quickgelu.safetensors",
            what="CLIP ViT-B/32 of OpenAI",
            licence="MIT",
            megabytes=605,
            repository="timm/vit_base_patch32_clip_224.openai",
            hub_file="open_clip_model.safetensors",
        ),
        Weights(
            name="clip-l14",
            family="clip",
            file="ViT-L-14-quickgelu.safetensors",
            what="CLIP ViT-L/14 of OpenAI",
            licence="MIT",
            megabytes=1710,
            repository="timm/vit_large_patch14_clip_224.openai",
            hub_file="open_clip_model.safetensors",
        ),
        Weights(
            name="clip-l14-336",
            family="clip",
            file="ViT-L-14-336-quickgelu.safetensors",
            what="CLIP ViT-L/14 of OpenAI at 336 px, for CMMD",
            licence="MIT",
            megabytes=1712,
            repository="timm/vit_large_patch14_clip_336.openai",
            hub_file="open_clip_model.safetensors",
        ),
        Weights(
            name="clip-h14",
            family="clip",
            file="ViT-H-14.safetensors",
            what="OpenCLIP ViT-H/14, whose text half Stable Diffusion 2 listens to",
            licence="MIT",
            megabytes=3944,
            repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            hub_file="open_clip_model.safetensors",
        ),
        Weights(
            name="aesthetic",
            family="preference",
            file="sac+logos+ava1-l14-linearMSE.pth",
            what="LAION's aesthetic predictor, a head for CLIP ViT-L/14",
            licence="Apache-2.0",
            megabytes=4,
            sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
            "sac+logos+ava1-l14-linearMSE.pth",
        ),
        Weights(
            name="pickscore",
            family="preference",
            file="pickscore-v1/model.safetensors",
            what="PickScore v1, CLIP ViT-H/14 tuned on people's picks",
            licence="see its model card",
            megabytes=3944,
            repository="yuvalkirstain/PickScore_v1",
            hub_file="model.safetensors",
        ),
        Weights(
            name="hpsv2",
            family="preference",
            file="HPS_v2.1_compressed.pt",
            what="HPS v2.1, CLIP ViT-H/14 tuned on people's preferences",
            licence="Apache-2.0",
            megabytes=3944,
            repository="xswu/HPSv2",
        ),
        Weights(
            name="imagereward",
            family="preference",
            file="ImageReward.pt",
            what="ImageReward, BLIP tuned on people's ratings",
            licence="Apache-2.0",
            megabytes=1790,
            repository="THUDM/ImageReward",
        ),
        Weights(
            name="bert-vocabulary",
            family="preference",
            file="bert-base-uncased/vocab.txt",
            what="BERT's words, which ImageReward reads",
            licence="Apache-2.0",
            megabytes=1,
            sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            repository="google-bert/bert-base-uncased",
            hub_file="vocab.txt",
        ),
        Weights(
            name="dinov2-base",
            family="dino",
            file="dinov2-base/model.safetensors",
            what="DINOv2 ViT-B/14",
            licence="Apache-2.0",
            megabytes=346,
            repository="facebook/dinov2-base",
            hub_file="model.safetensors",
        ),
        Weights(
            name="dinov2-large",
            family="dino",
            file="dinov2-large/model.safetensors",
            what="DINOv2 ViT-L/14",
            licence="Apache-2.0",
            megabytes=1217,
            repository="facebook/dinov2-large",
            hub_file="model.safetensors",
        ),
        Weights(
            name="dino-vitb8",
            family="dino",
            file="dino-vitb8/model.safetensors",
            what="DINO ViT-B/8",
            licence="Apache-2.0",
            megabytes=343,
            repository="facebook/dino-vitb8",
            hub_file="model.safetensors",
        ),
        Weights(
            name="csd",
            family="csd",
            file="csd-vit-l.pth",
            what="CSD, CLIP ViT-L/14 trained on style; the file also holds its optimiser",
            licence="CC-BY-4.0",
            megabytes=2440,
            repository="tomg-group-umd/CSD-ViT-L",
            hub_file="pytorch_model.bin",
        ),
        Weights(
            name="qwen2.5-vl-7b",
            family="vlm",
            file="Qwen2.5-VL-7B-Instruct",
            what="the judge, who answers questions about pictures",
            licence="Apache-2.0",
            megabytes=16600,
            repository="Qwen/Qwen2.5-VL-7B-Instruct",
            holds=("config.json", "tokenizer.json", "*.safetensors"),
        ),
        Weights(
            name="hpsv3",
            family="preference",
            file="HPSv3.safetensors",
            what="HPSv3, Qwen2-VL-7B tuned on people's preferences",
            licence="MIT",
            megabytes=16600,
            repository="MizzenAI/HPSv3",
        ),
        Weights(
            name="qwen2-vl-7b-words",
            family="preference",
            file="Qwen2-VL-7B-Instruct",
            what="the shape and the words of Qwen2-VL-7B-Instruct, which HPSv3 is made of",
            licence="Apache-2.0",
            megabytes=7,
            repository="Qwen/Qwen2-VL-7B-Instruct",
            holds=("config.json", "tokenizer.json"),
        ),
        Weights(
            name="hpsv3-instruction",
            family="preference",
            file="hpsv3/dataset/data_collator_qwen.py",
            what="the instruction that HPSv3 was trained with, in its authors' code",
            licence="MIT",
            megabytes=1,
            sha256="b0f936e89f8df652c67d470412e1d9afd27aa711dec85724c19989ac91e7a3e3",
            url="https://raw.githubusercontent.com/MizzenAI/HPSv3/main/hpsv3/dataset/"
            "data_collator_qwen.py",
        ),
    )
}
