"""Training: the recipe's checks, schedule and augmentation against slow twins, and continuing bit for bit."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save_file
from small_networks import same_weights
from torch import Tensor, nn

from quant_sweep.data.augment import crop_and_flip, cut_out
from quant_sweep.data.base import DataSet, ImageSet, data_set, decoded
from quant_sweep.errors import InputError
from quant_sweep.models.checkpoint import load_weights, read_checkpoint
from quant_sweep.train import EpochResult, TrainConfig, train
from quant_sweep.train.config import learning_rate
from quant_sweep.train.loop import sgd
from quant_sweep.train.state import prepare_folder

RECIPES = sorted((Path(__file__).parents[2] / "conf" / "train").glob("*.yaml"))
CPU = torch.device("cpu")
SMALL = TrainConfig(
    epochs=4,
    batch_size=16,
    lr=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="one_cycle",
    warmup=0.25,
    label_smoothing=0.1,
    crop_padding=1,
    flip=True,
    cutout=2,
    precision="float32",
    seed=3,
)


def changed(**values: Any) -> TrainConfig:
    return dataclasses.replace(SMALL, **values)


def images(seed: int = 0) -> DataSet:
    """52 training and 20 test images of 6x6 that are bright on the left or on the right."""
    random = np.random.default_rng(seed)
    splits = []
    for count in (52, 20):
        labels = random.integers(0, 2, count)
        pixels = random.integers(0, 120, (count, 3, 6, 6))
        for pixel, label in zip(pixels, labels, strict=True):
            pixel[:, :, slice(0, 3) if label else slice(3, 6)] += 60
        splits.append(ImageSet(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)))
    return data_set("bright", decoded(("right", "left"), *splits), (0.3, 0.3, 0.3), (0.2, 0.2, 0.2))


def network(seed: int = 0) -> nn.Module:
    """Everything that a resumed run could get wrong: momentum, running statistics, dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 2)
    )


def ignore(_result: EpochResult) -> None:
    pass


# --- the recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_valid(path: Path) -> None:
    with initialize_config_dir(str(path.parent), version_base="1.3"):
        TrainConfig(**OmegaConf.to_container(compose(path.stem)))  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", 0),
        ("batch_size", "x"),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("nesterov", "yes"),
        ("weight_decay", -1e-4),
        ("schedule", "step"),
        ("warmup", 1.0),
        ("label_smoothing", 1.5),
        ("crop_padding", -1),
        ("flip", 1),
        ("cutout", 1.5),
        ("precision", "fp16"),
        ("seed", -1),
    ],
)
def test_bad_value_names_its_key(field: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        changed(**{field: value})
    assert str(error.value).startswith(f"train.{field}={value}: ")
    assert "allowed: " in str(error.value)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(InputError, match=r"^train\.nesterov=True: .*train\.momentum=0"):
        changed(momentum=0.0)
    changed(momentum=0.0, nesterov=False)


# --- the learning rate


@pytest.mark.parametrize("steps", [40, 101, 1000])
@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.5])
def test_one_cycle_is_pytorchs(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.05, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    for step in range(steps):
        ours = learning_rate(changed(warmup=warmup), step, steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@settings(deadline=None)
@given(schedule=st.sampled_from(["one_cycle", "cosine"]), warmup=st.floats(0, 0.99), steps=st.integers(1, 300))
def test_learning_rate_rises_once_and_falls_once(schedule: str, warmup: float, steps: int) -> None:
    config = changed(schedule=schedule, warmup=warmup, lr=0.3)
    rates = np.array([learning_rate(config, step, steps) for step in range(steps)])
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert (rates <= 0.3 * (1 + 1e-12)).all()
    peak = int(rates.argmax())
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert peak <= warmup * steps + 1


# --- augmentation


@settings(max_examples=40, deadline=None)
@given(
    padding=st.integers(0, 3),
    flip=st.booleans(),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0),
)
def test_every_result_is_a_crop_of_its_own_image(padding: int, flip: bool, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed % 2**32)
    batch = torch.randint(0, 256, (5, 3, height, width), generator=generator, dtype=torch.uint8)
    out = crop_and_flip(batch, padding, flip, generator)
    assert out.dtype == torch.uint8
    assert out.shape == batch.shape
    for image, result in zip(F.pad(batch, (padding,) * 4), out, strict=True):
        crops = [
            image[:, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        crops += [crop.flip(2) for crop in crops] if flip else []
        assert any(torch.equal(result, crop) for crop in crops)


def test_all_shifts_and_both_sides_occur_about_equally_often() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    out = crop_and_flip(image.expand(18_000, 1, 3, 3), 1, True, torch.Generator().manual_seed(0))
    _, counts = torch.unique(out.reshape(18_000, -1), dim=0, return_counts=True)
    assert len(counts) == 18  # 9 shifts, mirrored or not
    assert counts.min() > 850  # 1,000 expected, standard deviation 31
    assert counts.max() < 1150


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_cutout_paints_one_square(size: int, seed: int) -> None:
    batch = torch.full((4, 2, 5, 7), 9, dtype=torch.uint8)
    out = cut_out(batch, size, torch.tensor([1, 2], dtype=torch.uint8), torch.Generator().manual_seed(seed))
    for result in out:
        painted = result[0] == 1
        assert torch.equal(painted, result[1] == 2)
        rows, columns = painted.any(1), painted.any(0)
        assert torch.equal(painted, rows[:, None] & columns[None, :])
        assert 1 <= int(rows.sum()) <= size
        assert 1 <= int(columns.sum()) <= size
        assert (result[:, ~painted] == 9).all()


# --- training


def test_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    data = images()
    result = train(network(), data, changed(epochs=8, cutout=0, flip=False), tmp_path, CPU, seen.append)
    assert tuple(seen) == result.epochs
    assert [r.epoch for r in seen] == list(range(1, 9))
    assert result.best_accuracy == max(r.test_accuracy for r in seen) >= 90
    assert result.best_epoch == next(r.epoch for r in seen if r.test_accuracy == result.best_accuracy)

    best = network(1)
    state = read_checkpoint(result.best)
    assert state.keys() == best.state_dict().keys()
    load_weights(best, state, "best")
    with torch.inference_mode():
        predictions = best.eval()(data.normalize(data.test.images)).argmax(1)
    assert 100 * (predictions == data.test.labels).double().mean() == pytest.approx(result.best_accuracy)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(folder / "last.safetensors")


def without_timing(results: tuple[EpochResult, ...]) -> list[EpochResult]:
    return [dataclasses.replace(r, seconds=0.0, images_per_second=0.0) for r in results]


class InterruptionError(Exception):
    """Stands for Ctrl-C or a kill."""


@pytest.mark.parametrize("forward", [3, 7, 9, 16, 20])  # 4 steps and 2 evaluations each epoch
def test_interrupted_and_continued_equals_uninterrupted(tmp_path: Path, forward: int) -> None:
    data = images()
    whole_model = network()
    whole = train(whole_model, data, SMALL, tmp_path / "whole", CPU, ignore)

    count = 0

    def interrupt(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == forward:
            raise InterruptionError

    model = network()
    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(InterruptionError):
        train(model, data, SMALL, tmp_path / "parts", CPU, ignore)
    handle.remove()
    torch.rand(7)  # another process has another state of the global generator
    seen: list[EpochResult] = []
    model = network(0 if forward < 6 else 5)  # once an epoch is finished, the initial weights no longer matter
    parts = train(model, data, SMALL, tmp_path / "parts", CPU, seen.append)

    assert without_timing(parts.epochs) == without_timing(whole.epochs)
    assert tuple(seen) == parts.epochs
    assert same_weights(model, whole_model)
    left, right = tensors_of(tmp_path / "parts"), tensors_of(tmp_path / "whole")
    assert {name.split(".")[0] for name in left} == {"model", "momentum"}
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert parts.best.read_bytes() == whole.best.read_bytes()


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train(network(), images(), SMALL, tmp_path, CPU, ignore)
    written = first.last.stat().st_mtime_ns
    seen: list[EpochResult] = []
    model = network(9)
    second = train(model, images(), SMALL, tmp_path, CPU, seen.append)
    assert second == first
    assert tuple(seen) == first.epochs
    assert first.last.stat().st_mtime_ns == written


def test_same_seed_same_weights_and_global_generator_left_alone(tmp_path: Path) -> None:
    models = []
    for run, seed in enumerate((3, 3, 4)):
        model = network()
        before = torch.get_rng_state()
        train(model, images(), changed(epochs=1, seed=seed), tmp_path / str(run), CPU, ignore)
        assert torch.equal(torch.get_rng_state(), before)
        models.append(model)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_another_recipe_or_other_data_is_not_continued(tmp_path: Path) -> None:
    train(network(), images(), changed(epochs=1), tmp_path, CPU, ignore)
    with pytest.raises(
        InputError, match=r"train\.epochs=4 \(was 1\), train\.lr=0\.1 \(was 0\.05\): .*last\.safetensors"
    ):
        train(network(), images(), changed(lr=0.1), tmp_path, CPU, ignore)
    with pytest.raises(InputError, match=r"^data="):
        train(network(), images(1), changed(epochs=1), tmp_path, CPU, ignore)
    with pytest.raises(InputError, match="does not fit Linear"):
        train(nn.Linear(3, 2), images(), changed(epochs=1), tmp_path, CPU, ignore)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"best\.safetensors is missing"):
        train(network(), images(), changed(epochs=1), tmp_path, CPU, ignore)


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_file_of_another_program_is_neither_continued_nor_replaced(tmp_path: Path, name: str) -> None:
    save_file(network().state_dict(), tmp_path / name, metadata={"training": "{}", "best": "{}"})
    written = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match=rf"{name} is not from this version of the training; remove it"):
        prepare_folder(tmp_path, changed(epochs=1))
    with pytest.raises(InputError, match=name):
        train(network(), images(), changed(epochs=1), tmp_path, CPU, ignore)
    assert (tmp_path / name).read_bytes() == written


def test_another_recipe_is_told_before_any_data(tmp_path: Path) -> None:
    train(network(), images(), changed(epochs=1), tmp_path, CPU, ignore)
    prepare_folder(tmp_path, changed(epochs=1))
    with pytest.raises(InputError, match=r"^train\.epochs=2 \(was 1\): .*last\.safetensors"):
        prepare_folder(tmp_path, changed(epochs=2))


def test_infinite_loss_stops_at_once_and_writes_nothing(tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    with pytest.raises(InputError, match=r"^train\.lr=1e\+30: the loss became (nan|inf) in epoch 1, by step"):
        train(network(), images(), changed(lr=1e30), tmp_path, CPU, seen.append)
    assert not seen
    assert not list(tmp_path.glob("*.safetensors"))


def test_folder_that_cannot_be_written_fails_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^outputs_dir=.*cannot be written"):
        train(network(), images(), SMALL, tmp_path / "file" / "folder", CPU, ignore)


def test_no_weight_decay_on_batch_norm_and_biases() -> None:
    model = network()
    decay = {
        name: group["weight_decay"]
        for group in sgd(model, SMALL).param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert decay == {"0.weight": 5e-4, "5.weight": 5e-4, "0.bias": 0, "1.weight": 0, "1.bias": 0, "5.bias": 0}


def test_every_image_is_used_once_per_epoch(tmp_path: Path) -> None:
    data = images()
    model = network()
    batches: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]) if module.training else None)
    train(model, data, changed(epochs=1, crop_padding=0, flip=False, cutout=0), tmp_path, CPU, ignore)
    assert [len(batch) for batch in batches] == [13, 13, 13, 13]
    used = torch.cat(batches).flatten(1)
    given_images = data.normalize(data.train.images).flatten(1)
    assert torch.equal(torch.unique(used, dim=0), torch.unique(given_images, dim=0))
    assert not torch.equal(used, given_images), "the order must be random"


def test_bf16_keeps_float32_weights(tmp_path: Path) -> None:
    model = network()
    train(model, images(), changed(epochs=1, precision="bf16"), tmp_path, CPU, ignore)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    other = network()
    train(other, images(), changed(epochs=1), tmp_path / "float32", CPU, ignore)
    assert not same_weights(model, other)


def test_one_logged_line_per_epoch_without_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="quant_sweep"):
        train(network(), images(), SMALL, tmp_path, CPU, ignore)
    assert [line.split(":")[0] for line in caplog.messages] == [f"epoch {n}/4" for n in range(1, 5)]


def test_recipe_can_be_written_as_json() -> None:
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(SMALL)))) == SMALL
