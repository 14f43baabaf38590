import AVFoundation
import Foundation
import LowdinoKit

/// The back camera: upright frames on a queue of its own, on which everything but `start` and `stop` runs.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate, @unchecked Sendable {
    let session = AVCaptureSession()
    private let queue = DispatchQueue(label: "lowdino.camera")
    private let output = AVCaptureVideoDataOutput()
    private var isConfigured = false
    private var onFrame: (@Sendable (CVPixelBuffer) -> Void)?

    /// Asks for permission the first time. `onFrame` is called on the camera's queue; late frames are dropped.
    func start(onFrame: @escaping @Sendable (CVPixelBuffer) -> Void) async throws {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            throw DemoError("the app may not use the camera", hint: "allow it in Settings, Privacy & Security, Camera")
        }
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, Error>) in
            queue.async {
                do {
                    try self.configure()
                    self.onFrame = onFrame
                    self.session.startRunning()
                    continuation.resume()
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    func stop() {
        queue.async {
            self.onFrame = nil
            self.session.stopRunning()
        }
    }

    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let image = CMSampleBufferGetImageBuffer(sampleBuffer) else { return }
        onFrame?(image)
    }

    private func configure() throws {
        if isConfigured { return }
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back) else {
            throw DemoError("there is no camera", hint: "run the app on a phone: the simulator has none")
        }
        let input = try AVCaptureDeviceInput(device: device)
        session.beginConfiguration()
        defer { session.commitConfiguration() }
        guard session.canAddInput(input), session.canAddOutput(output) else {
            throw DemoError("the camera cannot be opened", hint: "close other apps that use it")
        }
        session.sessionPreset = .vga640x480
        session.addInput(input)
        session.addOutput(output)
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.alwaysDiscardsLateVideoFrames = true
        output.setSampleBufferDelegate(self, queue: queue)
        if let connection = output.connection(with: .video), connection.isVideoRotationAngleSupported(90) {
            connection.videoRotationAngle = 90 // the app is portrait only
        }
        isConfigured = true
    }
}
