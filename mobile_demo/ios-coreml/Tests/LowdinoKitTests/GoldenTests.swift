import Foundation
import XCTest
@testable import LowdinoKit

#if canImport(CryptoKit)
import CryptoKit
#endif

/// Resources/golden.json: what the Python functions give, written by tests/mobile/ios_golden.py.
private struct Golden: Decodable {
    struct Case: Decodable {
        let bank: [[Float]], labels: [Int], query: [Float], k: Int, temperature: Double
        let label: Int, shares: [Double], index: [Int], similarity: [Float]
    }

    struct Size: Decodable {
        let image_size: Int, crop_ratio: Double, interpolation: String, resize: Int
    }

    struct Artifact: Decodable {
        let files: [String: String]
    }

    struct Store: Decodable {
        let embeddings: [[Float]]
    }

    let knn: [Case]
    let latency: [Latency.Summary]
    let resize: [Size]
    let artifact: Artifact
    let store: Store

    static func data() throws -> Data {
        let url = try XCTUnwrap(Bundle.module.url(forResource: "golden", withExtension: "json"))
        return try Data(contentsOf: url)
    }

    static func read() throws -> Golden {
        try JSONDecoder().decode(Golden.self, from: data())
    }

    /// A file inside it as bytes: the artifact's card, the store's file.
    static func file(_ part: String, _ key: String) throws -> Data {
        let whole = try XCTUnwrap(try JSONSerialization.jsonObject(with: data()) as? [String: Any])
        let fields = try XCTUnwrap(whole[part] as? [String: Any])
        return try JSONSerialization.data(withJSONObject: try XCTUnwrap(fields[key]))
    }

    static func card() throws -> Data {
        try file("artifact", "card")
    }
}

final class GoldenTests: XCTestCase {
    func testVotesArePythons() throws {
        for (i, c) in try Golden.read().knn.enumerated() {
            let bank = Bank(data: c.bank.flatMap { $0 }, labels: c.labels, dim: c.query.count)
            let vote = try KNN.classify(
                c.query, in: bank, classes: c.shares.count, k: c.k, temperature: c.temperature
            )
            XCTAssertEqual(vote.label, c.label, "case \(i)")
            XCTAssertEqual(vote.neighbours.map(\.index), c.index, "case \(i)")
            XCTAssertEqual(vote.neighbours.map(\.label), c.index.map { c.labels[$0] }, "case \(i)")
            XCTAssertEqual(vote.confidence, c.shares[c.label], accuracy: 1e-5, "case \(i)")
            for (got, wanted) in zip(vote.shares, c.shares) { XCTAssertEqual(got, wanted, accuracy: 1e-5, "case \(i)") }
            for (got, wanted) in zip(vote.neighbours, c.similarity) {
                XCTAssertEqual(got.similarity, wanted, accuracy: 1e-6, "case \(i)")
            }
        }
    }

    func testLatencyFiguresArePythons() throws {
        for wanted in try Golden.read().latency {
            let got = Latency.summary(wanted.samples, warmup: wanted.warmup)
            XCTAssertEqual(got.p50, wanted.p50, accuracy: 1e-9)
            XCTAssertEqual(got.p90, wanted.p90, accuracy: 1e-9)
            XCTAssertEqual(got.min, wanted.min)
            XCTAssertEqual(got.noise, wanted.noise, accuracy: 1e-9)
            XCTAssertEqual(got.rise, wanted.rise, accuracy: 1e-9)
            XCTAssertEqual(got.throttled, wanted.throttled)
        }
    }

    func testResizeRoundsAsPython() throws {
        for size in try Golden.read().resize {
            let preprocess = Preprocess(
                imageSize: size.image_size, cropRatio: size.crop_ratio, interpolation: size.interpolation
            )
            XCTAssertEqual(preprocess.resize, size.resize)
        }
    }

    func testReadsTheCardThatExportWrites() throws {
        let manifest = try Manifest.read(Golden.card())
        XCTAssertEqual(manifest.name, "coreml-fp16")
        XCTAssertEqual(manifest.file, "model.mlpackage")
        XCTAssertEqual([manifest.input.name, manifest.output.name], ["image", "embedding"])
        XCTAssertEqual(manifest.input.shape, [1, 3, 48, 48])
        XCTAssertEqual(manifest.output.shape, [1, manifest.embedDim])
        XCTAssertEqual(manifest.preprocess, Preprocess(imageSize: 48, cropRatio: 0.96, interpolation: "bilinear"))
        XCTAssertEqual(manifest.preprocess.resize, 50)
    }

    func testReadsAndWritesTheFileOfTaughtClasses() throws {
        let file = try Golden.file("store", "file")
        let sha = String(repeating: "ab", count: 32)
        let store = try ClassStore(json: file, modelSha256: sha, dim: 3)
        XCTAssertEqual(store.classes.map(\.name), ["cup", "key"])
        XCTAssertEqual(store.classes[0].examples.map(\.embedding), try Golden.read().store.embeddings)
        XCTAssertEqual(store.classes[0].examples[0].picture, Data("hi".utf8))
        XCTAssertNil(store.classes[0].examples[1].thumbnail)
        XCTAssertEqual(store.bank.labels, [0, 0])
        let wanted = try XCTUnwrap(try JSONSerialization.jsonObject(with: file) as? NSDictionary)
        let written = try XCTUnwrap(try JSONSerialization.jsonObject(with: store.json()) as? NSDictionary)
        XCTAssertEqual(written, wanted)
    }

    /// What sha256 is given: the file hashes in the order of their paths. Any hash function shows that.
    func testDigestGoesOverSortedPaths() throws {
        let package = try writePackage()
        defer { try? FileManager.default.removeItem(at: package) }
        let hash = { (data: Data) in Data("<".utf8) + data + Data(">".utf8) }
        let order = ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"]
        let files = try Golden.read().artifact.files
        let fed = try order.map { "\($0)\0<\(try XCTUnwrap(files[$0]))>" }.joined()
        let wanted = Data("<\(fed)>".utf8).map { String(format: "%02x", $0) }.joined()
        XCTAssertEqual(try packageDigest(of: package, sha256: hash), wanted)
    }

    #if canImport(CryptoKit)
    func testDigestIsPythons() throws {
        let package = try writePackage()
        defer { try? FileManager.default.removeItem(at: package) }
        let digest = try packageDigest(of: package) { Data(SHA256.hash(data: $0)) }
        XCTAssertEqual(digest, try Manifest.read(Golden.card()).sha256)
    }
    #endif

    private func writePackage() throws -> URL {
        let package = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).mlpackage")
        for (name, text) in try Golden.read().artifact.files {
            let file = package.appendingPathComponent(name)
            let folder = file.deletingLastPathComponent()
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try Data(text.utf8).write(to: file)
        }
        return package
    }
}
