// What Foundation has on Apple's systems and not on Linux, so that the documentation's blocks can be type-checked there.

import Foundation
import FoundationNetworking
import StoreKit
import Supabase

extension URLSession {
    struct AsyncBytes: AsyncSequence, Sendable {
        typealias Element = UInt8
        struct AsyncIterator: AsyncIteratorProtocol {
            mutating func next() async throws -> UInt8? { nil }
        }
        func makeAsyncIterator() -> AsyncIterator { AsyncIterator() }
        var lines: AsyncThrowingStream<String, any Error> { AsyncThrowingStream { $0.finish() } }
    }

    func bytes(for _: URLRequest) async throws -> (AsyncBytes, URLResponse) { throw URLError(.unknown) }
}

/// What an app has around the blocks: its Supabase, the token of whoever is signed in, the server's address, what it sells.
let supabase = SupabaseClient(supabaseURL: URL(string: "https://your-project.supabase.co")!, supabaseKey: "sb_publishable_…")
let product = Product()
let checkout = server
@MainActor func openURL(_: URL) {}
let accessToken = ""
let server = URL(string: "https://api.example.com")!
let challenge = ""
@MainActor var request = URLRequest(url: server)
