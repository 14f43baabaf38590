import Foundation
import XCTest
@testable import LowdinoKit

final class ClassStoreTests: XCTestCase {
    private let sha = "00ff"

    private func taught() throws -> ClassStore {
        var store = ClassStore(modelSha256: sha, dim: 2)
        let cup = try store.addClass(" cup ")
        let key = try store.addClass("key")
        try store.addExample(to: key, embedding: [0, 1])
        try store.addExample(to: cup, embedding: [1, 0], jpeg: Data([1, 2, 3]))
        return store
    }

    private func complaint(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "no error"
        } catch {
            return (error as? DemoError)?.message ?? "another error: \(error)"
        }
    }

    func testBankIsInTheOrderOfTheClasses() throws {
        var store = try taught()
        XCTAssertEqual(store.bank, Bank(data: [1, 0, 0, 1], labels: [0, 1], dim: 2))
        XCTAssertEqual(store.classes[0].name, "cup")
        XCTAssertEqual(store.classes[0].examples[0].picture, Data([1, 2, 3]))
        try store.removeClass("c1")
        XCTAssertEqual(store.bank, Bank(data: [0, 1], labels: [0], dim: 2))
        try store.removeExample("e3", of: "c2")
        XCTAssertEqual(store.bank.labels, [])
    }

    func testIdsAreNeverUsedTwice() throws {
        let json = try taught().json()
        var read = try ClassStore(json: json, modelSha256: sha, dim: 2)
        XCTAssertEqual(read, try taught())
        XCTAssertEqual(try read.addClass("pen"), "c5")
        try read.renameClass("c5", to: "pencil")
        XCTAssertEqual(read.classes[2].name, "pencil")
    }

    func testRefusesWhatDoesNotFit() throws {
        var store = try taught()
        XCTAssertTrue(complaint { try store.addClass("cup") }.contains("already"))
        XCTAssertTrue(complaint { try store.renameClass("c2", to: "cup") }.contains("already"))
        XCTAssertEqual(complaint { try store.renameClass("c1", to: "cup") }, "no error")
        XCTAssertTrue(complaint { try store.addClass("  ") }.contains("1 to 60 letters"))
        XCTAssertTrue(complaint { try store.addClass(String(repeating: "x", count: 61)) }.contains("1 to 60 letters"))
        XCTAssertTrue(complaint { try store.addExample(to: "c1", embedding: [1]) }.contains("2 finite numbers"))
        XCTAssertTrue(complaint { try store.addExample(to: "c1", embedding: [1, .nan]) }.contains("2 finite numbers"))
        XCTAssertTrue(complaint { try store.addExample(to: "c9", embedding: [1, 0]) }.contains("no such class"))
        XCTAssertTrue(complaint { try store.removeExample("e9", of: "c1") }.contains("no such example"))
        XCTAssertEqual(store, try taught())
    }

    func testRefusesDamagedFiles() throws {
        let text = try XCTUnwrap(String(data: taught().json(), encoding: .utf8))
        let cases = [
            ("", "", "no error"),
            ("}", "", "not JSON"),
            ("lowdino-classes", "other", "no file of taught classes"),
            ("\"version\":1", "\"version\":2", "format version"),
            (sha, "ffff", "another model"),
            ("\"embed_dim\":2", "\"embed_dim\":3", "3 wide"),
            ("\"embed_dim\":2", "\"embed_dim\":\"2\"", "damaged at its fields"),
            ("\"c1\"", "\"c2\"", "damaged at the id 'c2'"),
            ("\"e3\"", "\"e03\"", "damaged at the id 'e03'"),
            ("\"e3\"", "\"c3\"", "damaged at the id 'c3'"),
            ("AACAPwAAAAA=", "AACAPw==", "damaged at the embedding"),
            ("AACAPwAAAAA=", "AACAfwAAAAA=", "damaged at the embedding"), // infinity
            ("data:image/jpeg", "data:text/html", "damaged at the thumbnail"),
            ("\"cup\"", "\"key\"", "already"),
        ]
        for (old, new, wanted) in cases {
            let changed = old.isEmpty ? text : text.replacingOccurrences(of: old, with: new)
            XCTAssertTrue(old.isEmpty || changed != text, "\(old) is not in the file")
            let got = complaint { _ = try ClassStore(json: Data(changed.utf8), modelSha256: sha, dim: 2) }
            XCTAssertTrue(got.contains(wanted), "\(old) -> \(new): \(got)")
        }
    }
}
