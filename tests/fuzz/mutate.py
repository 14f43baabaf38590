"""Damage, from a hint of it to none of the original left: of bytes, of text, of JSON's and YAML's trees."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40,
    2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**18, 10**30,
)  # fmt: skip
FLOATS = (0.5, -0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), -0.0, 1e-30)
TEXTS = (
    "", " ", "\0", "\n", "a\nb", "\x1b[2J", "../outside/secret", "../../../../etc/passwd", "/etc/passwd", "/dev/zero",
    "/proc/self/mem", "~", "..", ".", "/", "a/b", "CON", "%s%n", "{0.__class__}", "é", "e\u0301", "\u202e", "\ufeff",
    "\ud800", "\U0001f600", "null", "NaN", "1e400", "-1", "0x10", "1_000", "None", "true", "<script>", "'\"", "x" * 300,
    "x" * 100_000, "a=1", "[" * 50, "2026-02-30", "!!python/object/apply:os.system [id]", "&a [*a]", "<<: *a", "\\",
)  # fmt: skip
# what json.dumps cannot write: it is put in afterwards
RAW = {
    "@deep@": "[" * 100_000, "@nested@": "[" * 5000 + "]" * 5000, "@objects@": '{"a":' * 5000 + "1" + "}" * 5000,
    "@digits@": "9" * 6000, "@long@": "1" + "0" * 400, "@surrogate@": '"\\ud800"', "@nan@": "NaN",
    "@control@": '"\x01"',    "@twice@": '{"a": 1, "a": 2}', "@wide@": "[" + "0," * 20_000 + "0]",
}  # fmt: skip
Tree = Any


# ---- bytes


def _flip(rng: Random, data: bytearray, n: int = 1) -> None:
    for _ in range(n):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flips(rng: Random, data: bytearray) -> None:
    _flip(rng, data, rng.choice((1, 2, 8, 64, 1 + len(data) // 50)))


def _bytes(rng: Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 3, 20))):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(rng: Random, data: bytearray) -> None:
    del data[rng.choice((0, rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 20)))) :]


def _append(rng: Random, data: bytearray) -> None:
    data += rng.randbytes(rng.choice((1, 10, 1000)))


def _remove(rng: Random, data: bytearray) -> None:
    a = rng.randrange(len(data) + 1)
    del data[a : a + rng.choice((1, 2, 4, 16, 200))]


def _repeat(rng: Random, data: bytearray) -> None:
    a = rng.randrange(len(data) + 1)
    data[a:a] = data[a : a + rng.choice((1, 4, 32, 500))] * rng.choice((1, 2, 10))


def _move(rng: Random, data: bytearray) -> None:
    a, b = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    piece = data[a : a + rng.choice((2, 8, 64))]
    data[b : b + len(piece)] = piece


def _clear(rng: Random, data: bytearray) -> None:
    a = rng.randrange(len(data) + 1)
    b = min(len(data), a + rng.choice((4, 16, 300)))
    data[a:b] = bytes([rng.choice((0, 0xFF))]) * (b - a)


def _number(rng: Random, data: bytearray) -> None:
    """An integer of one to eight bytes, where a length or an offset may stand: often at the beginning."""
    size = rng.choice((1, 2, 4, 4, 8))
    if len(data) < size:
        return
    a = rng.randrange(min(len(data) - size + 1, rng.choice((16, 64, len(data)))) or 1)
    value = rng.choice(NUMBERS) + rng.choice((0, 0, -1, 1))
    data[a : a + size] = (value % (1 << (8 * size))).to_bytes(size, rng.choice(("little", "big")))


_BYTES: Sequence[Callable[[Random, bytearray], None]] = (
    _flips, _flips, _bytes, _cut, _append, _remove, _repeat, _move, _clear, _number, _number,
)  # fmt: skip


def damaged(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four kinds of damage; `others` may be spliced in."""
    if rng.random() < 0.02:
        return rng.choice((b"", b"\0" * 100, rng.randbytes(rng.randrange(1, 400))))
    made = bytearray(data)
    if others and rng.random() < 0.1:
        other = rng.choice(others)
        made = made[: rng.randrange(len(made) + 1)] + other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_BYTES)(rng, made)
    return bytes(made)


# ---- trees


def _places(tree: Tree, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += _places(value, (*at, key))
    return found


def _get(tree: Tree, at: tuple[Any, ...]) -> Tree:
    for key in at:
        tree = tree[key]
    return tree


def value(rng: Random) -> Tree:
    """Something that was not expected."""
    return rng.choice((
        lambda: rng.choice(NUMBERS), lambda: rng.choice(NUMBERS), lambda: rng.choice(FLOATS),
        lambda: rng.choice(TEXTS), lambda: rng.choice(TEXTS), lambda: rng.choice((None, True, False)),
        lambda: rng.choice(([], {}, [[]], [{}], {"": 0}, [None], {"a": {"b": []}}, ["a", 1])),
        lambda: [value(rng) for _ in range(rng.randrange(4))],
        lambda: {str(rng.choice(TEXTS)): value(rng) for _ in range(rng.randrange(3))},
        lambda: rng.choice(list(RAW)),
    ))()  # fmt: skip


def _change(rng: Random, tree: Tree) -> Tree:
    places = _places(tree)
    at = rng.choice(places)
    if not at:
        return value(rng) if rng.random() < 0.3 else tree
    holder, key = _get(tree, at[:-1]), at[-1]
    old = holder[key]
    how = rng.randrange(10)
    if how < 4:
        holder[key] = value(rng)
    elif how == 4:
        del holder[key]
    elif how == 5:
        holder[key] = [old] if rng.random() < 0.5 else {"a": old}
    elif how == 6:
        holder[key] = copy.deepcopy(_get(tree, rng.choice(places)))
    elif how == 7 and isinstance(holder, dict):
        holder[str(value(rng))[:50] if rng.random() < 0.5 else str(key)[:-1]] = holder.pop(key)
    elif how == 7 or (how == 8 and isinstance(holder, list)):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
    elif isinstance(old, bool) or not isinstance(old, int | float):
        holder[key] = old[: len(old) // 2] if isinstance(old, str | list) else str(old)
    else:
        holder[key] = rng.choice((-old, old + 1, old - 1, old * 10**6, str(old), float(old), old + 0.5))
    return tree


def changed(rng: Random, tree: Tree) -> Tree:
    """A copy with one to three places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _change(rng, tree)
    return tree


def as_json(rng: Random, tree: Tree) -> bytes:
    """A changed tree as JSON; of ten, two are damaged as bytes too."""
    text = json.dumps(changed(rng, tree))
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    if rng.random() < 0.05:
        text = re.sub(r"\{", '{"": 0, ', text, count=1)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.04:
        data = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + data
    return damaged(rng, data) if rng.random() < 0.2 else data


def text(rng: Random, words: Sequence[str]) -> str:
    """Text of known words, odd ones and noise."""
    parts = [rng.choice(words) if rng.random() < 0.6 else str(value(rng))[:200] for _ in range(rng.randrange(1, 6))]
    made = rng.choice(("", " ", "\n", ",", ":", "=", "\t")).join(parts)
    if rng.random() < 0.3:
        a = rng.randrange(len(made) + 1)
        made = made[:a] + chr(rng.choice((0, 9, 10, 27, 0x7F, 0x85, 0x2028, 0xD800, 0xFFFF, 0x1F600))) + made[a:]
    return made
