// What Foundation has on Apple's systems and not on Linux, so that the documentation's blocks can be type-checked there.

import Foundation
import FoundationNetworking

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

/// The token of whoever is signed in, and the server's address, as the blocks call them.
let accessToken = ""
let server = URL(string: "https://api.example.com")!
