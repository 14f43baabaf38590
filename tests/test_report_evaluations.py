"""The report's section on evaluations: figures with their protocol, pictures inside the page, damage named."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from made_up_run import complete, knn, read, write
from PIL import Image

from lowdino_edge.card import model_card

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'


def probe(**more: Any) -> dict[str, Any]:
    rows = [
        {"fraction": f, "n_train": n, "top1": t, "std": s, "top1_by_seed": [t, t], "C_by_seed": [0.1, 1.0]}
        for f, n, t, s in ((0.01, 450, 0.6961, 0.0072), (1.0, 45000, 0.793, None))
    ]
    line = "linear probe: 100% of labels 79.30% (logistic regression, L-BFGS, 32 px; queries 5000)"
    protocol = {"classifier": "logistic regression", "seeds": [0, 1], "image_size": 32}
    return {"model": "run", "data": "synthetic", "task": "linear", "top1": 0.793, "fractions": rows, "n_query": 5000,
            "protocol": protocol, "line": line, **more}  # fmt: skip


def picture(run: Path, file: str, caption: str = "Top-1 by the number of labels.") -> dict[str, str]:
    data: bytes = SVG.encode()
    if file.endswith("png"):
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((1200 if "wide" in file else 300, 90)).save(buffer, "PNG")
        data = buffer.getvalue()
    (run / "results" / file).write_bytes(data)
    return {"file": file, "caption": caption}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return complete(tmp_path / "run")


def test_figures_tables_and_pictures(run: Path) -> None:
    files = ("linear__student__host.labels.svg", "linear__student__host.wide.png")
    write(run / "results" / "linear__student__host.json", probe(pictures=[picture(run, f) for f in files]))
    source, page = read(run)
    text = " ".join(page.text.split())
    for part in ("Evaluations", "linear: student", "79.30% (logistic regression, L-BFGS, 32 px; queries 5000).",
                 "1% 450 69.61% 0.72% 100% 45,000 79.30% –", "Top-1 by the number of labels."):  # fmt: skip
        assert part in text, part
    embedded = [base64.b64decode(u.partition("base64,")[2]) for u in page.urls if u.startswith("data:image/")]
    for f in files:
        assert (run / "results" / f).read_bytes() in embedded
    assert sum(u.startswith("data:image/svg+xml;base64,") for u in page.urls) == 1
    assert source.count('<figure class="picture">') == 1 and source.count('<figure class="picture wide">') == 1
    assert "img-src data:" in source and "left out" not in text.partition("Evaluations")[2]


def test_tables_of_every_shape(run: Path) -> None:
    by = {kind: {str(n): 0.9 - 0.1 * n for n in range(1, 6)} for kind in ("blur", "noise")}
    robust = {"task": "robustness", "top1": 0.9, "corrupted": 0.6, "by": by, "protocol": {"k": 20, "image_size": 32}}
    write(run / "results" / "robustness__student__host.json", robust)
    many = {f"class {i}": i / 20 for i in range(20)}
    write(run / "results" / "depth__teacher__host.json",
          {"task": "depth", "rmse": 0.8123456, "images": [{"name": "a", "rmse": 1.5, "n": 1200}, {"name": "b"}],
           "per_class": many, "odd": [1, 2], "empty": {}, "recall": {"1": 0.25, "5": 1.0, "b": [2]}})  # fmt: skip
    source, page = read(run)
    text = " ".join(page.text.split())
    for part in (
        "robustness: student", "top1 90.00%, corrupted 60.00% (k 20, image_size 32).", "blur 80.00% 70.00% 60.00%",
        "depth: teacher", "rmse 0.8123 (protocol unknown).", "a 1.5 1,200 b – –", "class 19 95.00%",
        "1 5 recall 25.00% 100.00%",
    ):  # fmt: skip
        assert part in text, part
    assert text.index("robustness: student") < text.index("depth: teacher")
    assert "<details><summary>per class</summary>" in source  # too long to stand open


def test_knn_stands_under_accuracy_and_here_only_with_pictures(run: Path) -> None:
    assert "Evaluations" not in read(run)[1].text
    shown = {**knn(0.702), "ece": 0.053, "pictures": [picture(run, "knn__student__host.map.png", "A map.")]}
    write(run / "results" / "knn__student__host.json", shown)
    write(run / "results" / "eval-knn-12ab__student__host.json", {**knn(0.4), "data": "cifar10", "line": "kNN 40.00%"})
    text = " ".join(read(run)[1].text.split())
    assert "knn: student" in text and "A map." in text and "ece 0.053" in text
    assert "knn: student, on cifar10 kNN 40.00%." in text
    assert "untrained 24.10%" in text.replace("the same backbone, ", "")  # the table under Accuracy


def test_pictures_that_cannot_be_shown_are_named_in_one_line(run: Path) -> None:
    names = ("gone.svg", "cut.png", "torn.svg", "text.svg", "fake.png", "../student.json", "/etc/passwd", "")
    good = picture(run, "good.svg", "Good.")
    picture(run, "cut.png")
    cut = run / "results" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (run / "results" / "torn.svg").write_text(SVG[:-9])
    (run / "results" / "text.svg").write_text("<html/>")
    (run / "results" / "fake.png").write_text(SVG)
    listed = [good, *({"file": n, "caption": "Bad."} for n in names), 7, {"file": 3}, {"caption": "no file"}]
    write(run / "results" / "linear__student__host.json", probe(pictures=listed))
    write(run / "results" / "mlp__student__host.json", {**probe(task="mlp"), "pictures": "none"})
    source, page = read(run)
    said = [t for t in page.text.splitlines() if t.endswith("missing or unreadable, left out.")]
    assert len(said) == 1 and all(f"results/{n}" in said[0] for n in names)
    assert "Good." in page.text and "Bad." not in page.text and "root:" not in source


def test_damaged_results_are_named_and_hostile_text_is_text(run: Path) -> None:
    (run / "results" / "linear__student__host.json").write_text("{ half of")
    write(run / "results" / "clusters__student__host.json", [1])
    odd = {"task": EVIL, "model": EVIL, EVIL: EVIL, "top1": "high", "line": EVIL, "protocol": [EVIL],
           "fractions": [{EVIL: EVIL}, 3], "by": {EVIL: {EVIL: EVIL}}, "per_class": {EVIL: 1e300}, "data": [EVIL],
           "pictures": [picture(run, "evil.svg", EVIL), {"file": EVIL}]}  # fmt: skip
    write(run / "results" / "eval-odd__<b>y__host.json", odd)
    write(run / "results" / "x.json", {"task": "mlp", "line": None, "n": 2**63, "protocol": {"seeds": [0]}})
    write(run / "results" / "infinite.json", {"task": "mlp", "n": 1e400})
    write(run / "results" / "long.json", {"task": "mlp", "n": 10**400})
    source, page = read(run)
    for name in ("linear__student__host.json", "clusters__student__host.json", "infinite.json", "long.json"):
        assert f"results/{name} cannot be read" in page.text
    assert "<script" not in source and "<b>y" not in source and "script" not in page.tags
    assert all(u.startswith("data:image/") for u in page.urls)
    assert source.count("&lt;script&gt;") > 5 and "mlp: None" in page.text
    model_card(run)
