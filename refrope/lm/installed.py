"""Models inside installed Python packages, found without importing these."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from refrope.lm.fields import WHO

PREFIX = "pip:"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def installed_model(source: str) -> Path:
    """The .gguf file, or the directory with a config.json, that the package in "pip:PACKAGE" brings.

    Raises
    ------
    ValueError
        No such package, or one with no model or several.
    """
    package = source.removeprefix(PREFIX)
    if not _NAME.fullmatch(package):
        raise ValueError(f"{WHO}: source is {source!r}, expected {PREFIX}PACKAGE with the name of a package")
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"{WHO}: {source} is not installed here (pip install {package})") from None
    found = set()
    for file in distribution.files or ():
        if file.name.endswith(".gguf"):
            found.add(Path(str(distribution.locate_file(file))))
        elif file.name == "config.json":
            found.add(Path(str(distribution.locate_file(file))).parent)
    models = sorted(path for path in found if path.is_file() or any(path.glob("*.safetensors")))
    if len(models) != 1:
        came = ", ".join(map(str, models)) or "none"
        raise ValueError(f"{WHO}: {source} has models {came}, expected one .gguf file or model directory")
    return models[0]
