"""Core ML: what the saved package holds, and what it computes when it is read back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("coremltools")

from sources import source_of

from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS, base, coreml, palette
from lowdino_edge.export.base import Source
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.quant.calibration import calibration_from
from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.quant.search import Search
from lowdino_edge.runtimes import coreml as runtime
from lowdino_edge.runtimes import mil
from lowdino_edge.runtimes.base import FEW
from lowdino_edge.types import Calibration, Encoder, Float, Preprocess

SIZE = 32
SCHEMES = TARGETS["coreml"].schemes
LEAST = {"none": 0.999999, "fp16": 0.99999, "w8": 0.999, "p6": 0.995, "p4": 0.97, "w8a8": 0.998}
VERSION = {"iOS16": 7, "iOS17": 8, "iOS18": 9}  # specificationVersion


def meta(student: Any, scheme: str, card: dict[str, Any]) -> dict[str, Any]:
    preprocess = student.preprocess.to_dict()
    return {**card, "target": "coreml", "scheme": scheme, "preprocess": preprocess, "embed_dim": student.embed_dim}


def lower(
    student: Any, scheme: str, path: Path, calibration: Calibration | None = None, ios: str | None = None
) -> dict[str, Any]:
    source = source_of(student, "coreml", scheme, calibration, {"deployment_target": ios} if ios else None)
    return coreml.lower(source, scheme, path)


def load(student: Any, scheme: str, card: dict[str, Any], path: Path, *, half: bool = True) -> Encoder:
    return runtime.interpreter(path, meta(student, scheme, card), half=half)


def cosines(student: nn.Module, encoder: Encoder, x: Float) -> np.ndarray:
    with torch.no_grad():
        ref = student(torch.from_numpy(x)).numpy()
    z = encoder(x)
    return (ref * z).sum(1) / np.linalg.norm(ref, axis=1) / np.linalg.norm(z, axis=1)


def size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def weight_bytes(path: Path) -> int:
    return (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size


@pytest.fixture(scope="module")
def made(nano: Student, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """scheme -> (path, card) of the nano student."""
    out = tmp_path_factory.mktemp("coreml")
    files = {}
    for scheme in SCHEMES:
        path = out / f"{scheme}.mlpackage"
        files[scheme] = (path, lower(nano, scheme, path, calibration))
    return files


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_saved_package_agrees_with_pytorch(scheme: str, nano: Student, made: dict[str, Any], draw: Any) -> None:
    path, card = made[scheme]
    encoder = load(nano, scheme, card, path)
    assert encoder(draw(5, seed=9)).dtype == np.float32
    assert cosines(nano, encoder, draw(32, seed=9)).mean() > LEAST[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_images_at_once_give_what_they_give_alone(
    scheme: str, nano: Student, made: dict[str, Any], draw: Any
) -> None:
    """Up to the rounding of sums, which may tip a value in 8 bits over to the next."""
    path, card = made[scheme]
    encoder, x = load(nano, scheme, card, path), draw(FEW + 5, seed=9)
    together, alone = encoder(x), np.concatenate([encoder(x[i : i + 1]) for i in range(len(x))])
    lengths = np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1)
    cosine = (together * alone).sum(1) / lengths
    assert cosine.min() > (0.99999 if scheme == "none" else 0.9995)


def test_float32_is_exact_and_float16_is_not(nano: Student, made: dict[str, Any], draw: Any) -> None:
    x = draw(8, seed=9)
    with torch.no_grad():
        ref = nano(torch.from_numpy(x)).numpy()
    exact = load(nano, "none", made["none"][1], made["none"][0])(x)
    np.testing.assert_allclose(exact, ref, rtol=1e-4, atol=1e-5)
    assert np.abs(load(nano, "fp16", made["fp16"][1], made["fp16"][0])(x) - ref).max() > 1e-5


def test_it_takes_an_rgb_image(nano: Student, made: dict[str, Any]) -> None:
    import coremltools as ct

    for path, card in made.values():
        spec = ct.utils.load_spec(str(path))
        (image,), (out,) = spec.description.input, spec.description.output
        assert (image.name, out.name) == ("image", "embedding")
        kind = image.type.imageType
        assert (kind.width, kind.height) == (32, 32)
        assert kind.colorSpace == kind.ColorSpace.Value("RGB")
        assert list(out.type.multiArrayType.shape) == [1, nano.embed_dim]
        assert out.type.multiArrayType.dataType == out.type.multiArrayType.ArrayDataType.Value("FLOAT32")
        assert spec.specificationVersion == 8  # iOS 17
        assert card["input"] == {
            "name": "image", "shape": [1, 3, 32, 32], "dtype": "image-rgb8", "layout": "NCHW", "range": [0, 255]
        }  # fmt: skip
        assert card["delegation"]["coverage"] is None and "Linux" in card["delegation"]["note"]
        assert card["toolchain"]["deployment_target"] == "iOS17" and card["note"]


def test_pixels_are_scaled_inside_the_package(nano: Student, made: dict[str, Any], draw: Any) -> None:
    """The raw program wants 0..255 and its channels in the order red, green, blue."""
    x = torch.from_numpy(draw(1, seed=4))
    x[:, 2] *= 0.5
    with torch.no_grad():
        right, wrong = nano(x), nano(x.flip(1))
    for scheme in ("none", "w8a8"):
        z = mil.Program(made[scheme][0])({"image": x * 255})["embedding"]
        assert torch.dist(z, right) < 0.2 * torch.dist(z, wrong)


def test_the_encoder_rounds_to_what_an_image_can_hold(nano: Student, made: dict[str, Any], draw: Any) -> None:
    path, card = made["none"]
    encoder, x = load(nano, "none", card, path), draw(2, seed=3)
    np.testing.assert_array_equal(encoder(np.clip(x + 0.4 / 255, 0, 1)), encoder(x))
    np.testing.assert_array_equal(encoder(x + 5), encoder(np.ones_like(x)))


def test_a_w8a8_package_holds_int8_convolutions(made: dict[str, Any]) -> None:
    import coremltools as ct

    path, card = made["w8a8"]
    total, left = coreml.float_layers(ct.utils.load_spec(str(path)))
    assert (total, left) == (card["quantization"]["convolutions_int8"], [])
    ops = mil.Program(path).ops
    assert ops["constexpr_affine_dequantize"] == ops["conv"] == total >= 5
    assert ops["quantize"] > 0 and ops["dequantize"] >= ops["quantize"]
    for scheme in SCHEMES[:-1]:
        assert len(coreml.float_layers(ct.utils.load_spec(str(made[scheme][0])))[1]) == total


def test_the_quantized_program_is_the_quantized_network(
    nano: Student, calibration: Calibration, tmp_path: Path, draw: Any
) -> None:
    """With scales kept in float32 nothing but a rare rounding tie may differ from PyTorch's own int8 simulation."""
    import coremltools as ct

    source = source_of(nano, "coreml", "w8a8", calibration)
    network = source.module()
    with base.quiet(), torch.no_grad():
        coreml._convert(ct, source.program(), nano, "iOS17", half=False).save(str(tmp_path / "q.mlpackage"))
    program = mil.Program(tmp_path / "q.mlpackage")
    assert program.ops["quantize"] > 0
    with torch.no_grad():
        for x in torch.from_numpy(draw(8, seed=5)).split(1):
            z, ref = program({"image": x * 255})["embedding"], network(x)
            assert torch.cosine_similarity(z, ref).item() > 0.99999


def test_sizes(made: dict[str, Any]) -> None:
    whole = weight_bytes(made["none"][0])
    assert 0.45 < weight_bytes(made["fp16"][0]) / whole < 0.55
    for scheme in ("w8", "w8a8"):
        assert weight_bytes(made[scheme][0]) / whole < 0.3
        assert size(made[scheme][0]) / size(made["none"][0]) < 0.32
    assert weight_bytes(made["p6"][0]) / whole < 0.22
    assert weight_bytes(made["p4"][0]) / whole < 0.17


def test_the_package_holds_nothing_its_manifest_does_not_list(made: dict[str, Any]) -> None:
    assert sorted(p.name for p in made["none"][0].iterdir()) == ["Data", "Manifest.json"]


def test_converting_is_silent_and_leaves_the_student_alone(nano: Student, tmp_path: Path, capfd: Any) -> None:
    before = {k: v.clone() for k, v in nano.state_dict().items()}
    lower(nano, "fp16", tmp_path / "x.mlpackage")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert all(torch.equal(v, before[k]) for k, v in nano.state_dict().items())


class Odd(nn.Module):
    """A student whose net is handed in."""

    id = "odd"
    preprocess = Preprocess(16)

    def __init__(self, net: nn.Module, embed_dim: int) -> None:
        super().__init__()
        self.net, self.embed_dim = net, embed_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Forgotten(Source):
    """The graph that reaches the converter has lost its quantize nodes."""

    def module(self) -> Any:
        return self.network.module


def test_a_convolution_left_in_float_is_an_error(nano: Student, calibration: Calibration, tmp_path: Path) -> None:
    source = source_of(nano, "coreml", "w8a8", calibration)
    with pytest.raises(UserError, match="left 7 of 7 layers of 'nano' in float"):
        coreml.lower(Forgotten(source.student, source.network, source.decision), "w8a8", tmp_path / "x.mlpackage")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ios", ["iOS17", "iOS18"])
def test_layers_kept_in_float_are_counted(
    ios: str, nano: Student, calibration: Calibration, tmp_path: Path, draw: Any
) -> None:
    import coremltools as ct

    network = prepare(trace(nano), SIZE)
    decisions = Search(nano, network, calibration.images_NCHW).decisions(coreml.STYLE)
    whole, part = next(decisions), next(decisions)
    kept = sum("conv2d" in k.operator for k in part.kept)
    assert kept > 0 and len(part.int8) == len(whole.int8) - len(part.kept)
    path = tmp_path / "x.mlpackage"
    card = coreml.lower(Source(nano, part.network, part, {"deployment_target": ios}), "w8a8", path)
    total, left = coreml.float_layers(ct.utils.load_spec(str(path)))
    assert (total, len(left)) == (7, kept)
    assert card["quantization"]["convolutions_int8"] == total - kept and card["quantization"]["convolutions"] == total
    assert len(card["quantization"]["kept_float"]) == len(part.kept)
    assert cosines(nano, load(nano, "w8a8", card, path), draw(16, seed=9)).mean() > LEAST["w8a8"]


# ---------------------------------------------------------------- deployment targets


@pytest.mark.parametrize(
    ("ios", "scheme"),
    [("iOS16", "fp16"), ("iOS16", "w8"), ("iOS16", "p4"), ("iOS18", "w8"), ("iOS18", "p4"), ("iOS18", "w8a8")],
)
def test_every_deployment_target_has_its_version_and_is_right(
    ios: str, scheme: str, nano: Student, calibration: Calibration, tmp_path: Path, draw: Any
) -> None:
    path = tmp_path / "x.mlpackage"
    card = lower(nano, scheme, path, calibration, ios)
    program = mil.Program(path)
    assert program.spec.specificationVersion == VERSION[ios] and card["toolchain"]["deployment_target"] == ios
    (image,) = program.spec.description.input
    assert image.type.WhichOneof("Type") == "imageType"
    assert cosines(nano, load(nano, scheme, card, path), draw(32, seed=9)).mean() > LEAST[scheme]
    if scheme == "w8a8":
        assert coreml.float_layers(program.spec) == (7, [])
        assert program.ops["constexpr_blockwise_shift_scale"] == 7


def test_ios16_has_no_w8a8(nano: Student, calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iOS16 cannot hold w8a8") as e:
        lower(nano, "w8a8", tmp_path / "x.mlpackage", calibration, "iOS16")
    assert "iOS17" in e.value.hint and "w8" in e.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_deployment_target_is_refused() -> None:
    with pytest.raises(UserError, match="unknown deployment target 'iOS15'") as e:
        coreml.deployment_target({"deployment_target": "iOS15"}, "fp16")
    assert "iOS16" in e.value.hint
    assert (
        coreml.deployment_target({}, "w8a8") == coreml.deployment_target({"deployment_target": None}, "p4") == "iOS17"
    )


# ---------------------------------------------------------------- palettes


@pytest.mark.parametrize(("scheme", "bits"), [("p6", 6), ("p4", 4)])
def test_a_palettized_package_holds_few_values_a_layer(scheme: str, bits: int, made: dict[str, Any]) -> None:
    """Counted in what the file holds, not in what was meant."""
    path, card = made[scheme]
    tables = lookup_tables(path)
    assert len(tables) == sum(card["palette"]["layers_by_bits"].values()) >= 5
    assert card["palette"]["weight_bits"] == bits
    assert {str(b): tables.count(2**b) for b in (bits, 8)} == card["palette"]["layers_by_bits"]
    assert tables.count(2**bits) >= 3
    assert f"{bits}-bit" in card["note"]


def lookup_tables(path: Path) -> list[int]:
    """Entries of each lookup table."""
    import coremltools as ct

    function = ct.utils.load_spec(str(path)).mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    luts = [op.attributes["lut"].type.tensorType for op in operations if op.type == "constexpr_lut_to_dense"]
    return [int(t.dimensions[0].constant.size) for t in luts]


def test_palettes_are_the_same_every_time(nano: Student, made: dict[str, Any], tmp_path: Path) -> None:
    lower(nano, "p4", tmp_path / "x.mlpackage")
    weights = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"
    assert (tmp_path / "x.mlpackage" / weights).read_bytes() == (made["p4"][0] / weights).read_bytes()


def best_error(values: np.ndarray, k: int) -> float:
    """Least sum of squares with k values, by dynamic programming over where the sorted values are cut."""
    x = np.sort(values)
    n = len(x)
    one, two = np.concatenate([[0], np.cumsum(x)]), np.concatenate([[0], np.cumsum(x * x)])

    def cost(i: int, j: int) -> float:
        return float(two[j] - two[i] - (one[j] - one[i]) ** 2 / (j - i))

    best = [0.0, *[np.inf] * n]
    for _ in range(k):
        best = [0.0, *[min(best[i] + cost(i, j) for i in range(j)) for j in range(1, n + 1)]]
    return best[n]


@pytest.mark.parametrize("shape", ["normal", "laplace", "two heaps"])
def test_k_means_is_close_to_the_optimum(shape: str) -> None:
    g = np.random.default_rng(0)
    draws = {"normal": g.normal(size=150), "laplace": g.laplace(size=150)}
    x = draws.get(shape, np.concatenate([g.normal(-4, 0.1, 75), g.normal(3, 1, 75)]))
    values, index = palette.lookup(4)(x)
    assert len(values) == 16 and index.dtype == np.uint8 and index.shape == (150,)
    error = float(((values[index] - x) ** 2).sum())
    assert error < 1.5 * best_error(x, 16)
    uniform = np.linspace(x.min(), x.max(), 16)
    assert error < 0.7 * float((np.abs(x[:, None] - uniform).min(1) ** 2).sum())


def test_few_values_are_kept_as_they_are() -> None:
    x = np.array([[0.5, -1.0], [0.5, 3.0]], np.float16)
    values, index = palette.lookup(4)(x)
    np.testing.assert_array_equal(values[index].reshape(2, 2), x)
    zeros, index = palette.lookup(4)(np.zeros(9, np.float16))
    assert not zeros[index].any()


def test_small_and_depthwise_layers_get_8_bits() -> None:
    shapes = {"large": (500, 100, 1, 1), "linear": (300, 100), "depthwise": (9000, 1, 3, 3), "small": (100, 100, 1, 1)}
    assert palette.bits_of(shapes, 4) == {"large": 4, "linear": 4, "depthwise": 8, "small": 8}
    assert palette.bits_of({"only": (64, 64, 3, 3)}, 6) == {"only": 6}
    assert palette.bits_of({}, 6) == {}


def test_an_operator_that_does_not_convert_is_named(tmp_path: Path) -> None:
    class Special(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x).mean((2, 3))

    with pytest.raises(UserError, match="bessel_j0"):
        lower(Odd(Special(), 3), "none", tmp_path / "x.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_image_input_is_refused(tmp_path: Path, nano: Student, made: dict[str, Any]) -> None:
    import coremltools as ct

    with mil.quiet():
        program = torch.export.export(nano, (torch.rand(1, 3, 32, 32),)).run_decompositions({})
        tensor = ct.TensorType(name="image", shape=(1, 3, 32, 32))
        ct.convert(program, inputs=[tensor], skip_model_load=True).save(str(tmp_path / "x.mlpackage"))
    with pytest.raises(UserError, match="RGB image"):
        load(nano, "none", made["none"][1], tmp_path / "x.mlpackage")


# ---------------------------------------------------------------- every student


def seen(id: str, size: int, images: Any) -> Student:
    """A student with random weights whose BatchNorm statistics come from images."""
    student = build_student(id, size, seed=0).train()
    with torch.no_grad():
        for step in range(4):
            student(torch.from_numpy(images(8, size, 100 + step)))
    return student.eval()


def check(id: str, size: int, scheme: str, least: float, draw: Any, out: Path) -> dict[str, Any]:
    student = seen(id, size, draw)
    path = out / f"{id}.mlpackage"
    card = lower(student, scheme, path, calibration_from(draw(32, size, 1), "noise"))
    cosine = cosines(student, load(student, scheme, card, path), draw(16, size, 2))
    assert cosine.mean() > least, cosine
    return card


def test_mobilenetv4_in_int8(draw: Any, tmp_path: Path) -> None:
    card = check("mobilenetv4_conv_small", 64, "w8a8", 0.99, draw, tmp_path)
    assert card["quantization"]["convolutions_int8"] >= 40


@pytest.mark.parametrize("id", ["mobilenetv4_conv_small_050", "mobilevit_xs"])
def test_a_cnn_and_a_hybrid_in_float(id: str, draw: Any, tmp_path: Path) -> None:
    check(id, 64, "none", 0.99999, draw, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["none", "fp16"])
@pytest.mark.parametrize("id", sorted(STUDENTS))
def test_every_student_in_float(id: str, scheme: str, draw: Any, tmp_path: Path) -> None:
    check(id, 32 if id == "nano" else 64, scheme, {"none": 0.9999, "fp16": 0.999}[scheme], draw, tmp_path)
