import CoreML
import CoreVideo
import Foundation
import LowdinoKit
import UIKit

/// Where Core ML may run the network. It decides itself, and does not say which unit it took.
enum Units: String, CaseIterable, Identifiable, Sendable {
    case all = "All"
    case neuralEngine = "CPU + Neural Engine"
    case gpu = "CPU + GPU"
    case cpu = "CPU"

    var id: Self { self }

    var computeUnits: MLComputeUnits {
        switch self {
        case .all: return .all
        case .neuralEngine: return .cpuAndNeuralEngine
        case .gpu: return .cpuAndGPU
        case .cpu: return .cpuOnly
        }
    }
}

/// One measurement, with the keys of the project's benchmark where it has them.
struct BenchmarkResult: Codable, Sendable {
    let artifact: String
    let bytes: Int
    let device: String
    let delegate: String
    let load_ms: Double
    let latency_ms: Latency.Summary
    let thermal: [String] // before and after
}

enum Benchmark {
    /// Times the network alone, on a grey picture of its own size: no camera, no scaling.
    static func run(_ embedder: Embedder, units: Units, runs: Int, warmup: Int) async throws -> BenchmarkResult {
        let device = await describeDevice()
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units.computeUnits
        let start = Latency.milliseconds()
        let model = try await MLModel.load(contentsOf: embedder.compiled, configuration: configuration)
        let loaded = Latency.milliseconds() - start
        let before = thermalState()
        let latency = try time(model, embedder.manifest, runs: runs, warmup: warmup)
        return BenchmarkResult(
            artifact: embedder.manifest.name, bytes: embedder.manifest.bytes, device: device,
            delegate: units.rawValue, load_ms: loaded, latency_ms: latency, thermal: [before, thermalState()]
        )
    }

    private static func time(
        _ model: MLModel, _ manifest: Manifest, runs: Int, warmup: Int
    ) throws -> Latency.Summary {
        let picture = MLFeatureValue(pixelBuffer: try greyPicture(manifest.preprocess.imageSize))
        let input = try MLDictionaryFeatureProvider(dictionary: [manifest.input.name: picture])
        let call: () throws -> Void = {
            try autoreleasepool { _ = try model.prediction(from: input) }
        }
        let used = try Latency.warmUp(atLeast: warmup, call)
        return Latency.summary(try Latency.measure(runs: runs, call), warmup: used)
    }

    private static func greyPicture(_ size: Int) throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        let options = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()] as CFDictionary
        let status = CVPixelBufferCreate(
            kCFAllocatorDefault, size, size, kCVPixelFormatType_32BGRA, options, &made
        )
        guard
            status == kCVReturnSuccess, let buffer = made, CVPixelBufferLockBaseAddress(buffer, []) == kCVReturnSuccess
        else {
            throw DemoError("no memory for a picture of \(size) pixels", hint: "close other apps")
        }
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        if let start = CVPixelBufferGetBaseAddress(buffer) {
            memset(start, 128, CVPixelBufferGetBytesPerRow(buffer) * size)
        }
        return buffer
    }

    /// `iPhone16,1, iOS 17.5`
    @MainActor private static func describeDevice() -> String {
        var info = utsname()
        uname(&info)
        let machine = withUnsafeBytes(of: &info.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return "\(machine), \(UIDevice.current.systemName) \(UIDevice.current.systemVersion)"
    }

    private static func thermalState() -> String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: return "nominal"
        case .fair: return "fair"
        case .serious: return "serious"
        case .critical: return "critical"
        @unknown default: return "unknown"
        }
    }
}
