// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "LowdinoKit",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "LowdinoKit", targets: ["LowdinoKit"])],
    targets: [
        .target(name: "LowdinoKit"),
        .testTarget(name: "LowdinoKitTests", dependencies: ["LowdinoKit"], resources: [.copy("Resources/golden.json")]),
    ]
)
