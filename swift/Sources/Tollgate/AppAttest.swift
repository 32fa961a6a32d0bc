#if canImport(DeviceCheck) && canImport(CryptoKit) && !os(watchOS)
    import CryptoKit
    import DeviceCheck
    import Foundation

    // For Apple's systems only: compiled by us against stubs, and not run.

    /// Proves by App Attest that the app is genuine. The server's token lasts an hour; failure goes on without.
    @available(iOS 16, macOS 13, tvOS 16, visionOS 1, *)
    public actor AppAttestProof: DeviceProof {
        private struct Challenge: Decodable { let challenge: String }
        private struct Granted: Decodable {
            let deviceToken: String
            let expiresIn: Double
        }
        private static let keyName = "tollgate.app-attest.key"
        private var granted: (token: String, until: Date)?
        private var flight: Task<Granted, any Error>?

        public init() {}

        public func token(for client: TollgateClient) async throws -> String? {
            if let granted, granted.until > Date() { return granted.token }
            guard DCAppAttestService.shared.isSupported else { return nil }
            // One at a time: requests that begin together share what the first one gets.
            let flight = flight ?? Task { try await proveAnew(TollgateClient(client.server, token: client.token)) }
            self.flight = flight
            defer { self.flight = nil }
            let new = try await flight.value
            granted = (new.deviceToken, Date().addingTimeInterval(new.expiresIn - 60))
            return new.deviceToken
        }

        private func proveAnew(_ client: TollgateClient) async throws -> Granted {
            do {
                return try await prove(client)
            } catch let error as DCError where error.code == .invalidKey {
                UserDefaults.standard.removeObject(forKey: Self.keyName)
                return try await prove(client)
            }
        }

        private func prove(_ client: TollgateClient) async throws -> Granted {
            let challenge: Challenge = try await client.post("api/device/challenge", [:])
            let hash = Data(SHA256.hash(data: Data(challenge.challenge.utf8)))
            let service = DCAppAttestService.shared
            if let key = UserDefaults.standard.string(forKey: Self.keyName) {
                let assertion = try await service.generateAssertion(key, clientDataHash: hash).base64EncodedString()
                return try await client.post("api/device/token", ["key_id": .string(key), "assertion": .string(assertion)])
            }
            let key = try await service.generateKey()
            let attestation = try await service.attestKey(key, clientDataHash: hash).base64EncodedString()
            let new: Granted = try await client.post(
                "api/device/register", ["key_id": .string(key), "attestation": .string(attestation)])
            UserDefaults.standard.set(key, forKey: Self.keyName)
            return new
        }
    }
#endif
