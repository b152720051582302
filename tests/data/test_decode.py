"""One image file to pixels, and many of them in order."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as transforms

from quant_sweep.data import decode
from quant_sweep.data.decode import IMAGES_PER_TASK, decode_image, decode_images
from quant_sweep.errors import InputError
from quant_sweep.runtime.progress import heard_by


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("webp", {"lossless": True}), ("bmp", {})])
def test_image_of_the_right_size_is_taken_pixel_for_pixel(tmp_path: Path, ending: str, options: dict) -> None:
    pixels = noise(8, 8)
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **options)
    assert np.array_equal(decode_image(tmp_path / f"a.{ending}", size=8, resize=8), pixels)


def test_jpeg_is_decoded_as_pil_does(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.jpg")
    assert np.array_equal(decode_image(tmp_path / "a.jpg", 8, 8), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    ending = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(noise(6, 6)).convert(mode).save(tmp_path / f"a.{ending}")
    assert decode_image(tmp_path / f"a.{ending}", 6, 6).shape == (6, 6, 3)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (5, 9), (8, 16), (10, 10), (8, 8), (1, 7)])
def test_other_sizes_are_resized_and_cropped_as_torchvision_does(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(height, width)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = transforms.center_crop(transforms.resize(Image.fromarray(pixels), 10), 8)
    assert np.array_equal(decode_image(tmp_path / "a.png", size=8, resize=10), np.asarray(expected))


def test_centre_is_cut_out_without_resizing_when_the_shorter_side_fits(tmp_path: Path) -> None:
    pixels = noise(8, 14)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png", size=8, resize=8), pixels[:, 3:11])


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    files = []
    for index in range(2 * IMAGES_PER_TASK + 3):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(noise(4, 4, seed=index)).save(files[-1])
    images, broken = decode_images(files, size=4, resize=4)
    assert not broken
    assert images.dtype == torch.uint8
    assert images.shape == (len(files), 3, 4, 4)
    for index, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), noise(4, 4, seed=index))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_truncated_file_is_named(tmp_path: Path, ending: str) -> None:
    good, bad = tmp_path / f"good.{ending}", tmp_path / f"bad.{ending}"
    Image.fromarray(noise(32, 32)).save(good)
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cannot decode .*bad\.{ending}"):
        decode_images([good] * 70 + [bad] + [good] * 70, 32, 32)


@pytest.mark.parametrize("raw", [b"", b"this is text", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_file_that_is_no_image_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(InputError, match=r"cannot decode .*a\.png") as caught:
        decode_image(tmp_path / "a.png", 8, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "ending"), [(np.uint16, "png"), (np.float32, "tiff")])
def test_more_than_8_bits_per_channel_is_refused_instead_of_clipped(tmp_path: Path, dtype: type, ending: str) -> None:
    Image.fromarray(np.full((8, 8), 300, dtype=dtype)).save(tmp_path / f"a.{ending}")
    with pytest.raises(InputError, match=rf"a\.{ending} has pixels of PIL mode .*at most 8 bits"):
        decode_image(tmp_path / f"a.{ending}", 8, 8)


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    told: list[tuple[str, int, int]] = []
    with heard_by(lambda *step: told.append(step)):
        decode_images([tmp_path / "a.png"] * (IMAGES_PER_TASK + 1), 8, 8)
    assert (told[0], told[-1]) == (("decoding images", 0, 2), ("decoding images", 2, 2))


def test_after_an_error_the_other_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{i}.png" for i in range(40 * IMAGES_PER_TASK)]
    seen: list[Path] = []

    def slow(file: Path, size: int, _resize: int) -> np.ndarray:
        seen.append(file)
        if file == files[0]:
            raise InputError("broken")
        time.sleep(0.001)
        return np.zeros((size, size, 3), dtype=np.uint8)

    monkeypatch.setattr(decode, "decode_image", slow)
    with pytest.raises(InputError, match="broken"):
        decode_images(files, 2, 2)
    assert len(seen) < len(files) / 2
