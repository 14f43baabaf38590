import Foundation

/// The JSON of a class store: the same file in the web app, the Expo app and here.
extension ClassStore {
    private static let format = "lowdino-classes"
    private static let version = 1
    private static let again = "choose a file that this app exported, or teach the classes again"

    private struct Header: Decodable {
        let format: String?
        let version: Int?
    }

    private struct File: Codable {
        let format: String
        let version: Int
        let model_sha256: String
        let embed_dim: Int
        let classes: [FileClass]
    }

    private struct FileClass: Codable {
        let id: String
        let name: String
        let examples: [FileExample]
    }

    private struct FileExample: Codable {
        let id: String
        let embedding: String // base64 of little-endian float32
        let thumbnail: String?
    }

    public func json() throws -> Data {
        let file = File(
            format: ClassStore.format, version: ClassStore.version, model_sha256: modelSha256, embed_dim: dim,
            classes: classes.map { item in
                let examples = item.examples.map { example in
                    FileExample(
                        id: example.id, embedding: base64(example.embedding), thumbnail: example.thumbnail
                    )
                }
                return FileClass(id: item.id, name: item.name, examples: examples)
            }
        )
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(file)
    }

    /// The store that `json` gave.
    /// - Throws: `DemoError` for another format, another model, or a damaged file; nothing of it is taken then.
    public init(json: Data, modelSha256: String, dim: Int) throws {
        guard (try? JSONSerialization.jsonObject(with: json)) != nil else {
            throw DemoError("the file is not JSON, or was cut short", hint: ClassStore.again)
        }
        guard
            let header = try? JSONDecoder().decode(Header.self, from: json), header.format == ClassStore.format
        else {
            throw DemoError("this is no file of taught classes", hint: ClassStore.again)
        }
        guard header.version == ClassStore.version else {
            throw DemoError("the file is not of format version \(ClassStore.version)", hint: "update the app")
        }
        guard let file = try? JSONDecoder().decode(File.self, from: json) else {
            throw ClassStore.damaged("its fields")
        }
        guard file.model_sha256 == modelSha256 else {
            throw DemoError(
                "these classes were taught to another model", hint: "choose that model first, or teach them again"
            )
        }
        guard file.embed_dim == dim else {
            throw DemoError(
                "the file's embeddings are \(file.embed_dim) wide, the model's \(dim)", hint: ClassStore.again
            )
        }
        var ids = Set<String>()
        let read: [Class] = try file.classes.map { item in
            try ClassStore.check(item.id, "c", &ids)
            let examples = try item.examples.map { try ClassStore.example($0, dim, &ids) }
            return Class(id: item.id, name: item.name, examples: examples)
        }
        self.init(modelSha256: modelSha256, dim: dim)
        try take(read)
    }

    private static func example(_ read: FileExample, _ dim: Int, _ ids: inout Set<String>) throws -> Example {
        try check(read.id, "e", &ids)
        guard let embedding = floats(read.embedding), embedding.count == dim, embedding.allSatisfy(\.isFinite) else {
            throw damaged("the embedding of \(read.id)")
        }
        if let thumbnail = read.thumbnail {
            guard thumbnail.utf16.count <= maxThumbnail, picture(of: thumbnail)?.isEmpty == false else {
                throw damaged("the thumbnail of \(read.id)")
            }
        }
        return Example(id: read.id, embedding: embedding, thumbnail: read.thumbnail)
    }

    /// An id is `c` or `e` and a number, and there once.
    private static func check(_ id: String, _ kind: Character, _ ids: inout Set<String>) throws {
        guard
            id.first == kind, let number = Int(id.dropFirst()), (1 ..< 1_000_000_000_000).contains(number),
            id == "\(kind)\(number)", ids.insert(id).inserted
        else { throw damaged("the id '\(id.prefix(20))'") }
    }

    private static func damaged(_ place: String) -> DemoError {
        DemoError("the file of taught classes is damaged at \(place)", hint: again)
    }
}

private func base64(_ values: [Float]) -> String {
    var bytes = Data(capacity: 4 * values.count)
    for value in values {
        withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes.append(contentsOf: $0) }
    }
    return bytes.base64EncodedString()
}

/// Nothing for what is no base64 of whole numbers.
private func floats(_ base64: String) -> [Float]? {
    guard let data = Data(base64Encoded: base64), data.count % 4 == 0 else { return nil }
    let bytes = [UInt8](data)
    return stride(from: 0, to: bytes.count, by: 4).map { i in
        let bits = (0 ..< 4).reduce(UInt32(0)) { $0 | UInt32(bytes[i + $1]) << UInt32(8 * $1) }
        return Float(bitPattern: bits)
    }
}
