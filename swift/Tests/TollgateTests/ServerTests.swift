import Foundation
import Testing
import TollgateUI

@testable import Tollgate

@Suite("Against a server", .enabled(if: World.isThere, "NOT CHECKED: scripts/swift-check.sh starts a server"))
struct ServerTests {
    @Test("A whole answer, and what is left after it")
    func whole() async throws {
        let client = World.newUser()
        let answer = try await client.chat(hello, ChatOptions(maxTokens: 5, feature: "coach"))
        #expect(answer.text == World.words(5))
        #expect(answer.finishReason == "length")
        #expect(UUID(uuidString: answer.requestID) != nil)
        #expect(try await World.charged(client) == 1)
        let me = try await client.me()
        #expect(me.plan.name == "free")
        #expect(me.tightest?.used.value == 1)
        let today = Date()
        let rows = try await client.usage(today...today)
        #expect(rows.map(\.requests) == [1])
    }

    @Test("A stream, piece by piece")
    func stream() async throws {
        let stream = World.newUser().stream(hello)
        var pieces: [Piece] = []
        for try await piece in stream { pieces.append(piece) }
        #expect(pieces.count == 8)
        #expect(pieces.map(\.delta).joined() == World.words(8))
        #expect(pieces.last?.text == World.words(8))
        #expect(stream.finishReason == "stop")
    }

    @Test("An answer that fits a schema is decoded")
    func structured() async throws {
        struct Place: Decodable { let city: String }
        let schema = #"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}"#
        #expect(try await World.newUser().chat(hello, as: Place.self, schema: schema).city == "Paris")
        let cut = try await failure { try await TollgateClient.scripted(["{\"city\": \"Pa"]).chat(hello, as: Place.self, schema: schema) }
        #expect(cut.code == "not_json" && cut.partialText == "{\"city\": \"Pa")
    }

    @Test("A token that has expired is refreshed once, for an answer and for a stream")
    func refresh() async throws {
        let (old, new) = (World.token("expired"), World.token())
        let client = TollgateClient(World.server!) { $0 == .fresh ? new : old }
        #expect(try await client.chat(hello).text == World.words(8))
        #expect(try await client.stream(hello).text() == World.words(8))
        let stale = TollgateClient(World.server!) { _ in old }
        for error in [try await failure { try await stale.chat(hello) }, try await failure { try await stale.stream(hello).text() }] {
            #expect(error.code == "token_expired" && error.advice == .signIn)
        }
    }

    @Test("A limit arrives as a paywall, and a crowd as a wait")
    func refusals() async throws {
        let once = World.newUser("once")
        _ = try await once.chat(hello)
        for error in [try await failure { try await once.chat(hello) }, try await failure { try await once.stream(hello).text() }] {
            #expect(error.advice == .paywall && error.plan == "once" && error.status == 402)
            #expect(error.limit?.per == "lifetime" && error.limit?.used.value == 1 && error.limit?.resetsAt == nil)
        }
        let narrow = World.newUser("narrow")
        var long = narrow.stream([.user("[[pace=100]]")]).makeAsyncIterator()
        _ = try await long.next()
        let crowd = try await failure { try await narrow.chat(hello) }
        #expect(crowd.code == "too_many_concurrent")
        if case .wait(let seconds) = crowd.advice { #expect(seconds > 0) } else { Issue.record("\(crowd.advice)") }
    }

    @Test("On a network that breaks off, every answer is had whole and paid once", arguments: 0..<12)
    func phone(life: Int) async throws {
        let client = World.newUser(at: World.lost)
        let count = 1 + life * 3
        let question = [Message.user("[[words=\(count)]] [[pace=\(life % 5)]]")]
        var text = ""
        if life % 4 == 0 {
            text = try await retrying { try await client.chat(question, ChatOptions(idempotencyKey: "life-\(life)")).text }
        } else {
            text = try await client.stream(question).text()
        }
        #expect(text == World.words(count))
        let way = World.server!
        let same = TollgateClient(way, token: client.token)
        #expect(try await World.charged(same) == 1)
    }

    /// A whole answer gives up after two retries; the app goes on with the same key.
    private func retrying(_ work: () async throws -> String) async throws -> String {
        for _ in 0..<20 {
            do {
                return try await work()
            } catch let error as TollgateError where error.advice == .connection {
                continue
            }
        }
        throw TollgateError(code: "test", message: "never")
    }

    @Test("An app that was closed goes on with the ticket that it had stored")
    func closed() async throws {
        let client = World.newUser()
        let stream = client.stream([.user("[[words=20]] [[pace=10]]")])
        var stored = Data()
        for try await piece in stream {
            stored = try JSONEncoder().encode(stream.ticket)
            if piece.text.hasSuffix("word7") { break }
        }
        var seen: [String] = []
        for try await piece in client.resume(try JSONDecoder().decode(Ticket.self, from: stored)) { seen.append(piece.text) }
        #expect(seen.first?.hasSuffix("word7") == true)
        #expect(seen.last == World.words(20))
        #expect(try await World.charged(client) == 1)
    }

    @Test("A cancelled loop throws, and stop cuts the model off")
    func cancelled() async throws {
        let client = World.newUser()
        let stream = client.stream([.user("[[words=500]] [[pace=20]]")])
        let task = Task { try await stream.text() }
        while stream.ticket.events < 3 { try await Task.sleep(for: .milliseconds(10)) }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        try await stream.stop()
        #expect(try await World.charged(client) == 1)
    }

    @Test("An error in the middle of a stream throws, with what had come", arguments: ["error", "cut"])
    func broken(how: String) async throws {
        let error = try await failure { try await World.newUser().stream([.user("[[\(how)=3]]")]).text() }
        #expect(error.code == "upstream_error" && error.advice == .later)
        #expect(error.partialText == World.words(3))
    }

    @Test("Vectors come in the order of their texts; a prompt of the server is answered")
    func others() async throws {
        let client = World.newUser()
        #expect(try await client.embed(["one", "two"], dimensions: 2) == [[1, 0.5], [1, 0.5]])
        #expect(try await client.prompt("greet", ["name": "Ada"], hello).text == World.words(8))
        let wrong = try await failure { try await client.prompt("greet", [:], hello) }
        #expect(wrong.advice == .fault && wrong.param == "variables.name")
    }

    @Test("A picture and a sound arrive as their bytes; a picture that is asked for again under its key is paid once")
    func files() async throws {
        let client = World.newUser()
        let key = UUID().uuidString
        let picture = try await client.image("An otter with a hat", size: "1024x1024", quality: "low", idempotencyKey: key)
        #expect(picture.starts(with: [0x89, 0x50, 0x4E, 0x47]))
        #expect(try await client.image("An otter with a hat", size: "1024x1024", quality: "low", idempotencyKey: key) == picture)
        #expect(try await World.charged(client) == 1)
        #expect(try await client.speak("Good morning!", voice: "alloy") == Data(repeating: 0xFB, count: 4096))
        let large = try await failure { try await client.image("An otter", size: "4096x4096") }
        #expect(large.advice == .fault && large.param == "size")
    }

    @Test("A recording becomes text")
    func recording() async throws {
        let memo = FileManager.default.temporaryDirectory.appending(path: "memo-\(UUID().uuidString).wav")
        defer { try? FileManager.default.removeItem(at: memo) }
        try World.silence(seconds: 2).write(to: memo)
        #expect(try await World.newUser().transcribe(memo, language: "en") == "word1 word2")
        // A plan takes ten minutes, if it says nothing.
        try World.silence(seconds: 601).write(to: memo)
        let long = try await failure { try await World.newUser().transcribe(memo) }
        #expect(long.advice == .fault && long.param == "file")
    }

    @Test("A transaction that Apple did not sign is refused")
    func purchase() async throws {
        let error = try await failure { try await World.newUser().redeem("not.a.transaction") }
        #expect(error.status == 400 && error.param == "transaction")
    }
}
