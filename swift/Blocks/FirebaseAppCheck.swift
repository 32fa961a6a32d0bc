// A stub, not FirebaseAppCheck: the two shapes of it that docs/devices.md uses.

import Foundation

public final class AppCheckToken: Sendable {
    public var token: String { "" }
}

public final class AppCheck: Sendable {
    public static func appCheck() -> AppCheck { AppCheck() }
    public func token(forcingRefresh _: Bool) async throws -> AppCheckToken { AppCheckToken() }
}
