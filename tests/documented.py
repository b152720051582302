"""The commands that the documents show, and `python tests/documented.py`, which runs each on stand-ins.

A stand-in keeps the command as it is typed: where it names weights, untrained ones of that model lie at that path;
where it names images, a small folder of noise does. What would take hours is cut to a few images, one epoch, two steps.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch
from configured import composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from quant_sweep.sweep.build import new_model, plain

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CONFIGS = {
    "quant-sweep": "config",
    "quant-sweep-train": "train_config",
    "quant-sweep-report": "report_config",
    "quant-sweep-ui": "ui_config",
    "quant-sweep-sensitivity": "sensitivity_config",
    "quant-sweep-explain": "explain_config",
    "quant-sweep-allocate": "allocate_config",
}
_FEW_IMAGES = ["calibration.images=20", "calibration.batch_size=10"]


@dataclass(frozen=True)
class Command:
    """A command of this package as a document shows it."""

    document: Path
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def config(self) -> str:
        return _CONFIGS[self.program]

    @property
    def overrides(self) -> list[str]:
        return [word for word in self.words[1:] if not word.startswith("-") and word != "job"]

    def value(self, key: str) -> str | None:
        """What the command sets `key` to."""
        return next((word.split("=", 1)[1] for word in self.words if word.startswith(f"{key}=")), None)

    def __str__(self) -> str:
        return shlex.join(self.words)


def documented_commands() -> Iterator[Command]:
    """Every line in a code block that begins with one of the package's commands; a backslash joins lines, a line
    NAME="..." is what $NAME stands for from there on."""
    for document in DOCUMENTS:
        variables: dict[str, str] = {}
        for language, block in _FENCE.findall(document.read_text() if document.exists() else ""):
            if language not in ("", "sh", "bash"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                if set_to := re.fullmatch(r'(\w+)="(.*)"', line):
                    variables[set_to[1]] = set_to[2]
                if line.startswith("quant-sweep"):
                    typed = Template(line).substitute(variables)
                    yield Command(document, tuple(shlex.split(typed, comments=True)))


def single_values(overrides: list[str]) -> list[str]:
    """Of each axis of a sweep the first value: what one job of it is given."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        if override.is_sweep_override()
        else override.input_line
        for override in parsed
    ]


def main() -> None:
    """Run all, and stop at the first that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_package(folder)
        _write_arrays(folder)
        _run(folder, ["quant-sweep-train", "train.epochs=1"])
        for command in documented_commands():
            _run(folder, _prepared(folder, command))


def _prepared(folder: Path, command: Command) -> list[str]:
    words = list(command.words)
    root = command.value("data.root")
    if command.value("data") == "cifar10" or (root is None and command.value("experiment") in _CIFAR_EXPERIMENTS):
        words = [*(word for word in words if not word.startswith("data=")), "data=imagefolder", "data.root=images"]
        root = "images"
    if root is not None:
        _write_images(folder / root)
    if any(word.startswith("recovery.distill.steps=") for word in words):
        words = [
            *(word for word in words if not word.startswith("recovery.distill.steps=")),
            "recovery.distill.steps=2",
        ]
    checkpoint = command.value("model.checkpoint")
    if checkpoint is not None and not checkpoint.startswith("outputs/"):  # there training has left them
        _write_weights(folder / checkpoint, command)
    if command.program == "quant-sweep-train":
        return [*words, "train.epochs=1"]
    if command.program == "quant-sweep-ui":
        return [*words, "--cfg", "job"]  # a server goes on until somebody ends it
    if command.program == "quant-sweep-report" or "--cfg" in words:
        return words
    if command.value("data") is None and root is None and "experiment=quickstart" not in words:
        return words  # the digits are small
    few = [] if command.program != "quant-sweep-explain" else ["images=10"]
    return [*words, *_FEW_IMAGES, *few]


_CIFAR_EXPERIMENTS = ("cifar10", "original", "original_text")


def _run(folder: Path, words: list[str]) -> None:
    began = time.perf_counter()
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True)
    print(
        f"{'ok' if done.returncode == 0 else 'FAILED'} {time.perf_counter() - began:5.1f} s  {shlex.join(words)}",
        flush=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def _write_weights(path: Path, command: Command) -> None:
    """Untrained weights of the command's model, for ten classes of RGB images."""
    sys.path.insert(0, str(path.parent))
    cfg = composed(*single_values([word for word in command.overrides if word.startswith("model")]))
    settings = plain(cfg.model)
    torch.manual_seed(0)
    torch.save(new_model(settings, num_classes=10, in_channels=3).state_dict(), path)


def _write_images(root: Path) -> None:
    """Ten classes of noise."""
    for split in ("train", "test"):
        for category in range(10):
            folder = root / split / f"class{category}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(2):
                noise = torch.randint(
                    0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)
                )
                Image.fromarray(noise.numpy()).save(folder / f"{i}.png")


def _write_package(folder: Path) -> None:
    """The package of one's own that the documents speak of: that of the tests, and what they show of it."""
    package = folder / "my_package"
    package.mkdir()
    for source in (ROOT / "tests" / "own_package").glob("*.py"):
        (package / source.name).write_text(source.read_text().replace("own_package", "my_package"))
    with (package / "nets.py").open("a") as file:
        file.write("\n\ndef build(num_classes: int) -> nn.Module:\n")
        file.write("    import torchvision\n\n    return torchvision.models.resnet18(num_classes=num_classes)\n")
    with (package / "data.py").open("a") as file:
        file.write("\n\nPAIR = noise(3, 32, 32, seed=0), torch.arange(64) % 10\n\n\n")
        file.write("def build():\n    return PAIR, PAIR\n\n\n")
        (shown,) = re.findall(r"# my_package/data.py\n(.*?)```", (ROOT / "docs/own-network.md").read_text(), re.DOTALL)
        file.write(shown)


def _write_arrays(folder: Path) -> None:
    """The two files of one's own that the documents speak of."""
    for split in ("train", "test"):
        inputs = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        np.savez(folder / f"{split}.npz", inputs=inputs.numpy(), labels=np.arange(20) % 10)


if __name__ == "__main__":
    main()
