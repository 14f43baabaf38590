"""The ExecuTorch C++ runner, built here from the executorch wheel's own headers and libraries.

For devices where executorch's Python is not, since that needs torch. What `build` gives is one file: a few lines of
shell and, behind them, the program with every library it needs, glibc and its loader included (the wheel has shared
libraries alone, so a binary that is static in the linker's sense cannot be made of it). It unpacks itself beside
itself, starts, and removes what it unpacked. Of the system it needs a Linux kernel, sh, uname, mkdir, tail and tar.

Tried: x86-64 here, and aarch64 under qemu-user. Not tried: an Android device; bringing its own glibc is meant to make
it run on Android's kernel too, where `adb shell` may execute files in /data/local/tmp.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata, util
from pathlib import Path

from lowdino_edge import console
from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.run import atomic_path

MACHINES = ("x86_64", "aarch64")
WHEELS = "LOWDINO_EXECUTORCH_WHEELS"  # a directory with the wheel of the other machine, for work without a network
EMULATOR = "LOWDINO_EMULATOR"  # a command the packed program is started by, such as qemu-aarch64-static
_HERE = Path(__file__).parent
_SOURCES = ("et_runner.cpp", "machine.h")
_ET = ("executorch", "executorch_backend_xnnpack", "executorch_kernels_optimized", "executorch_kernels_quantized",
       "executorch_threadpool")  # fmt: skip
_LOADER = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_SYSTEM = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0")
_FLAGS = ("-std=c++17", "-O2", "-Wall", "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED")
_SELF_EXTRACT = """#!/bin/sh
[ "$(uname -m)" = MACHINE ] || [ -n "$LOWDINO_EMULATOR" ] ||
  { echo "et_runner is built for MACHINE, and this machine is $(uname -m)" >&2; exit 126; }
d="$0.$$"
trap 'rm -rf "$d"' EXIT
mkdir "$d" && tail -n +9 "$0" | tar -xf - -C "$d" || { echo "et_runner cannot unpack itself" >&2; exit 1; }
export LOWDINO_RUNNER_LIBS="$d"
exec $LOWDINO_EMULATOR "$d/loader" --library-path "$d" "$d/et_runner" "$@"
"""


def build(machine: str) -> Path:
    """The runner for a Linux or Android machine ("x86_64", "aarch64"), from the user's cache or built in some seconds.

    Raises:
        UserError: no runner for that machine, no compiler, no executorch, or its wheel cannot be had.
    """
    if machine not in MACHINES:
        raise UserError(f"there is no ExecuTorch runner for '{machine}'", f"it is built for {' and '.join(MACHINES)}")
    compiler, version = _compiler(machine), _version()
    target = cache_dir() / "runner" / _key(machine, compiler, version) / "et_runner"
    if target.is_file():
        return target
    sdk = _sdk(machine, version)
    console.say(f"building the ExecuTorch {version} runner for {machine} (once)")
    work = target.parent / f"build-{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        _compile(compiler, sdk, version, work / "et_runner")
        with atomic_path(target) as tmp:
            _pack(machine, _libraries(machine, compiler, sdk), work / "et_runner", tmp)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def cache_dir() -> Path:
    """lowdino's directory in the user's cache."""
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "lowdino"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "lowdino"


def _is_here(machine: str) -> bool:
    return platform.system() == "Linux" and platform.machine() == machine


def _compiler(machine: str) -> str:
    name = "g++" if _is_here(machine) else f"{machine}-linux-gnu-g++"
    found = shutil.which(name)
    if found is None:
        package = "g++" if _is_here(machine) else f"g++-{machine.replace('_', '-')}-linux-gnu"
        raise UserError(f"no C++ compiler '{name}' to build the ExecuTorch runner with", f"apt install {package}")
    return found


def _version() -> str:
    try:
        return metadata.version("executorch")
    except metadata.PackageNotFoundError:
        raise missing_extra("executorch", "executorch") from None


def _key(machine: str, compiler: str, version: str) -> str:
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [machine, version, compiler, told, _SELF_EXTRACT, *_FLAGS]
    parts += [(_HERE / name).read_text(encoding="utf-8") for name in (*_SOURCES, "__init__.py")]
    return f"{machine}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def _sdk(machine: str, version: str) -> Path:
    """A directory with executorch's `include` and `lib` for `machine`: the installed package, or another wheel's."""
    if _is_here(machine):
        spec = util.find_spec("executorch")
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        for place in places:
            if (Path(place) / "lib" / "libexecutorch.so").is_file():
                return Path(place)
        raise UserError("the installed executorch has no C++ libraries", "pip install 'lowdino-edge[executorch]'")
    target = cache_dir() / f"executorch-{version}-{machine}"
    if not target.is_dir():
        wheel = _wheel(machine, version)
        with atomic_path(target) as tmp, zipfile.ZipFile(wheel) as z:
            wanted = ("executorch/lib/", "executorch/include/")
            z.extractall(tmp, [n for n in z.namelist() if n.startswith(wanted)])
    return target / "executorch"


def _wheel(machine: str, version: str) -> Path:
    """The wheel of another machine: where the user put it, in the cache, or downloaded into it."""
    folder, pattern = cache_dir() / "wheels", f"executorch-{version}-*{machine}.whl"
    for place in (os.environ.get(WHEELS, ""), folder):
        found = sorted(Path(place).glob(pattern)) if place else []
        if found:
            return found[-1]
    console.say(f"fetching executorch's {machine} wheel (18 MB, once)")
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    command = [
        sys.executable, "-m", "pip", "download", f"executorch=={version}", "--no-deps", "--only-binary=:all:",
        "--platform", f"manylinux_2_28_{machine}", "--python-version", python, "--dest", str(folder), "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    found = sorted(folder.glob(pattern))
    if not found:
        said = (done.stderr.strip().splitlines() or ["pip fetched nothing"])[-1]
        raise UserError(
            f"executorch's {machine} wheel cannot be had: {said}",
            f"where there is a network: pip download executorch=={version} --no-deps --only-binary=:all: --platform "
            f"manylinux_2_28_{machine} --python-version {python}; then name its directory: {WHEELS}=DIR",
        )
    return found[-1]


def _compile(compiler: str, sdk: Path, version: str, out: Path) -> None:
    include = sdk / "include"
    command = [
        compiler, *_FLAGS, f'-DET_VERSION="{version}"', "-isystem", str(include),
        "-isystem", str(include / "executorch/runtime/core/portable_type/c10"), str(_HERE / "et_runner.cpp"),
        "-o", str(out), f"-L{sdk / 'lib'}",
        "-Wl,--no-as-needed", *(f"-l{name}" for name in _ET),  # kernels register themselves; nothing names them
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise UserError(f"the ExecuTorch runner does not compile: {lines[0] if lines else 'no message'}",
                        f"{compiler} has to know C++17 (GCC 9 or later)")  # fmt: skip


def _libraries(machine: str, compiler: str, sdk: Path) -> dict[str, Path]:
    """Name in the pack -> file: executorch's own and the compiler's system's."""
    found = {f"lib{name}.so": sdk / "lib" / f"lib{name}.so" for name in _ET}
    for name in (*_SYSTEM, _LOADER[machine]):
        told = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        path = Path(told.stdout.strip())
        if not path.is_absolute() or not path.is_file():
            raise UserError(f"{compiler} does not know where {name} is", "install it with the C library it came with")
        found[name] = path.resolve()
    found["loader"] = found[_LOADER[machine]]  # twice: by this name it is started, by the other it is linked against
    return found


def _pack(machine: str, libraries: dict[str, Path], program: Path, out: Path) -> None:
    with out.open("wb") as f:
        f.write(_SELF_EXTRACT.replace("MACHINE", machine).encode())
        with tarfile.open(fileobj=f, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, path in sorted({**libraries, "et_runner": program}.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = path.stat().st_size, 0o755
                with path.open("rb") as content:
                    tar.addfile(member, content)
    out.chmod(0o755)
