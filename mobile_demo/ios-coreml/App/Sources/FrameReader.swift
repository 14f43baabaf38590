import CoreImage
import Foundation
import LowdinoKit

/// What the model makes of one camera frame.
struct Frame: @unchecked Sendable { // CGImage never changes
    let embedding: [Float]
    let thumbnail: CGImage
    let milliseconds: Double // cropping, scaling and network
}

/// Turns camera frames into embeddings, ten a second at most: a phone that is kept busy gets hot and slow.
/// Used on the camera's queue only.
final class FrameReader: @unchecked Sendable {
    private let embedder: Embedder
    private let context = CIContext()
    private var last = 0.0
    private static let interval = 100.0 // milliseconds
    private static let side = 96.0 // pixels of a thumbnail

    init(_ embedder: Embedder) {
        self.embedder = embedder
    }

    /// Nothing for a frame that comes too early.
    func read(_ image: CVPixelBuffer) -> Result<Frame, Error>? {
        let start = Latency.milliseconds()
        guard start - last >= FrameReader.interval else { return nil }
        last = start
        return Result {
            let embedding = try embedder.embed(image)
            let milliseconds = Latency.milliseconds() - start
            guard let thumbnail = thumbnail(of: image) else {
                throw DemoError("the camera's picture cannot be read", hint: "start the app anew")
            }
            return Frame(embedding: embedding, thumbnail: thumbnail, milliseconds: milliseconds)
        }
    }

    private func thumbnail(of image: CVPixelBuffer) -> CGImage? {
        let whole = CIImage(cvPixelBuffer: image)
        let short = min(whole.extent.width, whole.extent.height)
        let scale = FrameReader.side / short
        let left = (whole.extent.width - short) / 2
        let bottom = (whole.extent.height - short) / 2
        let square = whole
            .transformed(by: CGAffineTransform(translationX: -left, y: -bottom))
            .transformed(by: CGAffineTransform(scaleX: scale, y: scale))
        let frame = CGRect(x: 0, y: 0, width: FrameReader.side, height: FrameReader.side)
        return context.createCGImage(square, from: frame)
    }
}
