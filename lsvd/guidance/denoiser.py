"""A pipeline's network with low-rank guidance: its prediction for the prompt is moved towards the targets.

The pipeline's own guidance then does the rest, whatever its formula.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lsvd.backbones.families import Layout, pack, unpack
from lsvd.guidance.conditioning import Conditioning, Network, NetworkCall, Path, dimension, take
from lsvd.guidance.settings import LowRank
from lsvd.guidance.triplets import check_rank, largest, leading


class GuidedNetwork(Network):
    """A network that predicts s + sum_j c_j P_k(g_j - s) for the prompt within a window of steps.

    s and g_j are its predictions for the source prompt and target j, P_k keeps the leading triplets, c_j are the
    strengths. Outside the window, or with strengths of 0, it is the network itself. Within the window, the targets'
    pictures are further rows of the same batch where shapes allow it. A whole difference at strength 1 needs no further
    rows: the target takes the source's place.

    place: the current step of the schedule, to be set before each step. whole: whether pictures of a batch depend on
    their place in it, as with perturbed-attention guidance. The batch is then run again for each target.
    """

    def __init__(
        self,
        network: Any,
        conditioning: Conditioning,
        strengths: Sequence[float],
        settings: LowRank,
        window: range,
        layout: Layout,
        shape: tuple[int, int, int],
        whole: bool = False,
    ):
        super().__init__(network)
        self.conditioning, self.settings, self.window, self.whole = conditioning, settings, window, whole
        self.targets = [(target, c) for target, c in zip(conditioning.targets, strengths, strict=True) if c]
        self.layout, self.shape = layout, shape
        height = shape[1] * (shape[0] if settings.channels == "together" else 1)
        full = min(height, shape[2])
        self.rank = full if settings.rank is None else check_rank(settings.rank, full)
        self.complete = self.rank == full and settings.entries is None
        self.begin(0)

    def begin(self, place: int) -> None:
        """Start a run at a step of the schedule."""
        self.place = place
        self._starts: dict[tuple[int, int], Tensor | None] = {}

    def __call__(self, *args, **kwargs):
        if not self.targets or self.place not in self.window:
            return self.network(*args, **kwargs)
        call = NetworkCall.of(self.network, args, kwargs)
        blocks = self.conditioning.blocks_of(call)
        if not blocks:
            return self.network(*args, **kwargs)
        if self.complete and len(self.targets) == 1 and self.targets[0][1] == 1:
            switched = self._switched(call, blocks, self.targets[0][0])
            if switched is not None:
                return call.run(self.network, switched)
        output, others = self._predictions(call, blocks)
        parts = list(_prediction(output).split(self.conditioning.count))
        for place, block in enumerate(blocks):
            parts[block] = self._moved(parts[block], [prediction[place] for prediction in others], block)
        return _with_prediction(output, torch.cat(parts))

    def _predictions(self, call: NetworkCall, blocks: Sequence[int]) -> tuple[Any, list[list[Tensor]]]:
        """The network's output of a call, and each target's prediction for each of the blocks."""
        if self.whole:
            switches = [self._switched(call, blocks, target) for target, _ in self.targets]
            if any(leaves is None for leaves in switches):
                raise ValueError(
                    "source and target are read at different lengths here: give prompts of the same length"
                )
            output = call.run(self.network)
            runs = [_prediction(call.run(self.network, leaves)).split(self.conditioning.count) for leaves in switches]
            return output, [[run[block] for block in blocks] for run in runs]
        parts = [call.some(self.conditioning.block(b), target) for target, _ in self.targets for b in blocks]
        joint = _joined(call, parts)
        if joint is None:  # prompts of other lengths
            output = call.run(self.network)
            further = [_prediction(call.run(self.network, part)) for part in parts]
        else:
            output = call.run(self.network, joint)
            both = _prediction(output)
            output = _with_prediction(output, both[: call.rows])
            further = list(both[call.rows :].split(self.conditioning.count))
        n = len(blocks)
        return output, [further[i * n : (i + 1) * n] for i in range(len(self.targets))]

    def _switched(
        self, call: NetworkCall, blocks: Sequence[int], target: Mapping[Path, Any]
    ) -> Mapping[Path, Any] | None:
        """What changes in a call with the target's prompt in the source's place; None if it does not fit."""
        if call.rows == self.conditioning.count:
            return target
        changes = {}
        for path, value in call.leaves.items():
            if path not in target:
                continue
            place = dimension(path, value, call.rows)
            if place is None or not _fits(value, target[path], place):
                return None
            numbers = range(call.rows // self.conditioning.count)
            parts = [take(path, value, call.rows, self.conditioning.block(number)) for number in numbers]
            changes[path] = _stacked([target[path] if n in blocks else parts[n] for n in numbers], place)
        return changes

    def _moved(self, s: Tensor, targets: Sequence[Tensor], block: int) -> Tensor:
        """s + sum_j c_j P_k(g_j - s), of s's shape and dtype."""
        strengths = [c for _, c in self.targets]
        if self.complete and len(targets) == 1:
            return torch.lerp(s, targets[0], strengths[0])
        x = self._codes(s)
        whole = torch.promote_types(s.dtype, torch.float32)
        shift = torch.zeros_like(x, dtype=whole)
        for j, (g, c) in enumerate(zip(targets, strengths, strict=True)):
            d = self._codes(g).to(whole) - x.to(whole)
            shift += c * self._part(d, (j, block))
        moved = self._laid_out((x.to(whole) + shift).to(s.dtype), s)
        # a predicted variance, which follows the prediction, stays the source's
        return moved if moved.shape == s.shape else torch.cat([moved, s[:, moved.shape[1] :]], 1)

    def _part(self, d: Tensor, key: tuple[int, int]) -> Tensor:
        """What is added of a difference d, shape (B, C, H, W)."""
        settings = self.settings
        together = d.flatten(1, 2).unsqueeze(1) if settings.channels == "together" else d
        part = together
        if self.rank < min(together.shape[-2:]):
            part, self._starts[key] = leading(together, self.rank, self._starts.get(key))
        part = part.reshape(d.shape)
        return part if settings.entries is None else largest(part, settings.entries)

    def _codes(self, prediction: Tensor) -> Tensor:
        """A prediction as codes (B, C, H, W), without a predicted variance."""
        if self.layout != "grid":
            return unpack(prediction, self.layout, self.shape)
        return prediction.reshape(len(prediction), -1, *self.shape[1:])[:, : self.shape[0]]

    def _laid_out(self, codes: Tensor, prediction: Tensor) -> Tensor:
        if self.layout != "grid":
            return pack(codes, self.layout)
        return codes.reshape(len(codes), -1, *prediction.shape[2:])


def _prediction(output: Any) -> Tensor:
    """The prediction in a network's output, one row per picture."""
    first = output[0] if isinstance(output, tuple) else output.sample
    return torch.stack(list(first)) if isinstance(first, list | tuple) else first


def _with_prediction(output: Any, prediction: Tensor) -> Any:
    """A network's output with another prediction."""
    if not isinstance(output, tuple):
        return type(output)(sample=prediction)
    is_list = isinstance(output[0], list | tuple)
    return (list(prediction.unbind()) if is_list else prediction, *output[1:])


def _joined(call: NetworkCall, parts: Sequence[Mapping[Path, Any]]) -> dict[Path, Any] | None:
    """What changes in a call with further rows; None if they do not fit into one batch."""
    leaves, count = call.leaves, call.rows
    changes = {}
    for path, value in leaves.items():
        place, further = dimension(path, value, count), [part[path] for part in parts]
        if place is None:
            if any(rows is not value for rows in further):
                return None
        elif not all(_fits(value, rows, place) for rows in further):
            return None
        else:
            changes[path] = _stacked([value, *further], place)
    return changes


def _fits(value: Any, other: Any, place: int) -> bool:
    """Whether the rows of two arguments fit into one batch."""
    if not isinstance(value, Tensor):
        return True
    sizes = [[n for i, n in enumerate(argument.shape) if i != place] for argument in (value, other)]
    return sizes[0] == sizes[1]


def _stacked(parts: Sequence[Any], place: int) -> Any:
    """Rows of several arguments as one, tensors along a dimension or lists."""
    return torch.cat(parts, place) if isinstance(parts[0], Tensor) else [row for part in parts for row in part]
