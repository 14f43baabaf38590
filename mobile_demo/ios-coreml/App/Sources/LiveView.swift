import LowdinoKit
import SwiftUI

/// What the camera sees now: the class, how sure the vote is, and the examples that decided it.
struct LiveView: View {
    @Environment(AppModel.self) private var model

    var body: some View {
        if let vote = model.vote, vote.shares.count == model.store.classes.count {
            ScrollView {
                VStack(alignment: .leading, spacing: 12) {
                    Text(model.store.classes[vote.label].name).font(.largeTitle.bold())
                    ForEach(Array(model.store.classes.enumerated()), id: \.element.id) { place, item in
                        ProgressView(value: vote.shares[place]) {
                            Text(item.name)
                        } currentValueLabel: {
                            Text(vote.shares[place], format: .percent.precision(.fractionLength(0))).monospacedDigit()
                        }
                    }
                    nearest(vote)
                    if let frame = model.frame {
                        Text("\(frame.milliseconds, specifier: "%.1f") ms a frame, scaling included")
                            .font(.footnote).monospacedDigit().foregroundStyle(.secondary)
                    }
                }
                .frame(maxWidth: .infinity, alignment: .leading)
            }
        } else {
            ContentUnavailableView(
                "Nothing taught yet", systemImage: "hand.tap",
                description: Text("Add classes on the Teach page, a few examples each.")
            )
        }
    }

    private func nearest(_ vote: Vote) -> some View {
        let examples = model.store.classes.flatMap(\.examples) // in the order of the bank's rows
        return HStack {
            ForEach(vote.neighbours.prefix(4), id: \.index) { neighbour in
                VStack {
                    Thumbnail(picture: examples[neighbour.index].picture, side: 64)
                    Text("\(neighbour.similarity, specifier: "%.2f")").font(.caption).monospacedDigit()
                }
            }
        }
        .accessibilityElement(children: .ignore)
        .accessibilityLabel("The nearest examples")
    }
}
