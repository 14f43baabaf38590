import Foundation
import LowdinoKit
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// Show a thing, tap its class, a few times each.
struct TeachView: View {
    @Environment(AppModel.self) private var model
    @State private var name = ""
    @State private var isImporting = false

    var body: some View {
        List {
            Section("Show a thing and tap its class") {
                ForEach(model.store.classes) { item in
                    row(item)
                }
                HStack {
                    TextField("New class", text: $name).onSubmit(add)
                    Button("Add", action: add)
                        .buttonStyle(.borderless) // else a tap anywhere in the row would press it
                        .disabled(trimmed.isEmpty)
                }
                .frame(minHeight: 44)
            }
            Section {
                if !model.store.classes.isEmpty {
                    ShareLink("Export classes", item: model.storeFile)
                }
                Button("Import classes") { isImporting = true }
            }
        }
        .listStyle(.insetGrouped)
        .fileImporter(isPresented: $isImporting, allowedContentTypes: [.json]) { result in
            switch result {
            case .success(let file): model.importClasses(from: file)
            case .failure(let error): model.problem = DemoError(describing: error)
            }
        }
    }

    private func row(_ item: ClassStore.Class) -> some View {
        Button {
            model.teach(item.id)
        } label: {
            HStack {
                Text(item.name).font(.headline)
                Spacer()
                ForEach(item.examples.suffix(3)) { example in
                    Thumbnail(picture: example.picture, side: 36)
                }
                Text("\(item.examples.count)").monospacedDigit().foregroundStyle(.secondary)
            }
            .frame(minHeight: 44)
        }
        .accessibilityLabel("Add an example of \(item.name), \(item.examples.count) so far")
        .disabled(model.frame == nil)
        .swipeActions {
            Button("Delete", role: .destructive) { model.removeClass(item.id) }
        }
    }

    private var trimmed: String { name.trimmingCharacters(in: .whitespacesAndNewlines) }

    private func add() {
        guard !trimmed.isEmpty else { return }
        model.addClass(trimmed)
        name = ""
    }
}

/// The small picture of an example; grey where there is none.
struct Thumbnail: View {
    let picture: Data?
    let side: CGFloat

    var body: some View {
        Group {
            if let picture, let image = UIImage(data: picture) {
                Image(uiImage: image).resizable()
            } else {
                Rectangle().fill(.quaternary)
            }
        }
        .frame(width: side, height: side)
        .clipShape(RoundedRectangle(cornerRadius: 6))
        .accessibilityHidden(true)
    }
}
