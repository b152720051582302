"""Made once, whatever the file holds. The tests of both caches, of images and of summaries, use it for real."""

from pathlib import Path

import pytest

from quant_sweep.errors import InputError
from quant_sweep.runtime.disk_cache import made_once


def read(path: Path) -> str | None:
    text = path.read_text() if path.exists() else ""
    return text.removeprefix("intact ") if text.startswith("intact ") else None


def write(path: Path, content: str) -> None:
    path.write_text(f"intact {content}")


def never() -> str:
    raise AssertionError("made although the file is there")


def test_made_once_then_read(tmp_path: Path) -> None:
    path = tmp_path / "kind" / "name"
    assert made_once(path, read, lambda: "one", write) == "one"
    assert made_once(path, read, never, write) == "one"


def test_damaged_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "name"
    path.write_text("broken")
    assert made_once(path, read, lambda: "two", write) == "two"
    assert f"{path} is damaged" in caplog.text


def test_a_disk_that_fills_up_is_told_in_one_line(tmp_path: Path) -> None:
    def full(_path: Path, _content: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"^cache_dir=.*No space left.*allowed: a writable folder"):
        made_once(tmp_path / "kind" / "name", read, lambda: "one", full)
