import Foundation

/// The one error a person is meant to see: what went wrong, and how to mend it. One line each.
public struct DemoError: LocalizedError, Equatable, Sendable {
    public let message: String
    public let hint: String

    public init(_ message: String, hint: String) {
        self.message = message
        self.hint = hint
    }

    public var errorDescription: String? { message }
    public var recoverySuggestion: String? { hint }
}
