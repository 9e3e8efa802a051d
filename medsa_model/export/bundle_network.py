"""The network of a MONAI bundle: `network_def` of its `configs/inference.json`.

MONAI has the slices of a volume last, (B, C, H, W, D); this project has them before the rows.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from medsa_model.errors import ConfigError
from medsa_model.prompts import Prompt
from medsa_model.sam import MedSam
from medsa_model.task import Task
from medsa_model.trained import build_trained, read_trained
from medsa_model.volume_chunks import encode_in_chunks


class Network(nn.Module):
    """An adapted model that gives all structures at once, and what it was trained for."""

    def __init__(self, model: MedSam, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, image: Tensor, prompt: Prompt | None = None) -> Tensor:
        """Logits of pictures in the model frame, S x S pixels, float32 in [0, 255].

        `image (B, 3, S, S)` gives (B, K, S, S), `(B, 3, S, S, D)` gives (B, K, S, S, D): a channel
        for each of the K structures, asked for by name, or one channel without any prompt. With a
        `prompt`, of B or B * D rows, one channel. Long volumes are encoded in the chunks of the
        task, for answers and not for training. Raises `ConfigError` without a prompt when the
        adapters were trained on clicks and boxes alone.
        """
        if image.dim() == 4:
            return self._channels(self.model.encode(image), prompt, 1)
        depth, cut = image.shape[-1], self.task.volume
        slices_first = image.permute(0, 1, 4, 2, 3)
        parts = [encode_in_chunks(self.model, v, cut.slices, cut.overlap) for v in slices_first]
        embedding = torch.cat(parts)
        logits = self._channels(embedding, prompt, depth)
        volumes: Tensor = logits.unflatten(0, (-1, depth))
        return volumes.permute(0, 2, 3, 4, 1)

    def _channels(self, embedding: Tensor, prompt: Prompt | None, depth: int) -> Tensor:
        prompts = self._by_itself(embedding) if prompt is None else [prompt]
        found = (self.model.decode(embedding, each, depth)[0] for each in prompts)
        return torch.cat([self.model.to_frame(logits) for logits in found], 1)

    def _by_itself(self, embedding: Tensor) -> list[Prompt]:
        """One prompt for each channel, without anything drawn."""
        count, device = len(embedding), embedding.device
        points = torch.zeros(count, 0, 2, device=device)
        labels = torch.zeros(count, 0, dtype=torch.int64, device=device)
        if self.task.named:
            numbers = range(len(self.task.structures))
            classes = (torch.full((count,), number, device=device) for number in numbers)
            return [Prompt(points, labels, None, each) for each in classes]
        if "none" in self.task.prompts:
            return [Prompt(points, labels)]
        raise ConfigError(
            f"the network was trained with the prompts {', '.join(self.task.prompts)} and has no "
            "answer without one: give it a prompt"
        )


def network(adapter: str, checkpoint: str | None = None) -> Network:
    """The network of the folder `adapter` on the processor, for inference, its caller's own.

    `checkpoint` is the backbone's file, of the embedded one none. Raises `CheckpointError` when it
    is not the one that the adapters were trained on.
    """
    trained = read_trained(Path(adapter))
    file = Path(checkpoint) if checkpoint else None
    built = build_trained(trained, file, torch.device("cpu"))
    return Network(built.model, trained.task).eval()
