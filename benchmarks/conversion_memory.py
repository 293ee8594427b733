"""Memory of a conversion: `anymodality convert` on a PandaGPT release of some gigabytes with random weights.

    python benchmarks/conversion_memory.py --gigabytes 2 --format bin

Memory that cannot be reclaimed (anonymous pages) counts; pages of mapped files can be reclaimed, and are shown separately.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


RECORDED = Path(__file__).parent.parent / "modeling_tests" / "parity" / "pandagpt"
HIDDEN, INNER, ROWS = 2048, 5504, 32001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.2, help="Size of the release's largest file")
    parser.add_argument("--format", choices=("bin", "safetensors"), default="bin", help="Format of that file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = make_release(folder / "release", chosen.gigabytes, chosen.format)
        command = [sys.executable, "-m", "anymodality.cli", "convert", "pandagpt"]
        idle, _, _ = watch([sys.executable, "-c", "import anymodality.cli"])
        peak, mapped, seconds = watch([*command, "--from", folder / "release", "--output", folder / "out", "--merge"])
    print(f"release {size / 1e9:.2f} GB ({chosen.format}); converted and merged in {seconds:.0f} s")
    print(
        f"peak of anonymous memory {peak / 1e9:.2f} GB = {peak / size:.2f} of the release (imports: {idle / 1e9:.2f} GB)"
    )
    print(f"peak with pages of mapped files {mapped / 1e9:.2f} GB = {mapped / size:.2f} of the release")


def make_release(folder: Path, gigabytes: float, suffix: str) -> int:
    """Writes a Vicuna of `gigabytes` with random weights; the other parts are small, as recorded. Returns its size."""
    folder.mkdir()
    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER
    layers = max(1, round((gigabytes * 1e9 / 2 - 2 * ROWS * HIDDEN) / layer))
    shapes = {
        "model.embed_tokens.weight": (ROWS, HIDDEN),
        "lm_head.weight": (ROWS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    own = {}
    for i in range(layers):
        part = f"model.layers.{i}."
        shapes |= {f"{part}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        shapes |= {f"{part}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{part}mlp.down_proj.weight"] = (HIDDEN, INNER)
        for name in "qkvo":
            shapes[f"{part}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
            lora = f"llama_model.base_model.model.{part}self_attn.{name}_proj.lora_{{}}.default.weight"
            own |= {lora.format("A"): torch.randn(32, HIDDEN), lora.format("B"): torch.randn(HIDDEN, 32)}
    weights = {name: torch.empty(shape, dtype=torch.float16).normal_(0, 0.02) for name, shape in shapes.items()}
    file = folder / f"vicuna.{suffix}"
    if suffix == "bin":
        torch.save(weights, file)  # noqa: TID251 (the format of releases)
    else:
        save_file(weights, file)
    width = load_file(RECORDED / "pytorch_model.safetensors")["llama_proj.weight"].shape[1]
    save_file(
        {**own, "llama_proj.weight": torch.randn(HIDDEN, width), "llama_proj.bias": torch.randn(HIDDEN)},
        folder / "pytorch_model.safetensors",
    )
    shutil.copy(RECORDED / "imagebind_huge.safetensors", folder)
    config = json.loads((RECORDED / "config.json").read_text())
    config["llama_config"] = {"num_attention_heads": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(part.stat().st_size for part in folder.iterdir())


def watch(command: list) -> tuple[int, int, float]:
    """Peak of a process's anonymous memory, peak of all its memory, in bytes; and its seconds."""
    process, begin = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), time.monotonic()
    anonymous = resident = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        anonymous = max(anonymous, int(found.get("RssAnon", "0 kB").split()[0]) * 1024)
        resident = max(resident, int(found.get("VmHWM", "0 kB").split()[0]) * 1024)
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{command[3] if len(command) > 3 else command} failed; run it alone to see why.")
    return anonymous, resident, time.monotonic() - begin


if __name__ == "__main__":
    main()
