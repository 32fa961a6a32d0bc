// A stub, not CryptoKit: the one function of it that docs/devices.md and the package's AppAttest.swift use.

import Foundation

public struct SHA256Digest: Sequence, Sendable {
    public func makeIterator() -> Array<UInt8>.Iterator { [].makeIterator() }
}

public enum SHA256 {
    public static func hash<D: DataProtocol>(data _: D) -> SHA256Digest { SHA256Digest() }
}
