import Charts
import Foundation
import LowdinoKit
import SwiftUI

/// How long one call of the network takes on this phone.
struct BenchmarkView: View {
    @Environment(AppModel.self) private var model
    @State private var units = Units.all
    @State private var result: BenchmarkResult?
    @State private var isRunning = false

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 16) {
                Text(model.embedder.manifest.name).font(.title2.bold())
                Picker("Compute units", selection: $units) {
                    ForEach(Units.allCases) { Text($0.rawValue).tag($0) }
                }
                Button(isRunning ? "Measuring" : "Measure 100 calls") {
                    Task { await measure() }
                }
                .buttonStyle(.borderedProminent)
                .controlSize(.large)
                .disabled(isRunning)
                if let result { figures(result) }
            }
            .frame(maxWidth: .infinity, alignment: .leading)
        }
    }

    private func measure() async {
        isRunning = true
        defer { isRunning = false }
        let embedder = model.embedder
        let units = units
        do {
            result = try await Task.detached(priority: .userInitiated) {
                try await Benchmark.run(embedder, units: units, runs: 100, warmup: 10)
            }.value
        } catch {
            model.problem = DemoError(describing: error)
        }
    }

    @ViewBuilder private func figures(_ result: BenchmarkResult) -> some View {
        let latency = result.latency_ms
        Text("p50 \(latency.p50, specifier: "%.2f") ms, p90 \(latency.p90, specifier: "%.2f") ms").font(.title3)
        Text("noise \(percent(latency.noise)), rise over the run \(percent(latency.rise))")
        Text("loaded in \(result.load_ms, specifier: "%.0f") ms, \(latency.warmup) calls to warm up")
        Text("\(result.delegate); heat \(result.thermal.joined(separator: ", then "))")
        if latency.throttled {
            Label("It got slower while it ran: p50 is of a phone that throttles.", systemImage: "thermometer.high")
        }
        Chart(Array(latency.samples.enumerated()), id: \.offset) { place, sample in
            PointMark(x: .value("Call", place), y: .value("Milliseconds", sample))
        }
        .chartYScale(domain: .automatic(includesZero: true))
        .frame(height: 180)
        .accessibilityLabel("Milliseconds of each call")
        if let json = try? JSONEncoder().encode(result), let text = String(data: json, encoding: .utf8) {
            ShareLink("Share the result", item: text)
        }
    }

    private func percent(_ share: Double) -> String {
        share.formatted(.percent.precision(.fractionLength(0)))
    }
}
