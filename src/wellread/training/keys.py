"""Keys of all passages by a model's passage side; as a program, what a run starts to make them while it goes on.

    python -m wellread.training.keys MODEL PASSAGES OUT PRECISION DEVICE RUN

MODEL: a folder with the weights of the moment. PASSAGES: what `write_passages` wrote. OUT: the .npy file, whole or not
there. RUN: number of the process that started this one, which ends when that is gone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from wellread.bars import progress_bar
from wellread.model import load_model
from wellread.nn.precision import precision_dtype
from wellread.reading.frame import pad_rows

if TYPE_CHECKING:
    from wellread.model import Model

__all__ = ["encode_keys", "main", "read_passages", "write_keys", "write_passages"]

BATCH = 64


def encode_keys(model: Model, rows: Sequence[np.ndarray], *, precision: str = "fp32", progress: bool = False):
    """The key of every passage, [passages, dim] float32. rows: the tokens of each, framed.

    The model is put in evaluation mode and left in it; nothing random is drawn.
    """
    model.system.eval()
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    dtype, device, pad = precision_dtype(precision), model.device, model.frame.tokenizer.pad
    keys: np.ndarray | None = None
    with progress_bar(total=len(rows), desc="keys", shown=progress) as bar, torch.inference_mode():
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            tokens, mask = pad_rows([rows[row] for row in some], pad)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                found = model.system.remember(tokens.to(device), mask.to(device)).keys.float().cpu().numpy()
            if keys is None:
                keys = np.zeros((len(rows), found.shape[1]), dtype=np.float32)
            keys[some] = found
            bar.update(len(some))
    return keys


def write_keys(file: Path, keys: np.ndarray) -> None:
    """Write keys; the file is whole or not there."""
    waiting = file.with_name(f".{file.name}.{os.getpid()}.part.npy")
    np.save(waiting, keys)
    os.replace(waiting, file)


def write_passages(file: Path, rows: Sequence[np.ndarray]) -> None:
    """Write the tokens of passages, all in one array and where each starts."""
    starts = np.cumsum([0, *(len(row) for row in rows)])
    waiting = file.with_name(f".{file.name}.{os.getpid()}.part.npz")
    np.savez(waiting, tokens=np.concatenate(rows), starts=starts)
    os.replace(waiting, file)


def read_passages(file: Path) -> list[np.ndarray]:
    """What `write_passages` wrote."""
    with np.load(file) as arrays:
        return np.split(arrays["tokens"], arrays["starts"][1:-1])


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, also if it went before this one looked."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Make the keys and write them."""
    folder, passages, out, precision, device, run = arguments
    os.nice(5)  # training goes first
    threading.Thread(target=_end_with, args=(int(run),), daemon=True).start()
    model = load_model(folder)
    model.system.to(device)
    write_keys(Path(out), encode_keys(model, read_passages(Path(passages)), precision=precision))


if __name__ == "__main__":
    main(sys.argv[1:])
