import Foundation

/// sha256 of an .mlpackage as `lowdino_edge/artifact.py` computes it: over sorted paths and the hashes of the files.
///
/// - Parameter sha256: 32 bytes for any data; the app gives CryptoKit's, which Foundation does not have.
/// - Throws: Foundation's errors for files that cannot be read.
public func packageDigest(of directory: URL, sha256: (Data) -> Data) throws -> String {
    var whole = Data()
    for name in try filesBelow(directory).sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) {
        whole.append(contentsOf: name.utf8)
        whole.append(0)
        whole.append(sha256(try Data(contentsOf: directory.appendingPathComponent(name))))
    }
    return sha256(whole).map { String(format: "%02x", $0) }.joined()
}

/// Paths of all files below a directory, relative to it, with slashes.
private func filesBelow(_ directory: URL) throws -> [String] {
    try FileManager.default.subpathsOfDirectory(atPath: directory.path).filter { name in
        var isDirectory: ObjCBool = false
        let path = directory.appendingPathComponent(name).path
        return FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) && !isDirectory.boolValue
    }
}
