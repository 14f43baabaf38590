"""Other people's checkpoints: finding, reading without pickle's dangers, and renaming to timm's keys.

Formats: timm's (.safetensors, .pth), those of the DINO, DINOv2, DINOv3 and EUPE repositories, whole training
checkpoints of any ({"teacher": ...}, "module.", "backbone." prefixes).
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import re
import shutil
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge import console
from lowdino_edge.errors import MissingWeights, UserError
from lowdino_edge.models.teachers import weights_dir
from lowdino_edge.run import atomic_path

State = dict[str, Tensor]

WRAPPERS = ("teacher", "state_dict", "model", "student")  # in the order of preference
PREFIXES = ("module.", "backbone.")
_SMALL = 16 << 20  # bytes
TIMEOUT = 20  # seconds without an answer


def find_weights(who: str, file: str, url: str, *, also: str | None = None, download: bool = True) -> Path:
    """The local file of a teacher's weights, fetched into `weights_dir()` when allowed.

    Args:
        who: the teacher, for messages.
        file: name in `weights_dir()`; `also` is a second name under which it may lie there.

    Raises:
        MissingWeights: neither here nor to be had; says which file to fetch and where to put it.
    """
    for name in filter(None, (file, also)):
        if (weights_dir() / name).is_file():
            return weights_dir() / name
    target = weights_dir() / file
    reason = "downloads are off"
    if download and url:
        try:
            console.say(f"fetching {url}")
            with urlopen(url, timeout=TIMEOUT) as response, atomic_path(target) as tmp, tmp.open("wb") as out:
                shutil.copyfileobj(response, out, 1 << 20)
                if out.tell() != int(response.headers.get("Content-Length", out.tell())):
                    raise OSError("it broke off")
            return target
        except (OSError, HTTPException, ValueError) as e:
            reason = f"the download failed ({getattr(e, 'reason', None) or e})"
    where = f"fetch {url} on another machine and put it" if url else f"put the file '{file}'"
    raise MissingWeights(
        f"no weights for {who}: '{target}' is not there and {reason}", f"{where} at {target}, or name it: {who}@FILE"
    )


def read_state(file: Path) -> State:
    """The tensors of a checkpoint, unwrapped: plain keys of one backbone.

    Raises:
        MissingWeights: no such file.
        UserError: not readable as a checkpoint, or no tensors in it.
    """
    if not file.is_file():
        raise MissingWeights(f"no weights at '{file}'", "check the path after the @")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tree: Any = load_file(file)
        else:
            tree = _unpickled(file)
    except Exception as e:  # parsers raise anything on a damaged file
        reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
        raise UserError(
            f"cannot read weights from '{file}': {reason}",
            "fetch the file again (.safetensors, or a .pth of tensors only)",
        ) from None
    state = unwrap(tree)
    if not state:
        raise UserError(f"'{file}' holds no weights", "name a checkpoint in timm's or the original repository's format")
    return state


def _unpickled(file: Path) -> Any:
    """A .pth of tensors. An archive may not unpack to more than torch writes, and of the old format no length that the
    file states is believed: a mapping reads no further than the file."""
    # a training checkpoint keeps its arguments, which are harmless
    with torch.serialization.safe_globals([argparse.Namespace]):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > 2 * file.stat().st_size + _SMALL:
                raise ValueError(f"it would unpack to {size:,} bytes")
            return torch.load(file, map_location="cpu", weights_only=True)
        with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return torch.load(whole, map_location="cpu", weights_only=True)  # type: ignore[arg-type]


def unwrap(tree: Any) -> State:
    """Takes a checkpoint's wrappers and prefixes off; keeps the backbone where there are heads beside it."""
    while isinstance(tree, Mapping) and (key := next((k for k in WRAPPERS if isinstance(tree.get(k), Mapping)), None)):
        tree = tree[key]
    state = {str(k): v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            # "module." is on all keys; "backbone." on the network's, with heads beside it that are left behind
            if inside and (prefix == "backbone." or len(inside) == len(state)):
                state, stripped = inside, True
    return state


def to_timm(state: State, net: nn.Module) -> State:
    """Renames an original checkpoint's keys to timm's and fits its position embeddings to `net`.

    DINOv2: the mask token goes; registers become timm's `reg_token`, and the position of the CLS token, which timm
    does not keep there, is added to it; ViT-g's SwiGLU w12 and w3 become fc1 and fc2. DINOv3 and EUPE: see
    `_from_dinov3`. The classifier goes, if any.
    """
    state = dict(state)
    state.pop("mask_token", None)
    if "storage_tokens" in state:
        state = _from_dinov3(state, net)
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    state = {k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for k, v in state.items()}
    classifier = classifier_names(net)
    state = {k: v for k, v in state.items() if k.rpartition(".")[0] not in classifier}
    ours = getattr(net, "pos_embed", None)
    pos = state.get("pos_embed")
    if isinstance(ours, Tensor) and pos is not None and pos.ndim == 3 and pos.shape != ours.shape:
        grid = int(net.patch_embed.grid_size[0])  # type: ignore
        prefix = pos.shape[1] - int((pos.shape[1]) ** 0.5) ** 2
        offset = 0.1 if _is_dino(net) and "reg_token" not in state else 0.0
        state["pos_embed"] = resize_positions(pos, grid, prefix=prefix, offset=offset, antialias=offset == 0)
    return state


def _from_dinov3(state: State, net: nn.Module) -> State:
    """DINOv3's and EUPE's keys: rotations are computed anew, heads for training go, and so does the keys' bias, which
    they mask. Where timm's network has no bias of queries and values, theirs has to be zero and is left out."""
    own, made = net.state_dict().keys(), {}
    for key, value in state.items():
        if key.startswith(("rope_embed.", "projectors.", "local_cls_norm")) or key.endswith(".bias_mask"):
            continue
        if key.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            if key.replace("qkv.bias", "q_bias") in own:
                made[key.replace("qkv.bias", "q_bias")] = query
                made[key.replace("qkv.bias", "v_bias")] = values
                continue
            if not (query.any() or values.any()):
                continue
        made[re.sub(r"ls([12])\.gamma$", r"gamma_\1", key).replace("storage_tokens", "reg_token")] = value
    return made


def _is_dino(net: nn.Module) -> bool:
    cfg = getattr(net, "pretrained_cfg", None) or {}
    return "dino" in f"{cfg.get('architecture')}.{cfg.get('tag')}"


def classifier_names(net: nn.Module) -> set[str]:
    """The modules that timm says are the classifier, so that their weights are known to be left out."""
    names = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    return {names} if isinstance(names, str) else set(names)


def resize_positions(pos_1ND: Tensor, grid: int, *, prefix: int, offset: float, antialias: bool) -> Tensor:
    """Position embeddings of a square grid, (1, prefix + n * n, D), brought to (1, prefix + grid * grid, D).

    Bicubic, as the original repositories do it. DINO and DINOv2 scale by (grid + 0.1) / n, their guard against
    rounding, and without antialiasing; DINOv2 with registers names the size (offset 0) and antialiases. The offset
    shifts the sampling points, so it has to be repeated. The same grid is the identity.
    """
    old = round((pos_1ND.shape[1] - prefix) ** 0.5)
    if old == grid:
        return pos_1ND
    first, rest = pos_1ND[:, :prefix], pos_1ND[:, prefix:]
    map_1Dhw = rest.float().transpose(1, 2).unflatten(2, (old, old))
    scale = (grid + offset) / old
    how: dict[str, Any] = {"scale_factor": (scale, scale)} if offset else {"size": (grid, grid)}
    map_1Dhw = F.interpolate(map_1Dhw, mode="bicubic", antialias=antialias, **how)
    return torch.cat([first, map_1Dhw.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)


def fill(net: nn.Module, state: State, file: Path, who: str) -> None:
    """Loads a state into `net`, all of it and nothing else.

    Raises:
        UserError: missing, unexpected or misshapen weights; names the first few.
    """
    own = net.state_dict()
    counters = {
        k for k in own if k.endswith("num_batches_tracked")
    }  # old checkpoints lack them, inference ignores them
    missing = sorted(own.keys() - state.keys() - counters)
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = [
        f"{what}: {_few(keys)}"
        for what, keys in (("missing", missing), ("unexpected", extra), ("other shape", shapes))
        if keys
    ]
    if problems:
        raise UserError(
            f"'{file}' is no {who}; {'; '.join(problems)}",
            "name the checkpoint of this very network, backbone included",
        )
    net.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)


def _few(keys: list[str], n: int = 3) -> str:
    more = f" and {len(keys) - n} more" if len(keys) > n else ""
    return ", ".join(keys[:n]) + more


def fingerprint(net: nn.Module, about: str = "") -> str:
    """sha256 over `about` and every parameter and buffer (name, type, shape, bytes); the same in every process."""
    digest = hashlib.sha256(about.encode())
    for key, value in sorted(net.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()
