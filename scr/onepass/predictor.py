"""The network that says what text will attend to, from what the decoder is given."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._hooks import ImagePatches, PatchGrid, exact
from .card import PredictorCard

HIDDEN = 256
"""Width of the hidden layer (the paper's)."""
STATES = 400
"""Numbers that are made of states, at most: with them the two layers have 107,777 parameters, the paper's "≈ 120 K"."""
_WAVES = (1, 2, 4, 8)
PLACE = 3 + 4 * len(_WAVES)
"""Numbers that say where a patch lies."""
# Whatever a user's default device and number format are.
_PLAIN: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}


class Predictor(nn.Module):
    """A two-layer network of hidden width 256 that predicts the attention to each patch of an image.

    Its inputs, each with mean 0 and deviation 1 over the patches that it was trained on:

    * the patch's layer-0 state, which is the decoder's merged input embedding. One of more than 400 numbers is brought
      down to them by a fixed random projection, drawn once by the training's seed and stored with the network; it is
      not trained and not counted as parameters;
    * with `text`, the mean of the layer-0 states of the text after the image; then either has 200 numbers at most;
    * where the patch lies in its grid: rotary positions come inside the attention, so that no layer-0 state says it.
      (The paper does not speak of it. On the lab, without it fewer sources are shared than with the mean map.)

    Attributes:
        card: what it was made for.
    """

    projection: Float[Tensor, "width states"] | None
    mean: Float[Tensor, "inputs"]
    deviation: Float[Tensor, "inputs"]

    def __init__(self, card: PredictorCard, seed: int = 0) -> None:
        """Start with random weights, and inputs as they come.

        Args:
            card: what it is made for.
            seed: of the weights and the projection; torch's own generator stays as it is.
        """
        super().__init__()
        self.card = card
        kinds = 1 + card.text
        states = min(card.width, STATES // kinds)
        inputs = kinds * states + PLACE
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would begin the draws of every GPU anew, too.
            torch.default_generator.manual_seed(seed)
            self.first, self.second = nn.Linear(inputs, HIDDEN, **_PLAIN), nn.Linear(HIDDEN, 1, **_PLAIN)
            drawn = torch.randn(card.width, states, **_PLAIN) / math.sqrt(states)
        self.register_buffer("projection", None if states == card.width else drawn)
        self.register_buffer("mean", torch.zeros(inputs, **_PLAIN))
        self.register_buffer("deviation", torch.ones(inputs, **_PLAIN))

    def project(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... states"]:
        """States as the network takes them: float32, and no wider than it is made for."""
        states = states.float()
        return states if self.projection is None else states @ self.projection

    def inputs(
        self,
        patches: Float[Tensor, "patches states"],
        grids: Sequence[PatchGrid],
        text: Float[Tensor, "states"] | None,
    ) -> Float[Tensor, "patches inputs"]:
        """What the network reads of one image, not yet brought to mean 0.

        Args:
            patches: projected states.
            grids: of the image.
            text: projected mean of the text's; not used by a network without `text`.
        """
        parts = [patches]
        if self.card.text:
            assert text is not None
            parts.append(text.expand(len(patches), -1))
        return torch.cat([*parts, places(tuple(grids)).to(patches.device)], dim=1)

    def forward(self, inputs: Float[Tensor, "patches inputs"]) -> Float[Tensor, "patches"]:
        """The logarithm of each patch's attention, in units of `card.spread` and up to a constant of the image."""
        hidden = nn.functional.gelu(self.first((inputs - self.mean) / self.deviation))
        scores: Tensor = self.second(hidden)
        return scores[:, 0]

    def predict(self, inputs: Sequence[Float[Tensor, "patches inputs"]]) -> list[Float[Tensor, "patches"]]:
        """Maps of images, each of sum 1; on the CPU."""
        # Under a user's autocast patches would tie.
        with exact(inputs[0].device):
            scores = self(torch.cat(list(inputs))).cpu().double() * self.card.spread
        return [one.softmax(dim=0).float() for one in scores.split([len(one) for one in inputs])]

    @property
    def parameters_trained(self) -> int:
        """How many numbers of it are trained."""
        return sum(one.numel() for one in self.parameters())


def image_inputs(
    predictor: Predictor, image: ImagePatches, embeds: Float[Tensor, "seq width"]
) -> Float[Tensor, "patches inputs"]:
    """What a network reads of one image of a prefill, from its row of the decoder's merged input embeddings."""
    patches = predictor.project(embeds[image.positions.to(embeds.device)])
    return predictor.inputs(patches, image.grids, text_mean(predictor, image, embeds))


def text_mean(
    predictor: Predictor, image: ImagePatches, embeds: Float[Tensor, "seq width"]
) -> Float[Tensor, "states"] | None:
    """The projected mean of the states of the text after an image, for a network that reads it; zeros without any."""
    if not predictor.card.text:
        return None
    text = embeds[image.text.to(embeds.device)].float()
    return predictor.project(text.sum(dim=0) / max(1, len(text)))


@functools.lru_cache(maxsize=64)  # prompts repeat their grids
def places(grids: tuple[PatchGrid, ...]) -> Float[Tensor, "patches place"]:
    """Where each patch lies: its row and column from −1 to 1, waves of both, and which of the grids it is in."""
    found = []
    for number, grid in enumerate(grids):
        lines = [torch.linspace(-1, 1, size, **_PLAIN) if size > 1 else torch.zeros(1, **_PLAIN) for size in grid]
        row, column = torch.meshgrid(*lines, indexing="ij")
        where = torch.stack([row, column], dim=-1).flatten(end_dim=1)
        waves = [function(where * (math.pi / 2 * wave)) for wave in _WAVES for function in (torch.sin, torch.cos)]
        which = torch.full((len(where), 1), number / max(1, len(grids) - 1), **_PLAIN)
        found.append(torch.cat([where, *waves, which], dim=1))
    return torch.cat(found)


def untrained(model_type: str, width: int) -> Predictor:
    """A network of random weights, equal every time: what one costs, and what one is worth that has learnt nothing."""
    return Predictor(PredictorCard(model_type=model_type, width=width, text=False, spread=1.0)).eval()
