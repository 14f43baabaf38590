"""Weights on disk: checkpoints, students, other people's .pth, .safetensors and .onnx."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import bombs
import mutate
import numpy as np
import torch
from engine import Target
from torch import nn

from lowdino_edge.models.student_file import load_student, save_student
from lowdino_edge.models.teacher import load_teacher
from lowdino_edge.models.weights import fill, read_state
from lowdino_edge.train import checkpoint

IDENTITY = {"seed": 0, "data": "x", "method": "dino"}


def safetensors(rng: Random, data: bytes) -> bytes:
    """The header's tree, its length, or any byte."""
    if rng.random() < 0.35:
        return mutate.damaged(rng, data)
    n = struct.unpack("<Q", data[:8])[0]
    header, rest = mutate.as_json(rng, json.loads(data[8 : 8 + n])), data[8 + n :]
    n = rng.choice((len(header), len(header), len(header), rng.choice(mutate.NUMBERS) % 2**64))
    return struct.pack("<Q", n) + header + rest[: rng.choice((len(rest), len(rest), 0, len(rest) // 2))]


def _replaced(rng: Random, file: Path) -> None:
    """Another kind of thing in the file's place."""
    file.unlink()
    how = rng.randrange(4)
    if how == 1:
        file.mkdir()
    elif how == 2:
        file.symlink_to(rng.choice(("../../outside/secret", file.name, ".", "/dev/null", "/dev/zero")))
    elif how == 3:
        file.write_bytes(b"")


# ---- checkpoints


def _module() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    return net, optimizer


def _checkpoints(folder: Path) -> Path:
    net, optimizer = _module()
    for step in (5, 10):
        checkpoint.save(folder, step, net, optimizer, IDENTITY)  # type: ignore[arg-type]
    return folder


def _checkpoint(made: Path, rng: Random, folder: Path) -> Callable[[], object]:
    shutil.copytree(made, folder, dirs_exist_ok=True)
    newest = folder / "step_000010"
    file, meta = newest / rng.choice(("meta.json", *checkpoint.FILES)), newest / "meta.json"
    how = rng.random()
    if how < 0.08:
        _replaced(rng, file)
    elif file == meta:
        meta.write_bytes(mutate.as_json(rng, json.loads(meta.read_bytes())))
    else:
        file.write_bytes(safetensors(rng, file.read_bytes()))
        if how < 0.8:  # as if it had been written so
            told = json.loads(meta.read_text())
            told["sha256"][file.name] = sha256(file.read_bytes()).hexdigest()
            meta.write_text(json.dumps(told))
    return lambda: checkpoint.load(folder, *_module(), IDENTITY)  # type: ignore[arg-type]


# ---- students


def _students(folder: Path) -> Path:
    from lowdino_edge.models.backbone import build_student

    save_student(build_student("nano", 32, seed=0), folder / "student.safetensors", {"stage": "train"})
    return folder


def _student(made: Path, rng: Random, folder: Path) -> Callable[[], object]:
    shutil.copytree(made, folder, dirs_exist_ok=True)
    file, card = folder / "student.safetensors", folder / "student.json"
    told = json.loads(card.read_text())
    how = rng.random()
    if how < 0.05:
        _replaced(rng, rng.choice((file, card)))
    elif how < 0.5:
        card.write_bytes(mutate.as_json(rng, told))
    else:
        file.write_bytes(safetensors(rng, file.read_bytes()))
        if how < 0.9:
            told["sha256"] = sha256(file.read_bytes()).hexdigest()
        card.write_bytes(json.dumps(told).encode() if how < 0.8 else mutate.as_json(rng, told))
    return lambda: load_student(folder)


# ---- other people's


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def _pths(folder: Path) -> list[bytes]:
    made, state = [], _small().state_dict()
    trees = (
        state,
        {"teacher": {f"module.backbone.{k}": v for k, v in state.items()}, "epoch": 3},
        {"model": {"a": 1}},
        [1],
    )
    for tree in trees:
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(tree, buffer, _use_new_zipfile_serialization=new)
            made.append(buffer.getvalue())
    return made


def _pickle(rng: Random) -> bytes:
    """Opcodes that import, call, repeat, nest and promise."""
    parts = (
        b"cos\nsystem\n(S'id'\ntR",
        b"cbuiltins\nexec\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b")R",
        b"}",
        b"]",
        b"(",
        b"t",
        b"l",
        b"d",
        b"s",
        b"b",
        b"0",
        b"2",
        b"N",
        b"I01\n",
        b"J\xff\xff\xff\x7f",
        b"X\xff\xff\xff\x7f",
        b"\x8a\xff" + b"\x7f" * 255,
        b"\x8b\xff\xff\xff\x7f",
        b"q\0",
        b"h\0",
        b"r\xff\xff\xff\xff",
        b"j\xff\xff\xff\xff",
        b"Q",
        b"\x85" * 5000,
        b"X\x03\0\0\0abc",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"cargparse\nNamespace\n",
        b"\x81",
        b"\x80\x02",
        b"\x80\xff",
    )
    return b"\x80\x02" + b"".join(rng.choice(parts) for _ in range(rng.randrange(1, 12))) + b"."


def _pth(made: list[bytes], rng: Random, folder: Path) -> Callable[[], object]:
    file, how = folder / rng.choice(("a.pth", "a.pt", "a.bin", "a")), rng.random()
    if how < 0.15:
        data = _pickle(rng)
    elif how < 0.3:
        buffer = io.BytesIO()
        torch.save(_small().state_dict(), buffer)
        import zipfile

        with zipfile.ZipFile(buffer) as z:
            members = {n: z.read(n) for n in z.namelist()}
        name = next(n for n in members if n.endswith("data.pkl"))
        members[name] = _pickle(rng) if rng.random() < 0.3 else mutate.damaged(rng, members[name])
        data = bombs.zipped(rng, members)
    elif how < 0.35:
        data = pickle.dumps(rng.choice((["x"] * 10, {"a": {"model": 3}}, 5, {"state_dict": {"a": np.ones(3)}})))
    else:
        data = mutate.damaged(rng, rng.choice(made), made)
    file.write_bytes(data)
    return lambda: _filled(file)


def _filled(file: Path) -> None:
    net = _small()
    fill(net, read_state(file), file, "small")


def _tensors(folder: Path) -> bytes:
    from safetensors.torch import save

    return save(copy.deepcopy(_small().state_dict()))


def _foreign(made: bytes, rng: Random, folder: Path) -> Callable[[], object]:
    file = folder / "a.safetensors"
    file.write_bytes(safetensors(rng, made))
    return lambda: _filled(file)


def _network(folder: Path) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("GlobalAveragePool", ["y"], ["z"])]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", ["n", 3, 8, 8]), ("z", ["n", 4, 1, 1]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _onnx(made: bytes, rng: Random, folder: Path) -> Callable[[], object]:
    file = folder / "a.onnx"
    file.write_bytes(mutate.damaged(rng, made))

    return lambda: load_teacher(f"{file}?image_size=8")


TARGETS = [
    Target("checkpoint", _checkpoints, _checkpoint),
    Target("student", _students, _student),
    Target("weights-pth", _pths, _pth),
    Target("weights-safetensors", _tensors, _foreign),
    Target("teacher-onnx", _network, _onnx),
]
