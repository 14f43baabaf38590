"""What `MODEL` on the command line means: a run, a student file, an artifact, a student id or a teacher id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lowdino_edge import console
from lowdino_edge.artifact import Artifact, directory_of
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS, canonical, with_image_size
from lowdino_edge.run import read_record, sha256
from lowdino_edge.types import Encoder

if TYPE_CHECKING:
    from lowdino_edge.models.backbone import Student

Kind = Literal["student", "artifact", "teacher"]


@dataclass(frozen=True)
class Model:
    """A resolved MODEL. `name` goes into result file names; `run` is the run directory it belongs to, if any."""

    kind: Kind
    spec: str
    name: str
    run: Path | None = None

    def encoder(
        self,
        device: str = "cpu",
        threads: int | None = None,
        image_size: int | None = None,
        *,
        download: bool = True,
    ) -> Encoder:
        """Loads it, to run on `threads` threads; None: one for an artifact, torch's own setting for a student. A
        teacher's weights may be fetched where `download` says so."""
        from lowdino_edge import runtimes
        from lowdino_edge.runtimes.eager import EagerEncoder

        if self.kind == "artifact":
            if image_size is not None:
                raise UserError("an artifact has its image size built in", "leave --image-size out, or export again")
            return runtimes.load(Artifact.read(Path(self.spec)), threads=threads or 1)
        if self.kind == "teacher":
            from lowdino_edge.models.teacher import load_teacher

            spec = self.spec if image_size is None else with_image_size(self.spec, image_size)
            return EagerEncoder(load_teacher(spec, download=download), name=self.name, device=device, threads=threads)
        return EagerEncoder(self.student(image_size), name=self.name, device=device, threads=threads)

    def student(self, image_size: int | None = None) -> Student:
        """The PyTorch student. Raises `UserError` for anything that is not one."""
        from lowdino_edge.models.backbone import build_student
        from lowdino_edge.models.student_file import load_student

        if self.kind != "student":
            raise UserError(
                f"'{self.spec}' is {self.kind}, not a student", "name a run directory or student.safetensors"
            )
        if Path(self.spec).exists():
            return load_student(Path(self.spec), image_size=image_size)
        console.warn(f"'{self.spec}' is a student id: its weights are RANDOM (seed 0), nothing was trained")
        return build_student(self.spec, image_size, seed=0)


def resolve(spec: str) -> Model:
    """Finds out what `spec` names.

    Raises:
        UserError: a path that holds nothing of ours, or a name that is neither student nor teacher.
    """
    path = Path(spec)
    if path.is_dir():
        if (path / "artifact.json").is_file():
            return _artifact(path)
        if (path / "student.safetensors").is_file():
            return Model("student", str(path), path.name, run=path)
        if path.suffix == ".mlpackage" and (path.parent / "artifact.json").is_file():
            return _artifact(directory_of(path))
        raise UserError(
            f"'{spec}' holds neither student.safetensors nor artifact.json",
            "name a finished run or an artifact directory",
        )
    if path.is_file():
        if path.name == "student.safetensors":
            return Model("student", spec, path.parent.name, run=path.parent)
        if (path.parent / "artifact.json").is_file():
            return _artifact(directory_of(path))
        if path.suffix == ".safetensors":
            return Model("student", spec, path.stem)
        if path.suffix == ".onnx":
            return Model("teacher", spec, path.stem)
        raise UserError(
            f"'{spec}' has no artifact.json beside it",
            "name a file that `lowdino export` wrote, with its artifact.json",
        )
    if spec in STUDENTS:
        return Model("student", spec, spec)
    if "@" in spec or _is_teacher(spec):
        return Model("teacher", spec, re.sub(r"[^\w.-]", "_", canonical(spec)))
    if "/" in spec or path.suffix:
        raise UserError(f"no model at '{spec}'", "name a run directory, an artifact, a student id or a teacher id")
    raise unknown("model", spec, [*STUDENTS, *TEACHERS])


def _is_teacher(spec: str) -> bool:
    return canonical(spec) in TEACHERS or spec.startswith("timm:") or canonical(spec).endswith(".onnx")


def _artifact(directory: Path) -> Model:
    run = directory.parent.parent if directory.parent.name == "artifacts" else None
    return Model("artifact", str(directory), directory.name, run=run)


def describe(model: Model) -> dict[str, Any]:
    """For JSON results: what was measured."""
    return {"model": model.name, "kind": model.kind}


def weights(model: Model) -> str:
    """sha256 of the file behind it; of what is no file, its name."""
    path = Path(model.spec)
    if model.kind == "artifact":
        return str(read_record(path / "artifact.json", sha256=str)["sha256"])
    file = path / "student.safetensors" if path.is_dir() else path
    return sha256(file) if file.is_file() else model.spec
