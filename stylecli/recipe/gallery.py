"""Settings of StyleGallery (CVPR 2026): how pictures are cut up, matched, and restyled."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stylecli.recipe.strict import AttentionLayers, Count, Levels, Positive, Strict, Unit

Distance = Annotated[float, Field(ge=0.0, le=1000.0)]
Lambda = Annotated[float, Field(ge=0.0, le=1000.0)]
Text = Annotated[str, Field(min_length=1)]


class Dfcc(Strict):
    """How a picture is cut into regions of equal diffusion features (section DFCC)."""

    steps: Annotated[int, Field(ge=0, le=50)] = Field(
        15, description="Levels of the inversion that features are averaged over; 0 is the latent."
    )
    block: Annotated[int, Field(ge=0, le=3)] = Field(
        2, description="Decoder block whose output the features are."
    )
    components: Positive = Field(60, description="Of the principal component analysis.")
    pca: Literal["exact", "random"] = Field(
        "exact", description="From the covariance, or the randomised one of the authors' code."
    )
    k_min: Annotated[int, Field(ge=2, le=64)] = Field(2, description="Fewest clusters tried.")
    k_max: Annotated[int, Field(ge=2, le=64)] = Field(10, description="Most clusters tried (K).")
    k: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Number of clusters; default: that of best silhouette."
    )
    k_means: Literal["plusplus", "random"] = Field(
        "plusplus", description="First centroids: k-means++, or cells drawn as the authors do."
    )
    merge: Literal["closest", "ordered"] = Field(
        "closest", description="Pairs are united closest first, or in the order of their numbers."
    )
    merge_distance: Distance = Field(
        0.85, description="Clusters whose mean latents lie closer become one region."
    )
    segment_distance: Distance = Field(0.5, description="The same for segments.")
    depth: Text = Field(
        "auto",
        description="Hub id or folder of a depth model that splits regions; none goes without; "
        "auto is none on pocket and Depth Anything V2 small elsewhere.",
    )
    depth_resize: Literal["area", "nearest"] = Field(
        "area", description="How depth comes to the latent's size; nearest also keeps outliers."
    )
    depth_span: Unit = Field(0.75, description="A region is split that spans as much depth.")
    depth_distance: Distance = Field(
        0.35, description="Halves are united again whose mean latents lie closer than this"
    )
    depth_gap: Unit = Field(0.3, description="and whose mean depths lie closer than this.")
    segmenter: Text = Field(
        "none",
        description="Hub id or folder of a SAM 2 whose segments take the clusters' place; objects "
        "takes what the model's own features show to be things, and needs no other network.",
    )
    min_cells: Count = Field(
        20, description="Smaller pieces join a neighbour; of 64 x 64 cells, others in proportion."
    )
    sweep: Literal["repeated", "once"] = Field(
        "repeated", description="Small pieces join until none is left, or in a single look."
    )
    mask_mode: Literal["override", "only"] = Field(
        "override", description="Painted masks lie on the clusters, or nothing is clustered."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.k_min > self.k_max:
            raise ValueError(
                f"dfcc.k_min is {self.k_min}, beyond dfcc.k_max, which is {self.k_max}"
            )
        return self


class Matching(Strict):
    """Which region of which reference a region of the content takes its style from."""

    statistics_weight: Lambda = Field(0.25, description="Of the features' statistics (lambda 1).")
    semantics_weight: Lambda = Field(1.0, description="Of what is shown (lambda 2).")
    geometry_weight: Lambda = Field(0.125, description="Of place and size (lambda 3).")
    statistics: Literal["attention", "transformer", "none"] = Field(
        "attention",
        description="Of features that looked at their region; or behind the untrained transformer "
        "of the authors' code.",
    )
    features: Literal["standardised", "raw"] = Field(
        "standardised", description="Of which features statistics are taken."
    )
    semantics: Literal["auto", "dinov2", "clip", "features", "none"] = Field(
        "auto",
        description="What tells what a region shows: DINOv2, pocket-clip, or the diffusion model's "
        "own features; auto is clip on pocket and dinov2 elsewhere.",
    )
    semantics_model: Text | None = Field(
        None, description="Hub id or folder of the DINOv2; default: facebook/dinov2-base."
    )
    semantics_view: Literal["whole", "centre"] = Field(
        "whole", description="DINOv2 sees the whole picture, or the centre as the authors' does."
    )
    circle: Literal["enclosing", "centroid"] = Field(
        "enclosing", description="Smallest circle around a region, or one around its centroid."
    )
    diversity: Unit = Field(0.0, description="What a region's score loses each time it was chosen.")


class Gallery(Strict):
    """How latents are led to the style of their regions (sections RSL and GCL)."""

    profile: Literal["sound", "paper", "reference"] | None = Field(
        None,
        description="Settings beneath those given beside it, in dfcc and matching too: ours; with "
        "the paper's guided sampling; or what the authors' code does.",
    )
    preset: Literal["base", "lcm", "hyper"] | None = Field(
        None,
        description="Timesteps, updates and weights beneath those given beside it: 150 updates, or "
        "84 with an accelerator.",
    )
    mode: Literal["optimize", "guided"] = Field(
        "optimize",
        description="Latents are optimised over the timesteps, or sampled and corrected at each.",
    )
    steps: Levels = Field(150, description="Timesteps, noisiest first.")
    timesteps: Literal["leading", "trailing", "lcm"] = Field(
        "leading", description="How they are spread."
    )
    iterations: Positive = Field(1, description="Updates at each timestep.")
    lr: float = Field(0.05, gt=0, le=10, description="Adam's learning rate, constant.")
    style_weight: Lambda = Field(1.0, description="How much the style counts (RSL); 0 is off.")
    content_weight: Lambda = Field(
        0.26, description="How much the content's queries count (GCL, lambda c); 0 is off."
    )
    attn_scale: float = Field(
        1.5, gt=0, le=100, description="Factor of the target's logits; above 1 it is sharper."
    )
    layers: AttentionLayers = Field(
        "last_six", description="Decoder layers whose self-attention is compared."
    )
    mask_mode: Literal["exclude", "zero"] = Field(
        "exclude",
        description="A region sees its match's keys alone, or all others as zeros (the authors').",
    )
    content_attn: Literal["full", "region"] = Field(
        "full", description="What is compared attended to everything, or to its own region."
    )
    masks: bool = Field(True, description="Off, all regions see every key of all references.")
    key_masks: Literal["area", "nearest"] = Field(
        "area", description="How regions come to the size of a layer."
    )
    init: Literal["inv_chnorm", "inv", "inv_instnorm", "content", "noise", "adain"] = Field(
        "inv_chnorm",
        description="First latents of mode optimize; inv are those of the content's inversion.",
    )
    noise: Literal["inversion", "random"] = Field(
        "inversion", description="Noise of guided mode's references: their own, or drawn."
    )
    refresh: Positive = Field(
        1, description="Timesteps from one look at content and references to the next."
    )
    accelerator: Text | None = Field(
        None, description="A LoRA for few steps (LCM, Hyper-SD), merged while latents are led."
    )
    fit: Literal["scale", "squash"] = Field(
        "scale", description="Pictures keep their shape, or become squares as the authors' do."
    )
    alpha: Literal["white", "drop"] = Field(
        "white", description="Transparent pictures lie on white, or lose their alpha."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory, more work.")
    mask: Text | None = Field(
        None,
        description="The content's regions, painted: a picture of one colour each, black is free; "
        "{content} in its name is that of the photograph.",
    )
    ref_masks: Text | None = Field(
        None, description="The same for references, {style} their name; those without are cut."
    )
    match: tuple[Text, ...] = Field(
        (),
        description="CONTENT=REFERENCE such as sky=ref3:2+5, 4=keep; or a report's JSON, edited.",
    )
    only: tuple[Text, ...] = Field((), description="Regions to restyle; the others are kept.")
    exclude: tuple[Text, ...] = Field((), description="Regions of references that none may choose.")
    strength: tuple[Text, ...] = Field(
        (), description="REGION=FACTOR: what a region's style counts for, such as sky=0.5."
    )

    @model_validator(mode="after")
    def _accelerated(self) -> Self:
        if self.preset in ("lcm", "hyper") and self.accelerator is None:
            raise ValueError(
                f"gallery.preset {self.preset} takes a LoRA for few steps, and "
                "gallery.accelerator names none"
            )
        return self
