// A stub, not DeviceCheck: the shapes of App Attest that docs/devices.md and the package's AppAttest.swift use.

import Foundation

public struct DCError: Error, Sendable {
    public enum Code: Int, Sendable { case unknownSystemFailure, featureUnsupported, invalidInput, invalidKey, serverUnavailable }
    public var code: Code { .unknownSystemFailure }
}

public final class DCAppAttestService: Sendable {
    public static let shared = DCAppAttestService()
    public var isSupported: Bool { false }
    public func generateKey() async throws -> String { "" }
    public func attestKey(_: String, clientDataHash _: Data) async throws -> Data { Data() }
    public func generateAssertion(_: String, clientDataHash _: Data) async throws -> Data { Data() }
}
