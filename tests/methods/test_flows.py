"""DiffStyler on flows: the same loop over another schedule, against steps written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.flow_model import FlowBackbone
from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.lora import LoraFile
from stylecli.methods.diffstyler import Background, Look, Region, paint, transfer
from stylecli.recipe.schema import Injection
from tests import flows
from tests.small import lora, relative

STEPS = 4
NOTHING = Injection(
    feature_layers="none", attn_layers="none", feature_steps=0, attn_steps=0, attn_tail="hard"
)
SOME = Injection(feature_layers=[1], attn_layers="all", feature_steps=3, attn_steps=2)
WORDS, NEGATIVE = "red ink", "grey"


class Styled:
    """A tiny flow with two LoRAs and the trajectory of one content."""

    def __init__(self, kind: str) -> None:
        self.model: FlowBackbone = flows.backbone(kind)
        self.adapters = Adapters(self.model.unet)
        for seed, name in enumerate(("red", "blue")):
            tensors = lora(self.model.unet, seed=seed)
            state = {f"transformer.{key}": value for key, value in tensors.items()}
            self.adapters.add(name, LoraFile(state, {}, {}, {}))
        schedule = self.model.schedule
        clean = flows.latents(self.model)
        predict = null_prediction(self.model, 1)
        self.path: Trajectory = invert(clean, predict, schedule, schedule.levels(STEPS))

    def transfer(self, look: Look, injection: Injection) -> Tensor:
        return transfer(self.model, self.adapters, self.path, look, injection)

    def paint(self, regions: list[Region], background: Background | None = None) -> Tensor:
        found = [self.model, self.adapters, self.path, regions, SOME]
        return paint(*found, background=background)


@pytest.fixture(scope="module", params=flows.KINDS)
def styled(request: pytest.FixtureRequest) -> Styled:
    return Styled(request.param)


def look(name: str | None = "red", guidance: float = 1.0, words: str = WORDS) -> Look:
    return Look(
        weights={name: 0.7} if name else {}, prompt=words, negative=NEGATIVE, guidance=guidance
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_without_injection_it_is_eulers_method_under_the_lora(
    styled: Styled, guidance: float
) -> None:
    model, levels = styled.model, styled.path.levels
    latents = styled.path.latents[-1]
    for k in range(STEPS, 0, -1):
        sigma, after = (1 - levels.alphas[level] for level in (k, k - 1))
        with styled.adapters.use({"red": 0.7}), torch.inference_mode():
            answers = [
                model.flow.predict(latents, torch.tensor([sigma]), model.flow.encode_prompt([text]))
                for text in (WORDS, NEGATIVE)
            ]
        velocity = answers[1] + guidance * (answers[0] - answers[1])
        latents = latents + (after - sigma) * model.flow.answers * velocity
    assert relative(styled.transfer(look(guidance=guidance), NOTHING), latents) < 1e-4


def test_the_contents_own_look_replays_its_trajectory(styled: Styled) -> None:
    """With the base model and no words, whatever is injected is what would be there anyway."""
    model = styled.model
    back = reconstruct(styled.path, null_prediction(model, 1), model.schedule)
    own = look(None, words="")
    assert relative(styled.transfer(own, NOTHING), back) < 1e-5
    # The source looks at the stored latents, which the way back leaves step by step.
    first = Injection(feature_layers=[1], attn_layers="all", feature_steps=1, attn_steps=1)
    hard = first.model_copy(update={"attn_tail": "hard"})
    assert relative(styled.transfer(own, hard), back) < 1e-5


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "change",
    [
        {"feature_steps": 0},
        {"attn_steps": 0, "attn_tail": "hard"},
        {"feature_layers": [0]},
        {"attn_layers": [1]},
        {"feature_tap": "output"},
        {"attn_mix": "qk"},
        {"attn_tail": "full"},
        {"source": "denoise"},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_setting_of_injection_does_something(
    styled: Styled, change: dict[str, object]
) -> None:
    usual = styled.transfer(look(), SOME)
    other = styled.transfer(look(), Injection(**{**SOME.model_dump(), **change}))
    assert not torch.equal(other, usual)
    assert torch.isfinite(other).all()


@pytest.mark.mostly_slow
def test_a_region_leaves_the_rest_as_it_was(styled: Styled) -> None:
    clean = styled.path.latents[0]
    share = torch.zeros(1, 1, *clean.shape[-2:])
    share[..., : clean.shape[-2] // 2, :] = 1
    region = Region(looks=[look()] * STEPS, share=share)
    found = styled.paint([region], Background(share=1 - share))
    outside = (1 - share).expand_as(clean).bool()
    assert torch.equal(found[outside], clean[outside])
    assert relative(found[~outside], clean[~outside]) > 1e-3


@pytest.mark.mostly_slow
def test_styles_switch_along_the_steps_and_their_order_matters(styled: Styled) -> None:
    red, blue = look("red"), look("blue")
    one, other = (
        styled.paint([Region(looks=[first] * 2 + [last] * 2)])
        for first, last in ((red, blue), (blue, red))
    )
    assert relative(one, other) > 1e-3
    assert torch.equal(styled.paint([Region(looks=[red] * STEPS)]), styled.transfer(red, SOME))


@pytest.mark.mostly_slow
def test_rows_with_loras_of_their_own_are_passes_of_one_after_another(styled: Styled) -> None:
    from stylecli.methods.diffstyler import Version, paint_versions

    versions = [Version(regions=[Region(looks=[look(name)] * STEPS)]) for name in ("red", "blue")]
    given = (styled.model, styled.adapters, styled.path, versions, SOME)
    for one, other in zip(
        paint_versions(*given), paint_versions(*given, in_rows=True), strict=True
    ):
        assert relative(one, other) < 1e-4
