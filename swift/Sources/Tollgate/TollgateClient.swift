import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Which token is wanted: the one at hand, refreshed if it is old, or a new one, since the server says that the last has expired.
public enum TokenWanted: Sendable, Hashable {
    case current
    case fresh
}

/// Gives the user's access token.
public typealias TokenProvider = @Sendable (TokenWanted) async throws -> String

/// Says that the device is genuine.
public protocol DeviceProof: Sendable {
    /// A token for `X-Tollgate-Device`; nil goes on without.
    func token(for client: TollgateClient) async throws -> String?
}

/// A client of one Tollgate server for one user. It has no state but its settings: make one wherever you need it.
public struct TollgateClient: Sendable {
    /// The package's version, which is that of the server's release.
    public static let version = "0.1.0"

    let server: URL
    let resumeFor: Duration
    let token: TokenProvider
    let device: (any DeviceProof)?
    let script: Script?

    /// - Parameters:
    ///   - server: its address, such as `https://api.example.com`
    ///   - resumeFor: how long a lost stream is asked for again before its loop throws; `.zero` gives up at once
    ///   - device: proves that the device is genuine, where the server wants that
    ///   - token: gives the user's access token
    public init(_ server: URL, resumeFor: Duration = .seconds(600), device: (any DeviceProof)? = nil, token: @escaping TokenProvider) {
        self.init(server: server, resumeFor: resumeFor, token: token, device: device, script: nil)
    }

    init(server: URL, resumeFor: Duration, token: @escaping TokenProvider, device: (any DeviceProof)?, script: Script?) {
        self.server = server
        self.resumeFor = resumeFor
        self.token = token
        self.device = device
        self.script = script
    }

    /// A client without a server, for previews and tests: every chat answers with these pieces, and then fails if there is an error.
    ///
    /// - Parameter me: what `me()` says, as the server would write it
    public static func scripted(_ pieces: [String], error: TollgateError? = nil, me: Data? = nil) -> TollgateClient {
        let server = URL(string: "https://scripted.invalid")!
        return TollgateClient(
            server: server, resumeFor: .zero, token: { _ in "" }, device: nil, script: Script(pieces: pieces, error: error, me: me))
    }

    /// A whole answer.
    public func chat(_ messages: [Message], _ options: ChatOptions = .init()) async throws -> Answer {
        try await answer("api/chat", options.body(messages), options)
    }

    /// An answer that fits a JSON Schema, decoded.
    ///
    /// - Parameter schema: an object schema in which all members are required and others are forbidden, as OpenAI's strict mode wants it
    /// - Throws: `TollgateError` with the code `not_json` where it was cut short
    public func chat<T: Decodable & Sendable>(_ messages: [Message], as _: T.Type, schema: String, _ options: ChatOptions = .init()) async throws -> T
    {
        var options = options
        options.fit(try JSON(parsing: schema))
        let answer = try await chat(messages, options)
        do {
            return try JSONDecoder().decode(T.self, from: Data(answer.text.utf8))
        } catch {
            throw TollgateError(
                code: "not_json", message: "The answer does not fit: it ended with \(answer.finishReason ?? "nothing").", status: 200,
                requestID: answer.requestID, partialText: answer.text)
        }
    }

    /// An answer piece by piece. Nothing is sent before the loop over it begins.
    public func stream(_ messages: [Message], _ options: ChatOptions = .init()) -> AnswerStream {
        stream("api/chat", (try? options.body(messages)) ?? [:], options)
    }

    /// Goes on with an answer, in this or another run of the app.
    public func resume(_ ticket: Ticket) -> AnswerStream { AnswerStream(client: self, ticket: ticket) }

    /// A prompt that lives on the server, with its variables.
    public func prompt(_ name: String, _ variables: [String: String] = [:], _ messages: [Message] = []) async throws -> Answer {
        try await answer("api/prompts/\(name)", promptBody(variables, messages), .init())
    }

    /// The same piece by piece.
    public func streamPrompt(_ name: String, _ variables: [String: String] = [:], _ messages: [Message] = []) -> AnswerStream {
        stream("api/prompts/\(name)", (try? promptBody(variables, messages)) ?? [:], .init())
    }

    /// The user, the plan and what is left of it.
    public func me() async throws -> Me {
        if let script {
            guard let me = script.me else { throw TollgateError(code: "store_unavailable", message: "The script has no `me`.", status: 503) }
            return try JSONDecoder.tollgate.decode(Me.self, from: me)
        }
        return try await get("api/me")
    }

    /// The user's own usage, newest day first, both days included; all pages of it.
    public func usage(_ days: ClosedRange<Date>, in zone: TimeZone = .gmt) async throws -> [UsageRow] {
        struct Page: Decodable {
            let rows: [UsageRow]
            let next: String?
        }
        let format = Date.ISO8601FormatStyle(timeZone: zone).year().month().day()
        var (rows, cursor): ([UsageRow], String?) = ([], nil)
        repeat {
            var query = [URLQueryItem(name: "from", value: days.lowerBound.formatted(format))]
            query.append(URLQueryItem(name: "to", value: days.upperBound.formatted(format)))
            if let cursor { query.append(URLQueryItem(name: "cursor", value: cursor)) }
            let page: Page = try await get("api/usage", query)
            rows += page.rows
            cursor = page.next
        } while cursor != nil
        return rows
    }

    /// A picture, as the bytes of its file.
    ///
    /// - Parameter idempotencyKey: names the request, so that it is charged once however often it is sent; made up where it is nil
    public func image(
        _ prompt: String, model: String? = nil, size: String? = nil, quality: String? = nil, idempotencyKey: String? = nil
    ) async throws -> Data {
        struct Pictures: Decodable {
            struct Picture: Decodable { let b64Json: String? }
            let data: [Picture]
        }
        var body: [String: JSON] = ["prompt": .string(prompt)]
        body["model"] = model.map { .string($0) }
        body["size"] = size.map { .string($0) }
        body["quality"] = quality.map { .string($0) }
        let pictures: Pictures = try await post("v1/images/generations", body, key: idempotencyKey)
        return pictures.data.first?.b64Json.flatMap { Data(base64Encoded: $0) } ?? Data()
    }

    /// What was said in a recording.
    ///
    /// - Parameter idempotencyKey: as for `image`
    public func transcribe(_ file: URL, model: String? = nil, language: String? = nil, idempotencyKey: String? = nil) async throws -> String {
        struct Text: Decodable { let text: String }
        let form = try Form(file: file, fields: ["model": model, "language": language])
        let key = idempotencyKey ?? UUID().uuidString
        let request = try request("v1/audio/transcriptions", method: "POST", type: form.type, body: form.data, key: key)
        return try await decoded(request, as: Text.self).text
    }

    /// A text read aloud: the bytes of a sound file.
    public func speak(_ text: String, voice: String, model: String? = nil, format: String? = nil) async throws -> Data {
        var body: [String: JSON] = ["input": .string(text), "voice": .string(voice)]
        body["model"] = model.map { .string($0) }
        body["response_format"] = format.map { .string($0) }
        return try await whole(jsonRequest("v1/audio/speech", body, key: UUID().uuidString)).1
    }

    /// A vector for each text, in their order.
    public func embed(_ texts: [String], model: String? = nil, dimensions: Int? = nil) async throws -> [[Float]] {
        struct Vectors: Decodable {
            struct Vector: Decodable {
                let index: Int
                let embedding: [Float]
            }
            let data: [Vector]
        }
        var body: [String: JSON] = ["input": .array(texts.map { .string($0) })]
        body["model"] = model.map { .string($0) }
        body["dimensions"] = dimensions.map { .number(Double($0)) }
        let vectors: Vectors = try await post("v1/embeddings", body)
        return vectors.data.sorted { $0.index < $1.index }.map(\.embedding)
    }

    /// Tells the server of a StoreKit 2 transaction (`jwsRepresentation`). What comes back has the plan that it gives.
    public func redeem(_ signedTransaction: String) async throws -> Me {
        try await decoded(jsonRequest("api/purchases", ["transaction": .string(signedTransaction)], key: nil), as: Me.self)
    }
}
