"""What a device gives, and what training takes of it: ``python -m benchmarks.gpu device=cuda`` (``device=cpu`` tries the code).

* Each backbone at full width, forward and backward: float32 as written, against bf16, channels last and ``torch.compile``; with the
  memory that it takes, and its share of the measured ceiling of matrix products.
* The frontend on the device: log-mel of waveforms by nnAudio, against a copy of the same bytes.
* The share of a training step that waits for data, with 8 loading processes: in a run, ``train/data_wait_share``.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.batch import DIM, timed
from benchmarks.measurement import Measurement, compared, interleaved, seconds
from benchmarks.table import as_text
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.frontends import FRONTENDS
from disentangled_ml.structures import AudioSettings

FRAMES = 129
PEER = "float32 eager"
# Width, chunks in a batch, side of the matrices.
SIZES = {"cuda": (1.0, 256, 8192), "cpu": (0.125, 16, 1024)}


def matrix_rate(device: str, side: int, dtype: torch.dtype) -> float:
    """Measure the ceiling: operations per second of a product of two square matrices."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    product = timed(lambda: a @ a, device)
    product()
    return 2 * side**3 / median(seconds(product) for _ in range(5))


def step_of(network: torch.nn.Module, spect: torch.Tensor, device: str, autocast: bool) -> Callable[[], None]:
    """Return the forward and backward pass of a batch as a task."""

    def run() -> None:
        with torch.autocast(device, torch.bfloat16) if autocast else nullcontext():
            embedding = network(spect)
        embedding.float().square().mean().backward()

    return timed(run, device)


def operations(network: torch.nn.Module, spect: torch.Tensor) -> int:
    """Count the operations of forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network(spect).square().mean().backward()
    return counter.get_total_flops()


def measure_backbone(name: str, device: str) -> Measurement:
    """Compare the fast settings with the plain ones."""
    width, n, side = SIZES[device]
    spect = torch.rand(n, 1, 128, FRAMES, device=device)
    plain = BACKBONES[name](DIM, width).to(device).train()
    fast = BACKBONES[name](DIM, width).to(device, memory_format=torch.channels_last).train()
    fast = torch.compile(fast) if device == "cuda" else fast
    tasks = {
        "ours": step_of(fast, spect.to(memory_format=torch.channels_last), device, True),
        PEER: step_of(plain, spect, device, False),
    }
    n_operations = operations(plain, spect)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = interleaved(tasks)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB, " if device == "cuda" else ""
    rate = n_operations / median(times["ours"])
    share = rate / matrix_rate(device, side, torch.bfloat16)
    note = f"{n / median(times['ours']):.0f} chunks/s, {memory}{share:.0%} of the rate of matrix products"
    return compared(f"{name} of width {width:g}, {n} chunks, {device}", times, peer=PEER, note=note)


def measure_frontend(device: str) -> Measurement:
    """Compare the frontend with a copy of the waveforms."""
    n = SIZES[device][1]
    frontend = FRONTENDS["nnaudio"](AudioSettings()).to(device)
    waveform = torch.rand(n, AudioSettings().chunk_samples(FRAMES), device=device)
    with torch.no_grad():
        tasks = {"ours": timed(lambda: frontend(waveform), device), "copy": timed(waveform.clone, device)}
        times = interleaved(tasks)
    return compared(f"log-mel by nnAudio, {n} chunks, {device}", times, limit="copy")


def measure(device: str = "cpu") -> list[Measurement]:
    """Measure all backbones, and the frontend."""
    return [*(measure_backbone(name, device) for name in BACKBONES), measure_frontend(device)]


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.stdout.write(as_text(measure(**given)))
