// A stub, not RevenueCat: the few shapes of its package that docs/purchases.md uses, so that the page's blocks can be type-checked
// without it. Nothing of it does anything, and what compiles against it may still be wrong with the real one.

public final class Purchases: Sendable {
    public static let shared = Purchases()
    @discardableResult public static func configure(withAPIKey _: String) -> Purchases { shared }
    public func logIn(_: String) async throws -> (customerInfo: CustomerInfo, created: Bool) { (CustomerInfo(), false) }
    public func offerings() async throws -> Offerings { Offerings() }
    public func purchase(package _: Package) async throws -> PurchaseResultData { (nil, CustomerInfo(), true) }
}

public typealias PurchaseResultData = (transaction: StoreTransaction?, customerInfo: CustomerInfo, userCancelled: Bool)
public final class CustomerInfo: Sendable {}
public final class StoreTransaction: Sendable {}
public final class Package: Sendable {}
public final class Offering: Sendable {
    public let monthly: Package? = nil
}
public final class Offerings: Sendable {
    public let current: Offering? = nil
}
