import LowdinoKit
import SwiftUI

@main
struct LowdinoApp: App {
    var body: some Scene {
        WindowGroup { RootView() }
    }
}

/// Loads the model, then shows the app; or says why there is none.
struct RootView: View {
    @State private var model: AppModel?
    @State private var problem: DemoError?

    var body: some View {
        if let model {
            MainView().environment(model)
        } else if let problem {
            ContentUnavailableView(
                problem.message, systemImage: "exclamationmark.triangle", description: Text(problem.hint)
            )
        } else {
            ProgressView("Loading the model").task { await load() }
        }
    }

    private func load() async {
        do {
            model = try await AppModel.load()
        } catch {
            problem = DemoError(describing: error)
        }
    }
}

enum Mode: String, CaseIterable, Identifiable {
    case teach = "Teach"
    case live = "Live"
    case benchmark = "Benchmark"

    var id: Self { self }
}

struct MainView: View {
    @Environment(AppModel.self) private var model
    @State private var mode = Mode.teach

    var body: some View {
        VStack(spacing: 12) {
            if mode != .benchmark {
                CameraPreview(session: model.camera.session)
                    .aspectRatio(1, contentMode: .fit)
                    .clipShape(RoundedRectangle(cornerRadius: 16))
                    .frame(maxHeight: 320)
                    .accessibilityLabel("Camera picture: the square that the model sees")
            }
            page.frame(maxWidth: .infinity, maxHeight: .infinity)
            Picker("Page", selection: $mode) {
                ForEach(Mode.allCases) { Text($0.rawValue).tag($0) }
            }
            .pickerStyle(.segmented)
            .controlSize(.large)
        }
        .padding()
        .task(id: mode) {
            if mode == .benchmark {
                model.camera.stop()
            } else {
                await model.startCamera()
            }
        }
        .alert(isPresented: hasProblem, error: model.problem) { _ in
            Button("OK") {}
        } message: { problem in
            Text(problem.hint)
        }
    }

    @ViewBuilder private var page: some View {
        switch mode {
        case .teach: TeachView()
        case .live: LiveView()
        case .benchmark: BenchmarkView()
        }
    }

    private var hasProblem: Binding<Bool> {
        Binding(get: { model.problem != nil }, set: { if !$0 { model.problem = nil } })
    }
}
