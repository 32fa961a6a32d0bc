// swift-tools-version: 6.0
import PackageDescription

// At the root of the repository, since SwiftPM takes a remote package from nowhere else.
let package = Package(
    name: "Tollgate",
    platforms: [.iOS(.v16), .macOS(.v13), .tvOS(.v16), .watchOS(.v9), .visionOS(.v1)],
    products: [
        .library(name: "Tollgate", targets: ["Tollgate"]),
        .library(name: "TollgateUI", targets: ["TollgateUI"]),
        // Apple's protocol for models of other providers (iOS 27); empty elsewhere.
        .library(name: "TollgateFoundationModels", targets: ["TollgateFoundationModels"]),
    ],
    targets: [
        .target(name: "Tollgate", path: "swift/Sources/Tollgate"),
        .target(name: "TollgateUI", dependencies: ["Tollgate"], path: "swift/Sources/TollgateUI"),
        .target(name: "TollgateFoundationModels", dependencies: ["Tollgate"], path: "swift/Sources/TollgateFoundationModels"),
        .testTarget(name: "TollgateTests", dependencies: ["Tollgate", "TollgateUI"], path: "swift/Tests/TollgateTests"),
    ]
)
