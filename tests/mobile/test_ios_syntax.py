"""The Swift sample: its syntax, its layers, its test vectors. No Swift compiler runs here."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tree_sitter_swift
from tree_sitter import Language, Node, Parser

sys.path.insert(0, str(Path(__file__).parent))
import ios_golden

SWIFT = sorted(ios_golden.APP.rglob("*.swift"))
KIT = [f for f in SWIFT if f.is_relative_to(ios_golden.APP / "Sources" / "LowdinoKit")]
# What each framework is known by: a file that uses one of its names must import it.
NAMES = {
    "AVFoundation": r"\bAVCapture\w+",
    "Charts": r"\bPointMark\b",
    "CoreImage": r"\bCI(Image|Context)\b",
    "CoreML": r"\bML(Model|ShapedArray|FeatureValue)\b",
    "CryptoKit": r"\bSHA256\b",
    "SwiftUI": r"\b(View|Scene|UIViewRepresentable)\b *\{",
    "UIKit": r"\bUI(Device|Image|View)\b",
    "Vision": r"\bVN[A-Z]\w+",
    "XCTest": r"\bXCTestCase\b",
}


def broken(source: bytes) -> list[str]:
    """Where the grammar finds errors or misses something."""
    tree = Parser(Language(tree_sitter_swift.language())).parse(source)
    return [f"line {n.start_point[0] + 1}: {n.type}" for n in nodes(tree.root_node) if n.is_error or n.is_missing]


def nodes(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in nodes(child))]


def imports(file: Path) -> set[str]:
    return set(re.findall(r"^(?:@testable )?import (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(
    "snippet", [b"func f( {", b"let x = [1, 2", b"struct A { var x: Int", b"if let a { } els { }}"]
)
def test_gate_sees_broken_syntax(snippet: bytes) -> None:
    assert broken(snippet)


def test_gate_takes_sound_syntax() -> None:
    assert not broken(
        b"@Observable final class A { private(set) var x: [Int]? = nil; func f() async throws -> Int { 1 } }"
    )


def test_folder_is_complete() -> None:
    assert len(KIT) >= 5
    assert {f.parent.name for f in SWIFT} == {"ios-coreml", "LowdinoKit", "LowdinoKitTests", "Sources"}


@pytest.mark.parametrize("file", SWIFT, ids=lambda f: f.name)
def test_syntax(file: Path) -> None:
    assert broken(file.read_bytes()) == []


@pytest.mark.parametrize("file", KIT, ids=lambda f: f.name)
def test_kit_imports_foundation_alone(file: Path) -> None:
    assert imports(file) == {"Foundation"}


@pytest.mark.parametrize("file", SWIFT, ids=lambda f: f.name)
def test_imports_what_it_names(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    used = {module for module, name in NAMES.items() if re.search(name, source)}
    assert used <= imports(file)


def test_vectors_are_what_python_gives_now() -> None:
    stored = json.loads(ios_golden.GOLDEN.read_text(encoding="utf-8"))
    same(stored, json.loads(json.dumps(ios_golden.compute())), "golden")


def same(stored: Any, fresh: Any, where: str) -> None:
    """Equal; numbers with a fraction to 1e-6, as products of float32 differ in the last digit between processors."""
    assert type(stored) is type(fresh), where
    if isinstance(stored, dict):
        assert stored.keys() == fresh.keys(), where
        for key in stored:
            same(stored[key], fresh[key], f"{where}.{key}")
    elif isinstance(stored, list):
        assert len(stored) == len(fresh), where
        for i, (a, b) in enumerate(zip(stored, fresh, strict=True)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(stored, float):
        assert stored == pytest.approx(fresh, abs=1e-6), where
    else:
        assert stored == fresh, where


@pytest.mark.parametrize(
    "fresh", [{"a": [1.0, 3]}, {"a": [1.0]}, {"b": [1.0, 2]}, {"a": [1.001, 2]}, {"a": [1.0, True]}]
)
def test_comparison_sees_a_change(fresh: Any) -> None:
    with pytest.raises(AssertionError):
        same({"a": [1.0, 2]}, fresh, "")
