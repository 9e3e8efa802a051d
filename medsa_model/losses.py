"""The segmentation loss, thin over MONAI."""

from monai.losses import DiceCELoss
from pydantic import Field
from torch import Tensor, nn

from medsa_model.section import Section


class Loss(Section):
    """Dice loss plus binary cross-entropy on the decoder's logits."""

    dice: float = Field(1.0, ge=0)
    """Weight of the Dice loss."""
    cross_entropy: float = Field(1.0, ge=0)
    """Weight of the binary cross-entropy."""

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
