"""benchmarks/README.md from benchmarks/results/*/*.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.result import results

_PAGE = Path(__file__).parent / "README.md"
_INTRODUCTION = """# Benchmarks

Everything that is compared ran in one process or strictly by turns; a ratio is taken within a round. The median is
given and, in brackets, the smallest and largest round. The machines are shared: trust the ratios, not the speeds.
What was measured on several CPUs stands here several times.

```
make bench CIFAR10=FOLDER     # all of it, hours; FOLDER/train/<class>/* and FOLDER/test/<class>/* hold CIFAR-10
.venv/bin/python -m benchmarks evaluation limit --networks resnet20
```

This page is made by `python -m benchmarks table` from the files in `results/`.
"""


def write() -> None:
    """Write the page from whatever was measured."""
    sections = [section(result) for prefix, section in _SECTIONS.items() for result in results(prefix)]
    _PAGE.write_text("\n".join([_INTRODUCTION, *sections]))
    print(f"wrote {_PAGE}")


def _evaluation(result: dict[str, Any]) -> str:
    rows = [
        [way, result["batch_sizes"][way], _rate(speed)]
        for way, speed in sorted(result["images_per_second"].items(), key=lambda item: -item[1]["median"])
    ]
    missing = "".join(f"\n{way} did not run: {why}\n" for way, why in result["missing"].items())
    return (
        _heading(f"Evaluation, {result['network']}", result)
        + f"{result['images']} CIFAR-sized images, each way with the batch size that suits it best.\n\n"
        + _table(["way", "batch", "images/s"], rows)
        + "\n"
        + _table(["time of / time of", "ratio"], [[name, _ratio(r)] for name, r in result["ratios"].items()])
        + missing
    )


def _limit(result: dict[str, Any]) -> str:
    return _heading(f"The limit, {result['network']}", result) + (
        f"The {result['kernels']} layers, each alone and at its best batch size, sum up to "
        f"{result['kernels_images_per_second']:,.0f} images/s; the engine as a whole reaches "
        f"{result['engine_images_per_second']:,.0f}. Engine time over the sum: "
        f"{_ratio(result['engine_over_kernels'])}.\n"
    )


def _calibration(result: dict[str, Any]) -> str:
    seconds = [
        [way, _seconds(s), _ratio(result["ratios"].get(f"{way} / plain float32 forward"))]
        for way, s in result["seconds"].items()
    ]
    search = [[what, f"{1e3 * s['median']:.2f}"] for what, s in result["search_seconds_per_tensor"].items()]
    return (
        _heading(f"Calibration, {result['network']}", result)
        + f"{result['images']} images in batches of {result['batch_size']}, fusion conv_bn_relu.\n\n"
        + _table(["pass", "seconds", "over the plain forward"], seconds)
        + "\nThe search that follows, weights included:\n\n"
        + _table(["observer", "ms a tensor"], search)
    )


def _sweep(result: dict[str, Any]) -> str:
    seconds, ratios = result["seconds"], result["ratios"]
    return (
        _heading(f"The whole sweep, {result['network']}", result)
        + f"{result['points']} points, {result['calibration_images']} calibration images, {result['test_images']} "
        + "test images. The loops calibrate for every point; at 8 bits they convert, below they run fake-quantize "
        + "modules.\n\n"
        + _table(["way", "seconds"], [[way, _seconds(s)] for way, s in seconds.items()])
        + "\n"
        + _table(["time of / time of", "ratio"], [[name, _ratio(r)] for name, r in ratios.items()])
    )


def _memory(result: dict[str, Any]) -> str:
    rows = [[run, f"{peak:,.0f}"] for run, peak in result["peak_mib"].items()]
    return (
        _heading(f"Memory, {result['network']}", result)
        + f"Peak resident memory of a whole run, calibration and evaluation in batches of {result['batch_size']}.\n\n"
        + _table(["run", "MiB"], rows)
    )


def _growth_points(result: dict[str, Any]) -> str:
    rows = [[count, _seconds(s)] for count, s in result["seconds"].items()]
    return (
        _heading(f"Growth with points, {result['network']}", result)
        + f"The command as a whole, Python's start and MLflow included; {result['test_images']} test images.\n\n"
        + _table(["points", "seconds"], rows)
        + f"\nA further point costs {_seconds(result['seconds_a_further_point'])} s, of which "
        + f"{_seconds(result['of_that_evaluation'])} s are its evaluation and "
        + f"{_seconds(result['of_that_fixed'])} s fixed.\n"
    )


def _growth_images(result: dict[str, Any]) -> str:
    text = _heading(f"Growth with images, {result['network']}", result)
    for key, column in (
        ("calibration_images_per_second", "calibration images"),
        ("test_images_per_second", "test images"),
        ("images_per_second_by_batch_size", "batch size"),
    ):
        text += _table([column, "images/s"], [[n, _rate(speed)] for n, speed in result[key].items()]) + "\n"
    return text


def _growth_depth(result: dict[str, Any]) -> str:
    rows = [[name, _rate(speed)] for name, speed in result["images_per_second"].items()]
    return _heading("Growth with depth", result) + _table(["network", "images/s, int8 at 4 bits"], rows)


_SECTIONS = {
    "evaluation": _evaluation,
    "limit": _limit,
    "calibration": _calibration,
    "sweep": _sweep,
    "memory": _memory,
    "growth_points": _growth_points,
    "growth_images": _growth_images,
    "growth_depth": _growth_depth,
}


def _heading(title: str, result: dict[str, Any]) -> str:
    machine = result["machine"]
    instructions = ", ".join(machine["instructions"]) or "no vector extensions known"
    return (
        f"## {title}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores ({instructions}), {machine['threads']} threads, "
        f"torch {machine['torch']}, {result['date']}, {result['rounds']} rounds.\n\n"
    )


def _table(headers: list[str], rows: list[list[Any]]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + "\n"


def _ratio(values: dict[str, float] | None) -> str:
    return "" if values is None else f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"


def _rate(values: dict[str, float]) -> str:
    return f"{values['median']:,.0f} ({values['min']:,.0f}–{values['max']:,.0f})"


def _seconds(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"
