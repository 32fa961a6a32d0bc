import Foundation
import Testing

@testable import Tollgate

/// What scripts/swift-check.sh says of the running server; without it only what needs no server is tested.
enum World {
    static let server = url("SERVER")
    /// A way to it on which most connections break.
    static let lost = url("LOST")
    private static let tokens = try? JSONDecoder().decode([String: [String]].self, from: Data((environment("TOKENS") ?? "").utf8))
    private static let lock = NSLock()
    nonisolated(unsafe) private static var taken: [String: Int] = [:]

    static var isThere: Bool { server != nil }

    /// A token of a user who has made no request yet.
    static func token(_ plan: String = "free") -> String {
        lock.withLock {
            let number = taken[plan, default: 0]
            taken[plan] = number + 1
            return tokens![plan]![number]
        }
    }

    /// A client of a new user.
    static func newUser(_ plan: String = "free", at server: URL? = World.server) -> TollgateClient {
        let token = token(plan)
        return TollgateClient(server!) { _ in token }
    }

    static func words(_ count: Int) -> String { (1...count).map { "word\($0)" }.joined(separator: " ") }

    /// A WAV file with nothing to hear: 8,000 samples a second of one byte.
    static func silence(seconds: Int) -> Data {
        func number<T: FixedWidthInteger>(_ value: T) -> Data { withUnsafeBytes(of: value.littleEndian) { Data($0) } }
        let size = UInt32(8_000 * seconds)
        let format = number(UInt32(16)) + number(UInt16(1)) + number(UInt16(1)) + number(UInt32(8_000)) + number(UInt32(8_000))
        let head = Data("WAVEfmt ".utf8) + format + number(UInt16(1)) + number(UInt16(8)) + Data("data".utf8) + number(size)
        return Data("RIFF".utf8) + number(UInt32(head.count) + size) + head + Data(repeating: 128, count: Int(size))
    }

    /// How many requests of a user are charged, once none of them is open.
    static func charged(_ client: TollgateClient) async throws -> Int {
        for _ in 0..<100 {
            if let limit = try await client.me().limits.first(where: { $0.unit == "requests" }), limit.held.value == 0 {
                return NSDecimalNumber(decimal: limit.used.value).intValue
            }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw TollgateError(code: "test", message: "a request never ended")
    }

    private static func environment(_ name: String) -> String? { ProcessInfo.processInfo.environment[name] }
    private static func url(_ name: String) -> URL? { environment(name).flatMap { $0.isEmpty ? nil : URL(string: $0) } }
}

/// The error that a piece of work ends with. (`#expect(throws:)` of Swift 6.0 does not return it.)
func failure<T>(_ work: () async throws -> T) async throws -> TollgateError {
    do {
        _ = try await work()
    } catch let error as TollgateError {
        return error
    }
    Issue.record("it did not fail")
    throw TollgateError(code: "test", message: "it did not fail")
}

let hello = [Message.user("Hello")]
