// swift-tools-version: 6.0
import PackageDescription

// At the root of the repository, since SwiftPM takes a remote package from nowhere else.
let package = Package(
    name: "Tollgate",
    platforms: [.iOS(.v16), .macOS(.v13), .tvOS(.v16), .watchOS(.v9), .visionOS(.v1)],
    products: [
        .library(name: "Tollgate", targets: ["Tollgate"]),
        .library(name: "TollgateUI", targets: ["TollgateUI"]),
    ],
    targets: [
        .target(name: "Tollgate", path: "swift/Sources/Tollgate"),
        .target(name: "TollgateUI", dependencies: ["Tollgate"], path: "swift/Sources/TollgateUI"),
        .testTarget(name: "TollgateTests", dependencies: ["Tollgate", "TollgateUI"], path: "swift/Tests/TollgateTests"),
    ]
)
