// A stub, not SuperwallKit: the few shapes of it that docs/purchases.md uses, so that the page's blocks can be type-checked without
// it. Nothing of it does anything, and what compiles against it may still be wrong with the real one.

public final class Superwall: Sendable {
    public static let shared = Superwall()
    @discardableResult public static func configure(apiKey _: String) -> Superwall { shared }
    public func identify(userId _: String) {}
    public func register(placement _: String, params _: [String: Any]? = nil, feature _: @escaping () -> Void) {}
}
