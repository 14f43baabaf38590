import CoreML
import CryptoKit
import Foundation
import LowdinoKit
import Vision

/// The exported network: an upright picture in, its embedding out. `embed` is called from one queue only.
final class Embedder: @unchecked Sendable {
    let manifest: Manifest
    let compiled: URL // .mlmodelc, for the benchmark to load with other compute units
    private let request: VNCoreMLRequest

    /// Opens the artifact directory that was copied into the app: checks its sha256, compiles and loads it.
    static func load() async throws -> Embedder {
        let again = "copy the files of a run's artifacts/coreml-fp16 into App/Artifact and build again"
        guard
            let folder = Bundle.main.url(forResource: "Artifact", withExtension: nil),
            let card = try? Data(contentsOf: folder.appendingPathComponent("artifact.json"))
        else {
            throw DemoError("there is no model in this app", hint: again)
        }
        let manifest = try Manifest.read(card)
        let package = folder.appendingPathComponent(manifest.file)
        let digest = try packageDigest(of: package) { Data(SHA256.hash(data: $0)) }
        guard digest == manifest.sha256 else {
            throw DemoError("'\(manifest.file)' is not the file that was exported: its sha256 differs", hint: again)
        }
        let compiled = try await MLModel.compileModel(at: package)
        let model = try await MLModel.load(contentsOf: compiled, configuration: MLModelConfiguration())
        return try Embedder(manifest, compiled, model)
    }

    private init(_ manifest: Manifest, _ compiled: URL, _ model: MLModel) throws {
        self.manifest = manifest
        self.compiled = compiled
        request = VNCoreMLRequest(model: try VNCoreMLModel(for: model))
        request.imageCropAndScaleOption = .centerCrop
    }

    func embed(_ image: CVPixelBuffer) throws -> [Float] {
        let preprocess = manifest.preprocess
        if preprocess.resize != preprocess.imageSize { // .centerCrop alone takes the whole shorter side
            request.regionOfInterest = preprocess.square(
                width: CVPixelBufferGetWidth(image), height: CVPixelBufferGetHeight(image)
            )
        }
        try VNImageRequestHandler(cvPixelBuffer: image, orientation: .up).perform([request])
        let outputs = request.results as? [VNCoreMLFeatureValueObservation] ?? []
        guard
            let output = outputs.first(where: { $0.featureName == manifest.output.name }),
            let array = output.featureValue.multiArrayValue
        else {
            throw DemoError(
                "the model gave no '\(manifest.output.name)'", hint: "export it again with `lowdino export`"
            )
        }
        return MLShapedArray<Float>(converting: array).scalars
    }
}
