"""The package is what the tree says: nothing missing from the wheel, and no second way to import a class."""

import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _real_folder(package: str) -> Path:
    mapped: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
    return ROOT / mapped.get(package, package.replace(".", "/"))


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    inits = [*(ROOT / "qcal").rglob("__init__.py"), ROOT / "callbacks/__init__.py", ROOT / "configs/__init__.py"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    there = {name if name.startswith("qcal") else f"qcal.{name}" for name in there}
    assert there == listed
    assert all((_real_folder(package) / "__init__.py").is_file() for package in listed)


def test_the_links_point_inside_the_checkout() -> None:
    for name in ("callbacks", "configs"):
        link = ROOT / "qcal" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_importing_the_folder_by_its_bare_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "callbacks", raising=False)
    with pytest.raises(ImportError, match=r"Import `qcal\.callbacks`, not `callbacks`"):
        __import__("callbacks")


@pytest.mark.slow
def test_wheel_and_sdist_hold_everything_and_the_wheel_imports_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in PROJECT["tool"]["setuptools"]["packages"]
        for path in _real_folder(package).glob("*.py")
    }
    expected |= {
        f"qcal/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert expected | {"qcal/py.typed"} <= names
    assert not [name for name in names if name.startswith(("callbacks/", "configs/", "tests/"))]
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as sdist:
        assert any(member.endswith("/callbacks/post_training_quantization.py") for member in sdist.getnames())

    # The dependencies are seen from this environment (5 GB are not installed twice); qcal itself only from the wheel.
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, capture_output=True
    )
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    code = "import qcal, qcal.callbacks, qcal.configs, qcal.cli; print(qcal.__file__, qcal.callbacks.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert str(site / "qcal" / "callbacks") in done.stdout
    version = subprocess.run(
        [python.with_name("qcal"), "--version"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert version.stdout == f"qcal {PROJECT['project']['version']}\n"
