import Foundation

/// Honest timing of single calls, as `lowdino_edge/bench/latency.py`: same rules, same figures.
public enum Latency {
    /// `latency_ms` of the benchmark, milliseconds.
    public struct Summary: Codable, Equatable, Sendable {
        public let p50: Double
        public let p90: Double
        public let min: Double
        public let samples: [Double]
        public let noise: Double
        public let rise: Double
        public let throttled: Bool
        public let warmup: Int
    }

    public static let burst = 5 // timed calls a turn
    public static let riseLimit = 0.10 // slower by this share at the end than at the start: said to be throttled
    private static let stableShare = 0.05 // of the medians of two windows in a row
    private static let window = 5
    private static let maxWarmUp = 10.0 // seconds

    public static func summary(_ samples: [Double], warmup: Int) -> Summary {
        let change = rise(samples)
        return Summary(
            p50: percentile(samples, 50), p90: percentile(samples, 90), min: percentile(samples, 0), samples: samples,
            noise: noise(samples), rise: change, throttled: change > riseLimit, warmup: warmup
        )
    }

    /// numpy's linear percentile; `q` in 0...100.
    public static func percentile(_ samples: [Double], _ q: Double) -> Double {
        precondition(!samples.isEmpty, "no samples")
        let sorted = samples.sorted()
        let place = q / 100 * Double(sorted.count - 1)
        let low = Int(place)
        let from = sorted[low]
        let to = sorted[Swift.min(low + 1, sorted.count - 1)]
        return from + (to - from) * (place - Double(low))
    }

    /// Interquartile range over the median: how far a single figure is to be trusted.
    public static func noise(_ samples: [Double]) -> Double {
        let middle = percentile(samples, 50)
        return middle > 0 ? (percentile(samples, 75) - percentile(samples, 25)) / middle : 0
    }

    /// Change over the run as a share of its median; 0.2 means a fifth slower at the end than at the start.
    ///
    /// The slope is the median over all pairs of stretches (Theil and Sen), so that a burst of other work is no trend.
    /// Under 15 samples nothing is claimed.
    public static func rise(_ samples: [Double], parts wanted: Int = 10) -> Double {
        let parts = Swift.min(wanted, samples.count / window)
        guard parts >= 3 else { return 0 }
        let medians = stretches(samples, parts).map { percentile(Array($0), 50) }
        var slopes: [Double] = []
        for i in 0 ..< parts {
            for j in i + 1 ..< parts { slopes.append((medians[j] - medians[i]) / Double(j - i)) }
        }
        let middle = percentile(samples, 50)
        return middle > 0 ? percentile(slopes, 50) * Double(parts - 1) / middle : 0
    }

    /// Calls at least `atLeast` times and then until the time of a call is stable; returns how many calls it took.
    ///
    /// Gives up on stability after five times as many calls, or ten seconds. 0 means no warm-up.
    public static func warmUp(
        atLeast: Int, now: () -> Double = milliseconds, _ call: () throws -> Void
    ) rethrows -> Int {
        var samples: [Double] = []
        let start = now()
        while samples.count < 5 * atLeast {
            samples.append(try timed(now, call))
            if samples.count < atLeast { continue }
            if isStable(samples) || now() - start > maxWarmUp * 1000 { break }
        }
        return samples.count
    }

    /// Times a call `runs` times: turns of one untimed call, which brings the model back into the caches, and a burst.
    public static func measure(
        runs: Int, now: () -> Double = milliseconds, _ call: () throws -> Void
    ) rethrows -> [Double] {
        var samples: [Double] = []
        while samples.count < runs {
            try call()
            for _ in 0 ..< Swift.min(burst, runs - samples.count) { samples.append(try timed(now, call)) }
        }
        return samples
    }

    /// A clock that only runs forwards.
    public static func milliseconds() -> Double {
        Double(DispatchTime.now().uptimeNanoseconds) / 1e6
    }

    private static func timed(_ now: () -> Double, _ call: () throws -> Void) rethrows -> Double {
        let start = now()
        try call()
        return now() - start
    }

    private static func isStable(_ samples: [Double]) -> Bool {
        guard samples.count >= 2 * window else { return false }
        let before = percentile(Array(samples.suffix(2 * window).prefix(window)), 50)
        return abs(percentile(Array(samples.suffix(window)), 50) - before) <= stableShare * before
    }

    /// Cut into `parts` of nearly equal length; the first ones are longer by one where it does not divide.
    private static func stretches(_ samples: [Double], _ parts: Int) -> [ArraySlice<Double>] {
        let short = samples.count / parts
        let longer = samples.count % parts
        return (0 ..< parts).map { i in
            let start = i * short + Swift.min(i, longer)
            return samples[start ..< start + short + (i < longer ? 1 : 0)]
        }
    }
}
