import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// How requests are made, sent, sent again and read.
extension TollgateClient {
    func answer(_ path: String, _ body: [String: JSON], _ options: ChatOptions) async throws -> Answer {
        struct Completion: Decodable {
            struct Choice: Decodable {
                struct Text: Decodable { let content: String? }
                let message: Text
                let finishReason: String?
            }
            let choices: [Choice]
        }
        if let script { return try script.answer() }
        let request = try jsonRequest(path, body, key: options.idempotencyKey ?? UUID().uuidString, feature: options.feature)
        let (head, data) = try await whole(request)
        let choice = try JSONDecoder.tollgate.decode(Completion.self, from: data).choices.first
        return Answer(
            text: choice?.message.content ?? "", finishReason: choice?.finishReason,
            requestID: head.value(forHTTPHeaderField: "X-Request-Id") ?? "", data: data)
    }

    func stream(_ path: String, _ body: [String: JSON], _ options: ChatOptions) -> AnswerStream {
        let body = (try? JSONEncoder().encode(body.merging(["stream": true]) { $1 })) ?? Data()
        let key = options.idempotencyKey ?? UUID().uuidString
        return AnswerStream(client: self, ticket: Ticket(key: key, path: path, body: body, feature: options.feature))
    }

    func promptBody(_ variables: [String: String], _ messages: [Message]) throws -> [String: JSON] {
        var body = try ChatOptions().body(messages)
        body["variables"] = .object(variables.mapValues { .string($0) })
        return body
    }

    /// A stream's request, or the rest of its answer: with its head.
    func open(_ ticket: Ticket) async throws -> Exchange {
        if let script { return script.exchange(from: ticket.events) }
        guard let id = ticket.id else {
            let request = try request(
                ticket.path, method: "POST", type: "application/json", body: ticket.body, key: ticket.key, feature: ticket.feature)
            return try await send(request) { $0 }
        }
        let request = try request("api/answers/\(id)", [URLQueryItem(name: "after", value: String(ticket.events))])
        return try await send(request) { $0 }
    }

    func stop(_ id: String) async throws {
        if script != nil { return }
        _ = try await whole(request("api/answers/\(id)", method: "DELETE"))
    }

    func get<T: Decodable>(_ path: String, _ query: [URLQueryItem] = []) async throws -> T {
        try await decoded(request(path, query), as: T.self)
    }

    func post<T: Decodable>(_ path: String, _ body: [String: JSON], key: String? = nil) async throws -> T {
        try await decoded(jsonRequest(path, body, key: key ?? UUID().uuidString), as: T.self)
    }

    func decoded<T: Decodable>(_ request: URLRequest, as _: T.Type) async throws -> T {
        try JSONDecoder.tollgate.decode(T.self, from: await whole(request).1)
    }

    func whole(_ request: URLRequest) async throws -> (HTTPURLResponse, Data) {
        try await send(request) { ($0.head, try await $0.rest()) }
    }

    func jsonRequest(_ path: String, _ body: [String: JSON], key: String?, feature: String? = nil) throws -> URLRequest {
        try request(path, method: "POST", type: "application/json", body: JSONEncoder().encode(body), key: key, feature: feature)
    }

    func request(
        _ path: String, _ query: [URLQueryItem] = [], method: String = "GET", type: String? = nil, body: Data? = nil, key: String? = nil,
        feature: String? = nil
    ) throws -> URLRequest {
        var url = server.appending(path: path)
        if !query.isEmpty { url.append(queryItems: query) }
        var request = URLRequest(url: url)
        request.httpMethod = method
        request.httpBody = body
        // A whole answer may take the server two minutes, and is charged even if nobody waits.
        request.timeoutInterval = 130
        request.setValue(type, forHTTPHeaderField: "Content-Type")
        request.setValue(key, forHTTPHeaderField: "Idempotency-Key")
        request.setValue(feature, forHTTPHeaderField: "X-Tollgate-Feature")
        return request
    }

    /// Sends until there is an answer and it is read: once more with a fresh token, and at most twice again where nothing can
    /// be charged twice: a connection that was lost, and a 503 that asks for at most ten seconds.
    private func send<T>(_ request: URLRequest, _ read: (Exchange) async throws -> T) async throws -> T {
        var wanted = TokenWanted.current
        var retries = request.httpMethod == "POST" && request.value(forHTTPHeaderField: "Idempotency-Key") == nil ? 0 : 2
        while true {
            var request = request
            request.setValue("Bearer \(try await token(wanted))", forHTTPHeaderField: "Authorization")
            if let proof = try? await device?.token(for: self) { request.setValue(proof, forHTTPHeaderField: "X-Tollgate-Device") }
            do {
                return try await read(attempt(request))
            } catch let error as TollgateError {
                if error.code == "token_expired", wanted == .current {
                    wanted = .fresh
                    continue
                }
                let isPatient = error.status == 503 && error.seconds.map { $0 <= 10 } ?? false
                guard retries > 0, error.advice == .connection || isPatient else { throw error }
                retries -= 1
                try await Task.sleep(for: error.seconds.map { .seconds($0) } ?? .milliseconds(250))
            }
        }
    }

    private func attempt(_ request: URLRequest) async throws -> Exchange {
        let exchange: Exchange
        do {
            exchange = try await Transport.shared.open(request)
        } catch {
            try Task.checkCancellation()
            throw TollgateError.lost(error)
        }
        let head = exchange.head
        if (200..<300).contains(head.statusCode) { return exchange }
        let usual = TollgateError(
            code: head.value(forHTTPHeaderField: "X-Tollgate-Error") ?? "http_\(head.statusCode)",
            message: HTTPURLResponse.localizedString(forStatusCode: head.statusCode), status: head.statusCode,
            requestID: head.value(forHTTPHeaderField: "X-Request-Id"), seconds: head.value(forHTTPHeaderField: "Retry-After").flatMap { Int($0) })
        throw TollgateError.parsed((try? await exchange.rest()) ?? Data(), otherwise: usual)
    }
}

/// A form with one file, as `multipart/form-data` has it (RFC 7578).
struct Form {
    let type: String
    private(set) var data = Data()

    init(file: URL, fields: [String: String?]) throws {
        let boundary = "tollgate-\(UUID().uuidString)"
        type = "multipart/form-data; boundary=\(boundary)"
        for (name, value) in fields.sorted(by: { $0.key < $1.key }) {
            guard let value else { continue }
            data += Data("--\(boundary)\r\nContent-Disposition: form-data; name=\"\(name)\"\r\n\r\n\(value)\r\n".utf8)
        }
        let name = file.lastPathComponent.filter { $0 != "\"" && $0 != "\r" && $0 != "\n" }
        let head = "Content-Disposition: form-data; name=\"file\"; filename=\"\(name)\"\r\nContent-Type: application/octet-stream"
        data += Data("--\(boundary)\r\n\(head)\r\n\r\n".utf8) + (try Data(contentsOf: file)) + Data("\r\n--\(boundary)--\r\n".utf8)
    }
}

/// What a scripted client says.
struct Script: Sendable {
    let pieces: [String]
    let error: TollgateError?
    let me: Data?

    func answer() throws -> Answer {
        if let error { throw error }
        return Answer(text: pieces.joined(), finishReason: "stop", requestID: "scripted", data: Data())
    }

    func exchange(from event: Int) -> Exchange {
        let url = URL(string: "https://scripted.invalid")!
        let head = HTTPURLResponse(url: url, statusCode: 200, httpVersion: nil, headerFields: ["X-Request-Id": "scripted"])!
        let (chunks, body) = AsyncThrowingStream<Data, any Error>.makeStream()
        let delta = { (text: String) in "{\"choices\": [{\"index\": 0, \"delta\": {\"content\": \(quoted(text))}}]}" }
        for data in (pieces.map(delta) + (error == nil ? ["[DONE]"] : [])).dropFirst(event) { body.yield(Data("data: \(data)\n\n".utf8)) }
        body.finish(throwing: error)
        return Exchange(head: head, task: nil, chunks: chunks)
    }

    private func quoted(_ text: String) -> String {
        String(decoding: (try? JSONEncoder().encode(text)) ?? Data(), as: UTF8.self)
    }
}
