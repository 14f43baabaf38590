import Foundation

/// Labelled embeddings, row after row. Labels are indices of classes.
public struct Bank: Equatable, Sendable {
    public var data: [Float]
    public var labels: [Int]
    public let dim: Int

    public init(data: [Float], labels: [Int], dim: Int) {
        self.data = data
        self.labels = labels
        self.dim = dim
    }
}

public struct Neighbour: Equatable, Sendable {
    public let index: Int // row of the bank
    public let label: Int
    public let similarity: Float // cosine
}

public struct Vote: Equatable, Sendable {
    public let label: Int
    public let confidence: Double // the winner's share of the votes
    public let shares: [Double] // of each class, sum 1
    public let neighbours: [Neighbour] // nearest first
}

/// k-nearest-neighbour classification: the standard protocol of `lowdino_edge/evals/knn.py`.
///
/// Neighbours are ranked by cosine; each of the k nearest votes for its class with weight exp(cosine / temperature).
/// Neighbours of equal cosine count in the order of the bank, classes of equal votes go to the one that comes first.
public enum KNN {
    /// The class of one embedding. `k` is clipped to the bank.
    /// - Throws: `DemoError` for an empty bank, widths that differ, values that are not finite.
    public static func classify(
        _ query: [Float], in bank: Bank, classes: Int, k: Int = 20, temperature: Double = 0.07
    ) throws -> Vote {
        try check(query, bank, classes)
        precondition(k >= 1 && temperature > 0, "k is at least 1, the temperature above 0")
        let neighbours = nearest(normalise(query[...]), bank).prefix(k)
        let best = Double(neighbours[0].similarity)
        var votes = [Double](repeating: 0, count: classes)
        for n in neighbours { // scaled by the best, so that no temperature overflows
            votes[n.label] += exp((Double(n.similarity) - best) / temperature)
        }
        var winner = 0
        for c in votes.indices where votes[c] > votes[winner] { winner = c }
        let sum = votes.reduce(0, +)
        let shares = votes.map { $0 / sum }
        return Vote(label: winner, confidence: shares[winner], shares: shares, neighbours: Array(neighbours))
    }

    /// The vector at length 1; a zero vector stays zero.
    public static func normalise(_ z: ArraySlice<Float>) -> [Float] {
        let length = z.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        return z.map { length > 0 ? Float(Double($0) / length) : 0 }
    }

    private static func nearest(_ unitQuery: [Float], _ bank: Bank) -> [Neighbour] {
        let all = bank.labels.indices.map { i in
            let row = normalise(bank.data[i * bank.dim ..< (i + 1) * bank.dim])
            let cosine = zip(row, unitQuery).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
            return Neighbour(index: i, label: bank.labels[i], similarity: Float(cosine))
        }
        return all.sorted { ($1.similarity, $0.index) < ($0.similarity, $1.index) }
    }

    private static func check(_ query: [Float], _ bank: Bank, _ classes: Int) throws {
        if bank.labels.isEmpty {
            throw DemoError("there are no examples yet", hint: "teach at least one thing first")
        }
        precondition(bank.data.count == bank.labels.count * bank.dim, "a row of the bank for each label")
        precondition(bank.labels.allSatisfy { (0 ..< classes).contains($0) }, "labels are indices of classes")
        if query.count != bank.dim {
            throw DemoError(
                "the bank's embeddings are \(bank.dim) wide, the picture's \(query.count)",
                hint: "embed both with one model"
            )
        }
        guard query.allSatisfy(\.isFinite), bank.data.allSatisfy(\.isFinite) else {
            throw DemoError(
                "an embedding has values that are not finite",
                hint: "the model is broken on this device: try another scheme, `--scheme none` is the safest"
            )
        }
    }
}
