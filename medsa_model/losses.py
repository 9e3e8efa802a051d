"""The segmentation loss, thin over MONAI."""

from typing import Self

from monai.losses import DiceCELoss
from pydantic import Field, model_validator
from torch import Tensor, nn

from medsa_model.section import Section


class Loss(Section):
    """Dice loss plus binary cross-entropy on the decoder's logits."""

    dice: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of the Dice loss."""
    cross_entropy: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of the binary cross-entropy; one of the two weights is not 0."""

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.dice == 0 and self.cross_entropy == 0:
            raise ValueError("loss.dice and loss.cross_entropy are both 0: nothing would be learnt")
        return self

    def build(self) -> nn.Module:
        """Maps logits (N, 1, h, w) and a target (N, 1, h, w) in [0, 1] to the mean loss."""
        return SegmentationLoss(self.dice, self.cross_entropy)


class SegmentationLoss(nn.Module):
    """MONAI's `DiceCELoss` with a sigmoid, one Dice per mask."""

    def __init__(self, dice: float, cross_entropy: float) -> None:
        super().__init__()
        self.loss = DiceCELoss(sigmoid=True, lambda_dice=dice, lambda_ce=cross_entropy)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the N masks."""
        value: Tensor = self.loss(logits, target)
        return value
