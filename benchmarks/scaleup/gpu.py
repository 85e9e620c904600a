"""On a GPU: samples/s, steps/s, peak memory and share of the measured matrix peak at full size.

Models of Stable Diffusion 1.5's and 3.5 medium's size with random weights (512 pixels), LoRA of
rank 32, bfloat16; the table goes to docs/results/scaleup-gpu.md. Without a GPU nothing is measured.

    python -m benchmarks.scaleup.gpu sd15|sd35_medium|tiny_sd15|tiny_sd3 cuda|cpu   a line of JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Row
from benchmarks.scaleup.sd15 import GIB, METHODS
from benchmarks.scaleup.small import PROMPTS, module_output, peak_memory
from theory.common.files import write_atomically

TABLE = Path("docs/results/scaleup-gpu.md")
COMMAND = "python -m benchmarks scaleup --only gpu"
SIZES = ("sd15", "sd35_medium")

OPTIONS: dict[str, Any] = {
    "reward": "redness",
    "precision": "bf16",
    "gradient_checkpointing": True,
    "lora_rank": 32,
    "batch": 8,
    "chunk": 8,
    "sampling_steps": 20,
    "steps": 1000,
}
ROUNDS = 5
# Side of the matrices whose product is the measured peak.
SIDE = {"cuda": 8192, "cpu": 256}
HEADS = (
    "model", "parameters, billions", "what", "pictures/s", "steps/s", "peak memory, GiB", "TFLOP/s",
    "of the matrix peak",
)  # fmt: skip


def measure() -> list[Row]:
    """A row a model, and the table in docs/; without a GPU one row that says so."""
    if not torch.cuda.is_available():
        return [Row("full size on a GPU, bf16", f"a table in {TABLE}", "no CUDA device here", None)]
    found = [module_output("benchmarks.scaleup.gpu", [size, "cuda"]) for size in SIZES]
    write_atomically(TABLE, markdown(found).encode("utf-8"))
    return [
        Row(
            f"{each['model']} on {each['device']}, bf16, LoRA rank {OPTIONS['lora_rank']}",
            f"a table in {TABLE}",
            "; ".join(
                f"{part['what']} {part['pictures_per_second']:.3g} pictures/s, "
                f"{part['peak_bytes'] / GIB:.1f} GiB, {100 * part['share']:.0f} % of peak"
                for part in each["parts"]
            ),
            True,
            each,
        )
        for each in found
    ]


def figures_of(size: str, device: str) -> dict[str, Any]:
    """Sampling, and a step of each method, of the model of that name in `models`."""
    from benchmarks.scaleup import models
    from scaleup.adapter import ImageModel
    from scaleup.training.config import TrainConfig
    from scaleup.training.runfolder import RunFolder
    from scaleup.training.session import BASE_DTYPES, Session
    from scaleup.training.task import Bank
    from scaleup.training.trainer import Trainer

    dtype = BASE_DTYPES[OPTIONS["precision"]]
    peak = matrix_peak(device, dtype)
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        prompts = Path(place) / "prompts.txt"
        prompts.write_text(PROMPTS[0], encoding="utf-8")
        with torch.device(device):
            pipe = getattr(models, size)()
        model = ImageModel(pipe, device=device, dtype=dtype)
        bank = None
        for name, method in METHODS.items():
            config = TrainConfig(
                **OPTIONS, model=size, prompts=str(prompts), method=method, device=device  # type: ignore[arg-type]
            )  # fmt: skip
            session = Session(config, RunFolder(Path(place), config), model)
            rows = config.batch
            if bank is None:
                noise = torch.randn(rows, *model.event_shape, device=device)
                cond = torch.ones(rows, 1, dtype=torch.long, device=device)

                def sampled(
                    session: Session = session, noise: Any = noise, cond: Any = cond
                ) -> torch.Tensor:
                    x1 = session.task.sampled(session.base, noise, cond)
                    with torch.no_grad():
                        model.decode(x1)
                    return x1

                x1 = sampled()
                reward = torch.linspace(0, 1, rows, dtype=torch.float64, device=device)
                bank = Bank(x1, cond[:, 0].contiguous(), reward)
                parts.append(_timed(f"sampling, {config.sampling_steps} steps, and decoding",
                                    sampled, rows, device, peak))  # fmt: skip
            session.task.bank = bank
            step = Trainer(session).one_step
            step()  # warms up
            parts.append(_timed(f"training, {name}", step, rows, device, peak))
            model.network.delete_adapters(session.student.adapter)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return {
        "model": size,
        "parameters": sum(p.numel() for part in networks for p in part.parameters()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "matrix_peak": peak,
        "parts": parts,
    }


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large product of matrices, the best of several."""
    n = SIDE[device]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(_seconds(lambda: a @ b, device) for _ in range(4 * ROUNDS))


def _timed(
    what: str, work: Callable[[], Any], rows: int, device: str, peak: float
) -> dict[str, Any]:
    """The median of several, and the operations of one (recomputed ones included)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = sorted(_seconds(work, device) for _ in range(ROUNDS))[ROUNDS // 2]
    most = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()
    with FlopCounterMode(display=False) as counter:
        work()
    rate = counter.get_total_flops() / seconds
    return {
        "what": what,
        "is_step": what.startswith("training"),
        "rows": rows,
        "pictures_per_second": rows / seconds,
        "runs_per_second": 1 / seconds,
        "peak_bytes": most,
        "flops_per_second": rate,
        "share": rate / peak,
    }


def _seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, with the command that makes it."""
    first, rank, batch = found[0], OPTIONS["lora_rank"], OPTIONS["batch"]
    told = (
        f"Random weights, 512 pixels, {OPTIONS['precision']}, LoRA rank {rank}, batches of "
        f"{batch}, gradient checkpointing (its recomputation counts as work); SD3.5's T5 is left "
        f"out. The matrix peak is one product of matrices of side {SIDE['cuda']}: "
        f"{first['matrix_peak'] / 1e12:.0f} TFLOP/s."
    )
    lines = [
        "# Scale-up on a GPU",
        "",
        f"Written by `{COMMAND}`; {first['device']}, torch {first['torch']}.",
        "",
        told,
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{'---|' * len(HEADS)}",
    ]
    for each in found:
        for part in each["parts"]:
            cells = (
                each["model"], f"{each['parameters'] / 1e9:.2f}", part["what"],
                f"{part['pictures_per_second']:.3g}",
                f"{part['runs_per_second']:.3g}" if part["is_step"] else "",
                f"{part['peak_bytes'] / GIB:.1f}",
                f"{part['flops_per_second'] / 1e12:.3g}", f"{100 * part['share']:.0f} %",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(json.dumps(figures_of(*sys.argv[1:])))
