// A stub, not StoreKit: the few shapes of it that docs/purchases.md uses, so that the page's blocks can be type-checked on Linux.
// Nothing of it does anything, and what compiles against it may still be wrong on Apple's systems.

import Foundation

public struct Product: Sendable {
    public init() {}
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
}

public struct Transaction: Sendable {
    public static var updates: AsyncStream<VerificationResult<Transaction>> { AsyncStream { $0.finish() } }
    public static var currentEntitlements: AsyncStream<VerificationResult<Transaction>> { updates }
    public func finish() async {}
}
