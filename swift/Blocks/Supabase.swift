// The shapes of supabase-swift that the documentation uses, so that its blocks can be type-checked without it.

import Foundation

public final class SupabaseClient: Sendable {
    public let auth = AuthClient()
    public init(supabaseURL _: URL, supabaseKey _: String) {}
}

public actor AuthClient {
    public var session: Session { get async throws { Session(accessToken: "") } }
    @discardableResult public func signInAnonymously() async throws -> Session { Session(accessToken: "") }
    @discardableResult public func refreshSession() async throws -> Session { Session(accessToken: "") }
}

public struct Session: Sendable {
    public let accessToken: String
    public var user: User { User(id: UUID()) }
}

public struct User: Sendable {
    public let id: UUID
}
