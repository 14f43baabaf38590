import Foundation

/// artifact.json: what an exported model is and how to feed it. Checked as `lowdino_edge/artifact.py` checks it.
public struct Manifest: Decodable, Equatable, Sendable {
    public struct Input: Decodable, Equatable, Sendable {
        public let name: String
        public let shape: [Int]
        public let dtype: String
    }

    public struct Output: Decodable, Equatable, Sendable {
        public let name: String
        public let shape: [Int]
    }

    public let target: String
    public let scheme: String
    public let file: String
    public let sha256: String
    public let bytes: Int
    public let embedDim: Int
    public let input: Input
    public let output: Output
    public let preprocess: Preprocess

    /// `coreml-fp16`, as the directory is called inside a run.
    public var name: String { "\(target)-\(scheme)" }

    enum CodingKeys: String, CodingKey {
        case target, scheme, file, sha256, bytes, input, output, preprocess
        case embedDim = "embed_dim"
    }

    /// Reads a card.
    /// - Throws: `DemoError` for anything that is not the card of a Core ML model with an image input.
    public static func read(_ json: Data) throws -> Manifest {
        let manifest: Manifest
        do {
            manifest = try JSONDecoder().decode(Manifest.self, from: json)
        } catch let error as DecodingError {
            throw DemoError("artifact.json \(complaint(error))", hint: again)
        }
        try manifest.check()
        return manifest
    }

    private static let again = "make it again with `lowdino export`"

    private func check() throws {
        let outside = file.isEmpty || file == "." || file == ".." || file.contains("/")
        if outside {
            throw DemoError("artifact.json names a file outside its directory: '\(file)'", hint: Manifest.again)
        }
        guard target == "coreml", input.dtype == "image-rgb8" else {
            throw DemoError("\(name) is not a Core ML model with an image input", hint: "export with `--target coreml`")
        }
        let size = preprocess.imageSize
        guard size > 0, preprocess.cropRatio > 0, preprocess.cropRatio <= 1, input.shape == [1, 3, size, size] else {
            throw DemoError("artifact.json has no valid 'preprocess'", hint: Manifest.again)
        }
        guard embedDim > 0, output.shape == [1, embedDim] else {
            throw DemoError("artifact.json has no valid 'output'", hint: Manifest.again)
        }
    }

    private static func complaint(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, let context):
            return "has no valid '\(path(context.codingPath + [key]))'"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            return context.codingPath.isEmpty ? "is not a card" : "has no valid '\(path(context.codingPath))'"
        default:
            return "is not JSON"
        }
    }

    private static func path(_ keys: [CodingKey]) -> String {
        keys.map(\.stringValue).joined(separator: ".")
    }
}

/// How an image becomes network input: shorter side to `resize`, a square of `imageSize` from the centre.
public struct Preprocess: Decodable, Equatable, Sendable {
    public let imageSize: Int
    public let cropRatio: Double
    public let interpolation: String

    enum CodingKeys: String, CodingKey {
        case imageSize = "image_size"
        case cropRatio = "crop_ratio"
        case interpolation
    }

    public init(imageSize: Int, cropRatio: Double, interpolation: String) {
        self.imageSize = imageSize
        self.cropRatio = cropRatio
        self.interpolation = interpolation
    }

    /// Pixels of the shorter side before the crop. Rounds half to even, as Python does.
    public var resize: Int {
        Int((Double(imageSize) / cropRatio).rounded(.toNearestOrEven))
    }

    /// The centred square that the network sees, as shares of the image's width and height.
    public func square(width: Int, height: Int) -> CGRect {
        let side = Double(min(width, height)) * Double(imageSize) / Double(resize)
        let w = side / Double(width)
        let h = side / Double(height)
        return CGRect(x: (1 - w) / 2, y: (1 - h) / 2, width: w, height: h)
    }
}
