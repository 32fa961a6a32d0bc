// A stub, not StoreKit: the few shapes of it that the pages, the package's StoreKitPurchases.swift and the example app use, so that they can be
// type-checked on Linux.
// Nothing of it does anything, and what compiles against it may still be wrong on Apple's systems.

import Foundation

public struct Product: Identifiable, Sendable {
    public init() {}
    public var id: String { "" }
    public var displayName: String { "" }
    public var displayPrice: String { "" }
    public static func products(for _: [String]) async throws -> [Product] { [] }
    public enum PurchaseResult: Sendable {
        case success(VerificationResult<Transaction>)
        case userCancelled, pending
    }
    public struct PurchaseOption: Hashable, Sendable {
        public static func appAccountToken(_: UUID) -> PurchaseOption { PurchaseOption() }
    }
    public func purchase(options _: Set<PurchaseOption> = []) async throws -> PurchaseResult { .userCancelled }
}

public enum VerificationResult<SignedType: Sendable>: Sendable {
    public enum VerificationError: Error { case invalidSignature }
    case unverified(SignedType, VerificationError)
    case verified(SignedType)
    public var jwsRepresentation: String { "" }
    public var unsafePayloadValue: SignedType {
        switch self {
        case .unverified(let value, _), .verified(let value): value
        }
    }
}

public struct Transaction: Sendable {
    public static var updates: AsyncStream<VerificationResult<Transaction>> { AsyncStream { $0.finish() } }
    public static var currentEntitlements: AsyncStream<VerificationResult<Transaction>> { updates }
    public static var unfinished: AsyncStream<VerificationResult<Transaction>> { updates }
    public func finish() async {}
}

public enum AppStore {
    public static func sync() async throws {}
}
