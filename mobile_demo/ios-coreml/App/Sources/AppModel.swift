import Foundation
import LowdinoKit
import Observation
import UIKit

/// What the views show and change. The class store is written to disk after each change.
@MainActor @Observable
final class AppModel {
    let embedder: Embedder
    let camera = Camera()
    private(set) var store: ClassStore
    private(set) var frame: Frame?
    private(set) var vote: Vote?
    var problem: DemoError?

    static func load() async throws -> AppModel {
        let embedder = try await Embedder.load()
        return AppModel(embedder: embedder)
    }

    private init(embedder: Embedder) {
        self.embedder = embedder
        store = ClassStore(modelSha256: embedder.manifest.sha256, dim: embedder.manifest.embedDim)
        guard let saved = try? Data(contentsOf: storeFile) else { return }
        do {
            store = try ClassStore(json: saved, modelSha256: store.modelSha256, dim: store.dim)
        } catch {
            problem = DemoError(describing: error)
        }
    }

    /// One file for each model: another model's embeddings mean nothing to this one.
    var storeFile: URL {
        let name = "classes-\(embedder.manifest.sha256.prefix(12)).json"
        return URL.documentsDirectory.appendingPathComponent(name)
    }

    func startCamera() async {
        let reader = FrameReader(embedder)
        do {
            try await camera.start { [weak self] image in
                guard let result = reader.read(image) else { return }
                Task { @MainActor [weak self] in self?.receive(result) }
            }
        } catch {
            problem = DemoError(describing: error)
        }
    }

    private func receive(_ result: Result<Frame, Error>) {
        do {
            let new = try result.get()
            frame = new
            vote = try classify(new.embedding)
        } catch {
            camera.stop()
            problem = DemoError(describing: error)
        }
    }

    /// Nothing where nothing was taught yet.
    private func classify(_ embedding: [Float]) throws -> Vote? {
        let bank = store.bank
        return bank.labels.isEmpty ? nil : try KNN.classify(embedding, in: bank, classes: store.classes.count)
    }

    func addClass(_ name: String) {
        change { _ = try $0.addClass(name) }
    }

    func removeClass(_ id: ClassStore.Class.ID) {
        change { try $0.removeClass(id) }
    }

    /// What the camera sees now becomes an example of the class.
    func teach(_ id: ClassStore.Class.ID) {
        guard let frame else { return }
        let jpeg = UIImage(cgImage: frame.thumbnail).jpegData(compressionQuality: 0.7)
        change { _ = try $0.addExample(to: id, embedding: frame.embedding, jpeg: jpeg) }
    }

    /// Takes the classes of a file that this app or the web app wrote for the same model.
    func importClasses(from file: URL) {
        let opened = file.startAccessingSecurityScopedResource()
        defer { if opened { file.stopAccessingSecurityScopedResource() } }
        change { store in
            store = try ClassStore(json: Data(contentsOf: file), modelSha256: store.modelSha256, dim: store.dim)
        }
    }

    /// All or nothing: where the change or the writing fails, the store stays as it was.
    private func change(_ edit: (inout ClassStore) throws -> Void) {
        do {
            var edited = store
            try edit(&edited)
            try edited.json().write(to: storeFile, options: .atomic)
            store = edited
            vote = nil
        } catch {
            problem = DemoError(describing: error)
        }
    }
}

extension DemoError {
    init(describing error: Error) {
        self = error as? DemoError ?? DemoError(error.localizedDescription, hint: "Try again, or start the app anew.")
    }
}
