import Foundation
import Testing
import TollgateUI

@testable import Tollgate

@Suite("Without a server")
struct AloneTests {
    @Test("A stream that arrives in pieces of any size says the same", arguments: 1...40)
    func pieces(size: Int) {
        let text = "Ünïcödé 🦀"
        let body = ": keep-alive\n\n" + text.map { "data: \($0)\n\n" }.joined() + "event: x\ndata:[DONE]\n\n"
        var (events, said): (Events, [String]) = (Events(), [])
        let bytes = Data(body.utf8)
        for start in stride(from: 0, to: bytes.count, by: size) {
            events.append(bytes[start..<min(start + size, bytes.count)])
            while let event = events.next() { said.append(event) }
        }
        #expect(said == text.map(String.init) + ["[DONE]"])
    }

    @Test("A limit in money and one in requests are read from an error")
    func limits() {
        let body = """
            {"error": {"message": "Used up.", "type": "insufficient_quota", "code": "quota_exceeded", "param": null, "plan": "free",
             "limit": {"per": "month", "unit": "cost_usd", "limit": "0.500000", "used": "0.250001", "held": "0.249999",
                       "requested": "0.000100", "resets_at": "2026-12-01T00:00:00Z"}}}
            """
        let error = TollgateError.parsed(Data(body.utf8), otherwise: .lost())
        #expect(error.advice == .paywall)
        #expect(error.limit?.used.value == Decimal(string: "0.250001"))
        #expect(error.limit?.fraction == 1)
        #expect(error.limit?.resetsAt == Date(timeIntervalSince1970: 1_796_083_200))
        #expect(error.plan == "free")
    }

    @Test("Every code has its advice, and an unknown one too")
    func advice() {
        func advice(_ code: String, _ seconds: Int? = nil) -> TollgateError.Advice {
            TollgateError(code: code, message: "", seconds: seconds).advice
        }
        #expect(advice("rate_limited", 7) == .wait(seconds: 7))
        #expect(advice("answer_gone", 3) == .wait(seconds: 3))
        #expect(advice("answer_gone") == .later)
        #expect(advice("anonymous_not_allowed") == .signUp)
        #expect(advice("made_up_tomorrow") == .later)
    }

    @Test("A scripted client answers, fails and shows a plan without a server")
    func scripted() async throws {
        let me = Data(
            """
            {"user": {"id": "6f1c0000-0000-4000-8000-000000000001", "email": null, "is_anonymous": false},
             "plan": {"name": "free", "source": "default", "period_ends_at": null}, "models": ["fast"], "max_output_tokens": 1024,
             "limits": [{"per": "day", "unit": "requests", "model": null, "limit": 20, "used": 3, "held": 1, "remaining": 16,
                         "resets_at": "2026-11-25T00:00:00Z"}]}
            """.utf8)
        let preview = TollgateClient.scripted(["Hel", "lo"], me: me)
        #expect(try await preview.chat(hello).text == "Hello")
        var seen: [String] = []
        for try await piece in preview.stream(hello) { seen.append(piece.text) }
        #expect(seen == ["Hel", "Hello"])
        #expect(try await preview.me().tightest?.fraction == 0.2)
        let broke = TollgateClient.scripted(["Hel"], error: TollgateError(code: "quota_exceeded", message: "Used up."))
        let error = try await failure { try await broke.stream(hello).text() }
        #expect(error.advice == .paywall && error.partialText == "Hel")
    }

    @Test("A conversation shows the answer, and the paywall")
    @MainActor
    func conversation() async {
        let good = Conversation(.scripted(["Hel", "lo"]), system: "Be brief.")
        good.send("Hi")
        #expect(good.isAnswering)
        await good.finished()
        #expect(good.messages.map(\.text) == ["Hi", "Hello"])
        #expect(!good.isAnswering && good.paywall == nil && good.problem == nil && good.ticket == nil)
        let bad = Conversation(.scripted([], error: TollgateError(code: "quota_exceeded", message: "Used up.")))
        bad.send("Hi")
        await bad.finished()
        #expect(bad.paywall?.code == "quota_exceeded")
        #expect(bad.messages.map(\.text) == ["Hi"])
    }

    @Test("A form has its fields and its file")
    func form() throws {
        let file = FileManager.default.temporaryDirectory.appending(path: "voice \"memo\".m4a")
        try Data([1, 2, 3]).write(to: file)
        let form = try Form(file: file, fields: ["model": "m", "language": nil])
        let text = String(decoding: form.data, as: UTF8.self)
        #expect(text.contains("name=\"model\"\r\n\r\nm\r\n"))
        #expect(text.contains("filename=\"voice memo.m4a\""))
        #expect(!text.contains("language"))
    }

    @Test("What the token provider throws arrives as it is")
    func signedOut() async {
        struct SignedOut: Error {}
        let out = TollgateClient(URL(string: "http://127.0.0.1:9")!) { _ in throw SignedOut() }
        await #expect(throws: SignedOut.self) { try await out.chat(hello) }
        await #expect(throws: SignedOut.self) { try await out.stream(hello).text() }
    }
}
