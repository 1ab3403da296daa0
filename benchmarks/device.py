"""Time the parts of an edit on a device and on the CPU: python -m benchmarks.device --device cuda.

Singular value decompositions by each of cuSOLVER's drivers, geodesic distances, power iteration, and mini-sd's UNet.
Each call is timed after a warm-up, with the device's queue empty before and after. outputs/tables/device.csv gets a row
for each: the median of n calls in seconds, and the least and the most (low, high). `count` is how many matrices or
pictures such a call takes: where all at once would take longer than a second, fewer. Float32 is as torch has it by
default, with TF32 in convolutions. The CPU uses all of torch's threads.
"""

import argparse
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lsvd import backbones
from lsvd.decomposition import geodesic
from lsvd.decomposition.svd import svd
from lsvd.guidance.triplets import leading
from lsvd.paths import outputs
from lsvd.storage.files import update_csv
from lsvd.testbed.training.train import check_device

LONGEST = 1.0  # seconds of one call
FEWEST, MOST, ENOUGH = 3, 9, 0.8  # calls that are timed, and the seconds after which no more are
DRIVERS = "gesvd", "gesvdj", "gesvda"
MATRICES = {32: 256, 96: 6400}  # 64 pictures of 4 channels; 1,600 of Stable Diffusion's for 768 pixels
BATCHES = 1, 16, 64, 256
DTYPES = torch.float32, torch.float16, torch.bfloat16
KEYS = ["device", "what", "size", "dtype"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """What is timed. prepare(count) returns the call for so many matrices or pictures, of `total` at most."""

    what: str
    size: str
    dtype: torch.dtype
    prepare: Callable[[int], Callable[[], Any]]
    total: int
    least: int


def time(piece: Piece, device: torch.device) -> dict[str, str]:
    """A row of the table: the piece at its total, or at as many as LONGEST allows."""
    count = piece.least
    while True:
        call = piece.prepare(count)
        _seconds(call, device)  # kernels are loaded, and memory is had, by the first call
        spent = _seconds(call, device)
        more = min(piece.total, 4 * count)
        if more == count or spent * more / count > LONGEST:
            break
        count = more
    found = [_seconds(call, device)]
    while len(found) < FEWEST or (len(found) < MOST and sum(found) < ENOUGH):
        found.append(_seconds(call, device))
    return {
        "device": label(device),
        "what": piece.what,
        "size": piece.size,
        "dtype": str(piece.dtype).removeprefix("torch."),
        "count": str(count),
        "seconds": f"{median(found):.3g}",
        "low": f"{min(found):.3g}",
        "high": f"{max(found):.3g}",
        "n": str(len(found)),
    }


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    call()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def label(device: torch.device) -> str:
    """The name of a device's make: of a CPU with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def decompositions(device: torch.device) -> Iterator[Piece]:
    """All triplets of square matrices: by the one function of the project, and by each driver."""
    for size, total in MATRICES.items():
        matrices = _matrices(total, size).to(device)

        def prepare(work: Callable[[Tensor], Any], count: int, matrices: Tensor = matrices) -> Callable[[], Any]:
            return partial(work, matrices[: count // 4])

        ways: dict[str, Callable[[Tensor], Any]] = {"lsvd.svd": svd}
        if device.type == "cuda":
            for driver in DRIVERS:
                ways[f"torch.linalg.svd, {driver}"] = partial(torch.linalg.svd, full_matrices=False, driver=driver)
        for what, work in ways.items():
            yield Piece(what, f"{size} x {size}", torch.float32, partial(prepare, work), total, 64)


def distances(device: torch.device) -> Iterator[Piece]:
    """Geodesic distances of all pairs of 50 timesteps, of subspaces of 6 of 32 dimensions, for channels of codes."""
    bases = svd(_matrices(50 * 64, 32)).truncate(6).U.reshape(50, 64, 32, 6).to(device)

    def prepare(count: int) -> Callable[[], Any]:
        return partial(geodesic.pairwise, bases[:, :count])

    yield Piece("geodesics of 50 timesteps", "6 of 32", torch.float64, prepare, 64, 4)


def triplets(device: torch.device) -> Iterator[Piece]:
    """The first triplet by power iteration: of a first step, and of a later one, which begins with the last."""
    for size in MATRICES:
        matrices = _matrices(256, size).to(device)
        _, start = leading(matrices, 1)

        def cold(count: int, matrices: Tensor = matrices) -> Callable[[], Any]:
            return partial(leading, matrices[: count // 4], 1)

        def warm(count: int, matrices: Tensor = matrices, start: Tensor = start) -> Callable[[], Any]:
            return partial(leading, matrices[: count // 4], 1, start[: count // 4])

        for what, prepare in (("first step", cold), ("later step", warm)):
            yield Piece(f"first triplet, {what}", f"{size} x {size}", torch.float32, prepare, 256, 64)


def calls(device: torch.device) -> Iterator[Piece]:
    """A call of mini-sd's UNet."""
    for dtype in DTYPES:
        if device.type == "cpu" and dtype == torch.float16:
            continue  # diffusers advises against it there
        backbone = backbones.load("mini-sd", device, dtype)
        unet, pipe = backbone.pipe.unet, backbone.pipe
        words = pipe.tokenizer.model_max_length, unet.config.cross_attention_dim

        def prepare(count: int, unet: Any = unet, shape: Any = backbone.latent_shape, words: Any = words) -> Any:
            near = {"device": unet.device, "dtype": unet.dtype}
            x, text = (torch.zeros(count, *each, **near) for each in (shape, words))
            return partial(unet, x, torch.tensor(500, device=unet.device), encoder_hidden_states=text)

        for batch in BATCHES:
            if device.type != "cpu" or batch <= 16:
                yield Piece("UNet of mini-sd", f"batch of {batch}", dtype, prepare, batch, batch)


def _matrices(count: int, size: int) -> Tensor:
    """Codes of four channels, shape (count / 4, 4, size, size)."""
    return torch.randn(count // 4, 4, size, size, generator=torch.Generator().manual_seed(0))


def rows(device: torch.device) -> Iterator[dict[str, str]]:
    """A row for each piece, on the device, and but for the UNet on the CPU as well."""
    for place in dict.fromkeys((device, torch.device("cpu"))):
        groups = [decompositions, distances, triplets, *([calls] if place == device else [])]
        for group in groups:
            for piece in group(place):
                try:
                    row = time(piece, place)
                except (RuntimeError, NotImplementedError) as error:  # a driver that fails, memory that is full
                    why = str(error).splitlines()[0]
                    log.warning("%s, %s, %s: not timed: %s", piece.what, piece.size, piece.dtype, why)
                    continue
                log.info("%s", ", ".join(f"{name} {value}" for name, value in row.items()))
                yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="such as cuda, beside which the CPU is timed (cpu)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = perf_counter()
    try:
        check_device(options.device)
        with torch.no_grad():
            found = list(rows(torch.device(options.device)))
        update_csv(outputs("tables", "device.csv"), found, KEYS)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    log.info("%.0f seconds in all", perf_counter() - start)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
