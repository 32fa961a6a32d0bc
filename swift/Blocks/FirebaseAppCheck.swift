// A stub, not Firebase: the two shapes of App Check that docs/devices.md uses. The token is not Sendable, as its public header has it;
// the rest is from memory.

open class AppCheck {
    open class func appCheck() -> AppCheck { AppCheck() }
    open func token(forcingRefresh _: Bool) async throws -> AppCheckToken { AppCheckToken() }
}

open class AppCheckToken {
    public let token = ""
}
