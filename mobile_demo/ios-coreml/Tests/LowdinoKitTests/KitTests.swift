import Foundation
import XCTest
@testable import LowdinoKit

final class KitTests: XCTestCase {
    private let card: [String: Any] = [
        "target": "coreml", "scheme": "fp16", "file": "model.mlpackage", "sha256": "00", "bytes": 1, "embed_dim": 4,
        "input": ["name": "image", "shape": [1, 3, 48, 48], "dtype": "image-rgb8"],
        "output": ["name": "embedding", "shape": [1, 4]],
        "preprocess": ["image_size": 48, "crop_ratio": 1.0, "interpolation": "bicubic"],
    ]

    private func read(_ card: [String: Any]) throws -> Manifest {
        try Manifest.read(JSONSerialization.data(withJSONObject: card))
    }

    private func message(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "no error"
        } catch let error as DemoError {
            return error.message
        } catch {
            return "another error: \(error)"
        }
    }

    func testRefusesWhatIsNoCoreMLCard() throws {
        XCTAssertEqual(try read(card).embedDim, 4)
        let wrong: [(String, Any, String)] = [
            ("file", "../model.mlpackage", "names a file outside its directory"),
            ("embed_dim", "four", "no valid 'embed_dim'"),
            ("embed_dim", 5, "no valid 'output'"),
            ("target", "tflite", "is not a Core ML model"),
            ("input", ["name": "image", "shape": [1, 3, 48, 48], "dtype": "float32"], "is not a Core ML model"),
            ("preprocess", ["image_size": 48, "crop_ratio": 1.0], "no valid 'preprocess.interpolation'"),
            ("preprocess", ["image_size": 48, "crop_ratio": 0, "interpolation": "bicubic"], "no valid 'preprocess'"),
        ]
        for (key, value, complaint) in wrong {
            let got = message { _ = try read(card.merging([key: value]) { $1 }) }
            XCTAssertTrue(got.contains(complaint), "\(key): \(got)")
        }
        XCTAssertEqual(message { _ = try Manifest.read(Data("[".utf8)) }, "artifact.json is not JSON")
        XCTAssertEqual(message { _ = try Manifest.read(Data("[1]".utf8)) }, "artifact.json is not a card")
    }

    func testSquareIsTheCentre() {
        let whole = Preprocess(imageSize: 224, cropRatio: 1, interpolation: "bicubic")
        XCTAssertEqual(whole.square(width: 400, height: 200), CGRect(x: 0.25, y: 0, width: 0.5, height: 1))
        let part = Preprocess(imageSize: 224, cropRatio: 0.875, interpolation: "bicubic")
        XCTAssertEqual(
            part.square(width: 200, height: 400), CGRect(x: 0.0625, y: 0.28125, width: 0.875, height: 0.4375)
        )
    }

    func testBadEmbeddingsAreNamed() {
        let bank = Bank(data: [1, 0], labels: [0], dim: 2)
        let empty = Bank(data: [], labels: [], dim: 2)
        XCTAssertEqual(message { _ = try KNN.classify([1, 0], in: empty, classes: 1) }, "there are no examples yet")
        XCTAssertTrue(message { _ = try KNN.classify([1], in: bank, classes: 1) }.contains("2 wide"))
        XCTAssertTrue(message { _ = try KNN.classify([.nan, 0], in: bank, classes: 1) }.contains("not finite"))
        XCTAssertEqual(KNN.normalise([3, 4]), [0.6, 0.8])
        XCTAssertEqual(KNN.normalise([0, 0]), [0, 0])
    }

    /// A clock that goes on by what each call takes.
    private func run(_ costs: [Double], _ body: (_ now: () -> Double, _ call: () -> Void) -> Int) -> Int {
        var time = 0.0
        var calls = 0
        return body({ time }) {
            time += costs[min(calls, costs.count - 1)]
            calls += 1
        }
    }

    func testWarmUpEndsWhenStable() {
        let slowStart: [Double] = [50, 40, 30, 20, 10, 10, 10, 10, 10, 10, 10, 10, 10]
        XCTAssertEqual(run(slowStart) { Latency.warmUp(atLeast: 3, now: $0, $1) }, 12)
        let restless = (0 ..< 100).map { Double($0 % 10 < 5 ? 10 : 20) }
        XCTAssertEqual(run(restless) { Latency.warmUp(atLeast: 2, now: $0, $1) }, 10)
        XCTAssertEqual(run([6000]) { Latency.warmUp(atLeast: 1, now: $0, $1) }, 2)
        XCTAssertEqual(run([1]) { Latency.warmUp(atLeast: 0, now: $0, $1) }, 0)
    }

    func testMeasureBringsTheModelBackBeforeEachTurn() {
        var calls = 0
        let samples = Latency.measure(runs: 12) { calls += 1 }
        XCTAssertEqual(samples.count, 12)
        XCTAssertEqual(calls, 12 + 3)
        XCTAssertTrue(samples.allSatisfy { $0 >= 0 })
    }
}
