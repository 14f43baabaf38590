import Foundation

/// What a person has taught: classes and their examples, of one model. The web app's JSON (core/src/store.ts).
public struct ClassStore: Equatable, Sendable {
    public struct Example: Equatable, Identifiable, Sendable {
        public let id: String
        public let embedding: [Float]
        public let thumbnail: String? // data URL

        /// The bytes of the thumbnail's picture.
        public var picture: Data? { thumbnail.flatMap(ClassStore.picture(of:)) }
    }

    public struct Class: Equatable, Identifiable, Sendable {
        public let id: String
        public fileprivate(set) var name: String
        public fileprivate(set) var examples: [Example]
    }

    public static let maxName = 60 // letters, as JavaScript counts them
    static let maxThumbnail = 200_000

    /// In the order they were added; the index here is the label in `bank`.
    public private(set) var classes: [Class] = []
    public let modelSha256: String
    public let dim: Int
    private var last = 0 // number of the youngest id

    /// An empty store for the model with this sha256, whose embeddings are `dim` wide.
    public init(modelSha256: String, dim: Int) {
        self.modelSha256 = modelSha256
        self.dim = dim
    }

    /// All examples for `KNN.classify`, in the order of `classes`.
    public var bank: Bank {
        var bank = Bank(data: [], labels: [], dim: dim)
        for (label, item) in classes.enumerated() {
            for example in item.examples {
                bank.data += example.embedding
                bank.labels.append(label)
            }
        }
        return bank
    }

    @discardableResult
    public mutating func addClass(_ name: String) throws -> Class.ID {
        let free = try freeName(name)
        let id = newId("c")
        classes.append(Class(id: id, name: free, examples: []))
        return id
    }

    public mutating func renameClass(_ id: Class.ID, to name: String) throws {
        let place = try find(id)
        classes[place].name = try freeName(name, except: id)
    }

    public mutating func removeClass(_ id: Class.ID) throws {
        classes.remove(at: try find(id))
    }

    @discardableResult
    public mutating func addExample(to id: Class.ID, embedding: [Float], jpeg: Data? = nil) throws -> Example.ID {
        let place = try find(id)
        guard embedding.count == dim, embedding.allSatisfy(\.isFinite) else {
            throw DemoError(
                "the embedding is no \(dim) finite numbers", hint: "embed it with the model that this store belongs to"
            )
        }
        let thumbnail = jpeg.map { "data:image/jpeg;base64," + $0.base64EncodedString() }
        if let thumbnail, thumbnail.utf16.count > ClassStore.maxThumbnail {
            throw DemoError("the thumbnail is too large", hint: "draw it smaller, or leave it out")
        }
        let example = Example(id: newId("e"), embedding: embedding, thumbnail: thumbnail)
        classes[place].examples.append(example)
        return example.id
    }

    public mutating func removeExample(_ id: Example.ID, of classId: Class.ID) throws {
        let place = try find(classId)
        guard let at = classes[place].examples.firstIndex(where: { $0.id == id }) else { throw gone("example") }
        classes[place].examples.remove(at: at)
    }

    /// Puts classes that were read from a file into an empty store; their names and ids must be free.
    mutating func take(_ read: [Class]) throws {
        for item in read {
            let name = try freeName(item.name)
            classes.append(Class(id: item.id, name: name, examples: item.examples))
        }
        let ids = read.flatMap { [$0.id] + $0.examples.map(\.id) }
        last = ids.compactMap { Int($0.dropFirst()) }.max() ?? 0
    }

    static func picture(of dataURL: String) -> Data? {
        let kinds = ["jpeg", "png", "webp"].map { "data:image/\($0);base64," }
        guard let start = kinds.first(where: { dataURL.hasPrefix($0) }) else { return nil }
        return Data(base64Encoded: String(dataURL.dropFirst(start.count)))
    }

    private mutating func newId(_ kind: String) -> String {
        last += 1
        return "\(kind)\(last)"
    }

    private func find(_ id: Class.ID) throws -> Int {
        guard let place = classes.firstIndex(where: { $0.id == id }) else { throw gone("class") }
        return place
    }

    private func gone(_ what: String) -> DemoError {
        DemoError("there is no such \(what) any more", hint: "open the page again")
    }

    private func freeName(_ name: String, except id: Class.ID? = nil) throws -> String {
        let short = name.trimmingCharacters(in: .whitespacesAndNewlines)
        guard (1 ... ClassStore.maxName).contains(short.utf16.count) else {
            throw DemoError("a class's name has 1 to \(ClassStore.maxName) letters", hint: "give it another name")
        }
        if classes.contains(where: { $0.name == short && $0.id != id }) {
            throw DemoError(
                "there is a class '\(short)' already", hint: "add the example to it, or choose another name"
            )
        }
        return short
    }
}
